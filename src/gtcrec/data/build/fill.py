"""The content of a folder that is built: each matrix is added when it is complete, so that a kill costs a batch."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.data.features.provenance import Encoded
from gtcrec.runtime.block_jobs import Executor
from gtcrec.runtime.files import check_manifest, write_manifest

__all__ = ["fill", "missing"]

OnMatrix = Callable[[str, Encoded | None], None]
"""What is called before a matrix is made, with its name, and after it, with what became of it."""


def missing(folder: Path, wanted: Mapping[str, EncodeConfig]) -> list[str]:
    """Return which of the wanted matrices the folder's manifest does not name; raises `DataError` for damage."""
    files = check_manifest(folder)["files"]
    return [name for name in wanted if _file(name) not in files]


def fill(
    folder: Path,
    wanted: Mapping[str, EncodeConfig],
    executor: Executor | None = None,
    on_matrix: OnMatrix = lambda name, found: None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Encode the columns of `items.parquet` that a config names into `NAME_feat.npy`, those that are not there yet.

    The manifest is renewed after each. Raises what `encode` raises.
    """
    for name in missing(folder, wanted):
        on_matrix(name, None)
        out = folder / _file(name)
        found = encode(folder / "items.parquet", out, wanted[name], executor=executor, on_block=on_block)
        facts = check_manifest(folder)
        made = [one.name for one in folder.glob(f"{out.stem}.*") if one.is_file()]
        write_manifest(folder, [*facts.pop("files"), *made], facts)
        on_matrix(name, found)


def _file(name: str) -> str:
    return f"{name}_feat.npy"
