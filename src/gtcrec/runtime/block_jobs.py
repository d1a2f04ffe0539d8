"""Work that goes block by block through a table: each block's result is a file of its own until all are there.

A stage is a pure function of a block, so a result does not depend on who computes it, and a killed job goes on
behind the blocks that are complete.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import pyarrow as pa

from gtcrec.errors import ConfigError, DataError, GtcrecError, RunError, WriteError
from gtcrec.runtime.files import atomic_path, make_folder, sweep_stale, temporary_path, write_text, writing
from gtcrec.runtime.locks import hold_lock
from gtcrec.runtime.ray_session import ray_session

__all__ = [
    "BlockFn",
    "BlockFnFactory",
    "BlockResults",
    "Executor",
    "Local",
    "RayData",
    "choose_executor",
    "run_in_blocks",
]

BlockFn = Callable[[pa.Table], pa.Table]
"""What is done to a block of rows; a pure function."""

BlockFnFactory = Callable[[], BlockFn]
"""Makes the stage, once in each worker; must travel to another process where the executor uses some."""

_DIGEST_BYTES = 32  # bytes of the sha256 sum that precedes a block's rows in its file
_ERRORS = {one.__name__: one for one in (ConfigError, DataError, GtcrecError, RunError, WriteError)}
_MAX_ATTEMPTS = 3  # after which a block is to blame for its workers' deaths
_T = TypeVar("_T")


class Executor(Protocol):
    """Who computes the blocks."""

    def run(self, make: BlockFnFactory, blocks: Mapping[int, pa.Table], folder: Path) -> Iterator[int]:
        """Write the stage's result for each block into `folder`, yielding a block's number when its file is there."""
        ...


@dataclass(frozen=True)
class Local:
    """This process, one block after the other."""

    def run(self, make: BlockFnFactory, blocks: Mapping[int, pa.Table], folder: Path) -> Iterator[int]:
        stage = make()
        for number, block in blocks.items():
            _write_block(folder, number, stage(block))
            yield number


@dataclass(frozen=True)
class RayData:
    """`workers` processes, by Ray Data: on this machine, or on the cluster at `address`.

    On a cluster, `folder` and all that the stage reads must lie at the same path on every machine. A worker
    that dies is replaced and its block done again. `gpus` is what a worker needs of them.
    """

    workers: int
    address: str | None = None
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, found {self.workers}")

    def run(self, make: BlockFnFactory, blocks: Mapping[int, pa.Table], folder: Path) -> Iterator[int]:
        for old in folder.glob("*.tries"):
            old.unlink()
        with ray_session(self.address, self.workers), _silence_ray_data():
            import ray

            rows = [
                pa.table({"number": [number], "block": [bytes(_table_to_bytes(block))]})
                for number, block in blocks.items()
            ]
            done = ray.data.from_arrow(rows).map_batches(
                _BlockWorker,
                fn_constructor_args=(make, folder.resolve()),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(blocks))),
                num_cpus=1,
                num_gpus=self.gpus,
            )
            for row in done.iter_rows():
                if row["error"]:
                    raise _ERRORS[row["error"]](row["message"])
                yield row["number"]


def choose_executor(
    engine: Literal["local", "ray"], workers: int = 1, address: str = "", device: str = "cpu"
) -> Executor:
    """Return the executor of that name. Raises `ConfigError` for several workers without Ray."""
    if engine == "ray":
        return RayData(workers, address or None, gpus=int(device.startswith("cuda")))
    if workers > 1:
        raise ConfigError(f"--engine local is one process, found --workers {workers}; expected --engine ray")
    return Local()


@dataclass(frozen=True)
class BlockResults:
    """The blocks' results, in order; may be gone through more than once."""

    folder: Path
    count: int

    def __iter__(self) -> Iterator[pa.Table]:
        for number in range(self.count):
            table = _read_block(self.folder, number)
            if table is None:
                raise RunError(f"{_block_path(self.folder, number)}: missing or damaged; start the job again")
            yield table


def run_in_blocks(
    rows: pa.Table,
    size: int,
    make: BlockFnFactory,
    settings: Mapping[str, Any],
    out: Path,
    assemble: Callable[[BlockResults, Path], _T],
    executor: Executor | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> _T:
    """Put each `size` rows through the stage and make one file of the results; return what `assemble` returns.

    `assemble(results, path)` writes the file to a path that then becomes `out`. Until that, results lie in a hidden
    folder `.NAME.KEY.blocks` beside `out`, whose key is a sum over the rows, `size` and `settings`, which must name all
    else that decides the result. An equal call finds there what a killed one has done; a `DataError` of `assemble`
    removes it. Raises `ConfigError` when `out` is a folder, `InUseError` when another process makes it, `WriteError`
    when the disk or a permission refuses.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: expected the name of a file to write, found a folder")
    blocks = {number: rows.slice(start, size) for number, start in enumerate(range(0, len(rows), size))}
    key = _job_key(blocks.values(), size, settings)
    folder = out.with_name(f".{out.name}.{key[:12]}.blocks")
    with hold_lock(out), writing(out):
        sweep_stale(out.parent, out.name, alone=True)
        _remove_finished(out)
        _open_block_folder(folder, key)
        left = {number: block for number, block in blocks.items() if _read_block(folder, number) is None}
        done = len(blocks) - len(left)
        on_block(done, len(blocks))
        for _ in (executor or Local()).run(make, left, folder) if left else ():
            done += 1
            on_block(done, len(blocks))
        with atomic_path(out) as temporary:
            assembled = folder / "assembled"  # so that a kill leaves nothing outside the folder
            try:
                found = assemble(BlockResults(folder, len(blocks)), assembled)
            except DataError:  # the next call could but fail again
                shutil.rmtree(folder)
                raise
            write_text(folder / "made", _identity(assembled))
            assembled.replace(temporary)
        _remove_finished(out)
    return found


def _remove_finished(out: Path) -> None:
    """Remove the blocks that `out` was made of, also for a call that was killed before it could."""
    if not out.exists():
        return
    for folder in list(out.parent.iterdir()):
        made = folder / "made"
        named = folder.name.startswith(f".{out.name}.") and folder.name.endswith(".blocks")
        if named and made.is_file() and made.read_text(encoding="utf-8") == _identity(out):
            folder.replace(temporary_path(out))  # under a name that is swept if a kill comes now
            shutil.rmtree(temporary_path(out))


def _identity(file: Path) -> str:
    """Return what a file keeps when it is renamed, and another one does not have."""
    status = file.stat()
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


class _BlockWorker:
    """A Ray worker: makes the stage when the first block comes, so that an error in making it is reported as one."""

    def __init__(self, make: BlockFnFactory, folder: Path) -> None:
        self.make, self.folder = make, folder
        self.stage: BlockFn | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        number, kind, message = batch["number"][0].as_py(), "", ""
        try:
            with self._count_attempts(number):
                self.stage = self.stage or self.make()
                _write_block(self.folder, number, self.stage(_table_from_bytes(batch["block"][0].as_buffer())))
        except GtcrecError as error:
            kind, message = type(error).__name__, str(error)
        return pa.table({"number": [number], "error": [kind], "message": [message]})

    @contextmanager
    def _count_attempts(self, number: int) -> Iterator[None]:
        """Count on disk the workers that a block kills: Ray by itself would go on with it for ever."""
        tries = self.folder / f"{number:06d}.tries"
        with tries.open("a") as stream:
            stream.write(".")
        try:
            if tries.stat().st_size > _MAX_ATTEMPTS:
                raise RunError(f"block {number}: {_MAX_ATTEMPTS} workers died over it, for lack of memory perhaps")
            yield
        finally:
            tries.unlink()


@contextmanager
def _silence_ray_data() -> Iterator[None]:
    """Keep Ray Data from writing about its progress to the terminal."""
    from ray.data import DataContext

    context, log = DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


def _job_key(blocks: Iterable[pa.Table], size: int, settings: Mapping[str, Any]) -> str:
    """Return a sum over all that decides the results."""
    about = {"gtcrec": importlib.metadata.version("gtcrec"), "size": size, **settings}
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for block in blocks:
        total.update(_table_to_bytes(block))
    return total.hexdigest()


def _open_block_folder(folder: Path, key: str) -> None:
    """Make the folder of blocks, or go on with the one of this key."""
    label = folder / "key"
    if label.is_file() and label.read_text(encoding="utf-8") == key:
        sweep_stale(folder, alone=True)
        return
    if folder.exists():  # killed before its key was written
        shutil.rmtree(folder)
    make_folder(folder)
    write_text(label, key)


def _block_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.block"


def _write_block(folder: Path, number: int, table: pa.Table) -> None:
    body = _table_to_bytes(table)
    with atomic_path(_block_path(folder, number)) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(body).digest())
        stream.write(body)


def _read_block(folder: Path, number: int) -> pa.Table | None:
    """Return a block's result, or None where there is none that is whole."""
    try:
        content = memoryview(_block_path(folder, number).read_bytes())
    except FileNotFoundError:
        return None
    whole = hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]
    return _table_from_bytes(pa.py_buffer(content[_DIGEST_BYTES:])) if whole else None


def _table_to_bytes(table: pa.Table) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def _table_from_bytes(body: Any) -> pa.Table:
    return pa.ipc.open_stream(body).read_all()
