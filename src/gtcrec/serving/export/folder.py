"""A folder of exports, each of which is a kind of file that other programs read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gtcrec.errors import ConfigError, nearest
from gtcrec.runtime.files import new_folder, write_manifest, write_text
from gtcrec.serving.export.list_files import write_lists
from gtcrec.serving.export.model_card import model_card
from gtcrec.serving.export.onnx_scorer import write_scorer
from gtcrec.serving.export.vector_files import write_index, write_vectors
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel

__all__ = ["KINDS", "ExportOptions", "export_model"]

KINDS = ("vectors", "index", "lists", "onnx", "card")


@dataclass(frozen=True)
class ExportOptions:
    """How exports are written; `request` is what every user's list is asked for."""

    vector_format: Literal["npy", "parquet"] = "npy"
    list_format: Literal["trec", "csv"] = "trec"
    request: ListRequest = field(default_factory=ListRequest)
    license: str = ""


_DEFAULT = ExportOptions()


def export_model(
    run: str | Path,
    out: str | Path,
    kinds: Sequence[str],
    options: ExportOptions = _DEFAULT,
    *,
    data: str | None = None,
    device: str | None = None,
) -> list[str]:
    """Write a trained model for other programs.

    Parameters
    ----------
    run : path
        A finished run folder. A folder of `Recommender.save` will do, but has no model card.
    out : path
        A new or empty folder. It is there as a whole or not at all, with a manifest of sha256 sums.
    kinds : sequence of str
        Of `vectors`, `index` (faiss), `lists`, `onnx` and `card`.
    options : ExportOptions
    data : str, optional
        Where the data of a run of version 0.1 lie now.
    device : str, optional

    Returns
    -------
    list of str
        The names of the files, but for the manifest's.

    Raises
    ------
    ConfigError
        For an unknown kind, or a library that is not installed.
    RunError
        For vectors, an index or ONNX of a model whose scores are no inner products; for a run that has not ended.
    DataError
        For a folder in use, or an id that a format cannot hold.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> shop = gtcrec.data.write_catalog(folder / "shop", n_users=60, n_items=40)
    >>> run = gtcrec.train(shop, "bpr", folder / "run", embedding_dim=8, epochs=1)
    >>> export_model(run.folder, folder / "out", ["vectors", "card"])
    ['README.md', 'item_ids.json', 'item_vectors.npy', 'user_ids.json', 'user_vectors.npy']
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"unknown export {kind!r}{nearest(kind, KINDS)}; expected some of {', '.join(KINDS)}")
    if not kinds:
        raise ConfigError(f"expected some of {', '.join(KINDS)}, found none")
    run, writers = Path(run), _writers(options)
    card = model_card(run, options.license) if "card" in kinds else ""
    only_card = set(kinds) == {"card"}
    with new_folder(Path(out)) as folder:
        model = None if only_card else TrainedModel.load(run, data, device)
        for kind in dict.fromkeys(kinds):
            if model is not None and kind != "card":
                writers[kind](model, folder)
        if card:
            write_text(folder / "README.md", card)
        names = sorted(path.name for path in folder.iterdir())
        write_manifest(folder, names)
    return names


def _writers(options: ExportOptions) -> dict[str, Callable[[TrainedModel, Path], None]]:
    return {
        "vectors": lambda model, folder: write_vectors(model, folder, options.vector_format),
        "index": write_index,
        "lists": lambda model, folder: write_lists(model, folder, options.list_format, options.request),
        "onnx": write_scorer,
    }
