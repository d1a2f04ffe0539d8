"""Files and settings with bytes put in, left out or changed: a reader takes them, or raises an error of ours."""

import io
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from chaos.stage import Tally
from gtcrec.data import load
from gtcrec.data.features.images import open_image
from gtcrec.data.synthetic.rendering import encode_png
from gtcrec.errors import GtcrecError
from gtcrec.evaluation.trec import read_mmrec_lists, read_trec_run
from gtcrec.experiments.benchmark.plan import read_file
from gtcrec.experiments.config import load_config
from gtcrec.experiments.tuning.space import resolve_space
from gtcrec.runtime.files import check_manifest, write_manifest
from gtcrec.runtime.yaml_reader import parse_yaml
from gtcrec.serving.item_filters import matching_items, parse_filter
from gtcrec.training import checkpoint
from helpers.hostile import table_bytes

WORDS = (
    *(b"NaN", b"1e999", b"9" * 309, b"\xff", b"\x00", b'"', b"{", b"[" * 200, b"\\ud83d", b"\n", b",", b"\t", b": "),
    *(b"&a ", b"*a", b"2020-01-01", b"!!set", b"\x1b[2J", b"- ", b"\xed\xa0\x80", b"1" * 5000),
    *(b"-1", b"18446744073709551616", b"null", b"true", b"<<: *a", b"\r\n", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"'"),
    *(b"(" * 60, b" not ", b" in ()", b"..", b"/", b"\\", b":token", b"0x1p-2", b"1_000", b"\x85", b"\xe2\x80\xa8"),
)
YAML = b"data: {path: shop}\nmodel: bpr\nseed: 3\nepochs: 10\nsplit.ratios: [0.8, 0.1, 0.1]\n"
CONFIG = b"model: bpr\nsettings: {embedding_dim: 8, reg: 1e-4}\ntrain: {epochs: 10, seed: 3, learning_rate: 0.01}\n"
PLAN = b"data: {shop: shop}\nmodels: {popular: , bpr: {settings: {embedding_dim: 8}}}\nseeds: [0]\nbase: popular\n"
SPACE = b"embedding_dim: [8, 16]\ntrain.learning_rate: [0.001, 1e-2]\nreg: [0, .1]\n"
FILTER = b"kind = 'mug' and (price < 50 or not since >= '2020-01-01') and brand in ('a', 'b') and title like 'B%'"
ITEMS = b'item_id,title,price\nx,Mug,3.5\ny,"Lamp, red",\nz,Box,1e3\n'
INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\na\tx\t1\t3\na\ty\t2\t4\nb\tx\t3\t5\n"
MMREC = b"userID\titemID\tx_label\n0\t0\t0\n0\t1\t1\n0\t2\t2\n1\t0\t0\n1\t2\t0\n"
TREC = b"a Q0 x 1 3.5 run\na Q0 y 2 2.5 run\nb Q0 y 1 1e-3 run\n"
LISTS = b"id\ttop_0\ttop_1\n0\t0\t1\n1\t1\t0\n"
LONGEST = 5000  # letters of an error
SHOP = pa.table(
    {"kind": ["mug", None], "price": [9.0, 70.0], "brand": ["a", "c"], "title": ["B", "x"], "since": [None, None]},
    schema=pa.schema(
        [("kind", "string"), ("price", "float64"), ("brand", "string"), ("title", "string"), ("since", "date32")]
    ),
)

Reader = Callable[[Path, bytes], object]


def matrix_bytes() -> bytes:
    """Return a matrix of content for two items as a file."""
    stream = io.BytesIO()
    np.save(stream, np.ones((2, 3), np.float32))
    return stream.getvalue()


def mutate(whole: bytes, draw: random.Random) -> bytes:
    """Return the bytes with one to four places changed."""
    found = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        start = draw.randint(0, len(found))
        new = draw.choice(WORDS) if draw.random() < 0.5 else draw.randbytes(draw.randint(0, 6))
        if draw.random() < 0.1:
            other = draw.randint(0, len(found))
            new = bytes(found[other : other + draw.randint(0, 80)])
        found[start : start + draw.randint(0, 8)] = new
    return bytes(found)


def table_reader(name: str, *beside: tuple[str, bytes]) -> Reader:
    """Return a reader of data whose file of this name is hostile; with files `beside` it, their folder is read."""

    def read(folder: Path, content: bytes) -> object:
        for other, whole in beside:
            (folder / other).write_bytes(whole)
        (folder / name).write_bytes(content)
        return load(folder if beside else folder / name)

    return read


def file_reader(name: str, read: Callable[[Path], object]) -> Reader:
    """Return a reader of one hostile file."""

    def read_bytes(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return read_bytes


def read_yaml(folder: Path, content: bytes) -> object:
    return parse_yaml(content.decode("utf-8", "replace"), "settings.yaml")


def read_words(folder: Path, content: bytes) -> object:
    return load_config("shop", "bpr", assignments=content.decode("utf-8", "surrogateescape").split(" "))


def read_filter(folder: Path, content: bytes) -> object:
    return matching_items(SHOP, parse_filter(content.decode("utf-8", "replace"), SHOP.schema))


def read_image(folder: Path, content: bytes) -> object:
    return np.asarray(open_image(content))


def read_sealed(folder: Path, content: bytes) -> object:
    (folder / "manifest.json").write_bytes(content)
    return check_manifest(folder)


@cache
def catalog() -> Any:
    """Return a data set of two users and two items."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "acts.csv").write_text("user,item\na,x\na,y\nb,x\n")
        return load(Path(name) / "acts.csv")


def _bytes_of(write: Callable[[Path], object], name: str) -> bytes:
    """Return the file that `write` makes in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / name)
        return (Path(place) / name).read_bytes()


def targets() -> dict[str, tuple[bytes, Reader]]:
    """Return the readers by name, each with a file that it takes."""
    kinds = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")
    tables = {f"a table, .{kind}": (table_bytes(kind), table_reader(f"interactions.{kind}")) for kind in kinds}
    acts = ("interactions.csv", b"user,item\na,x\nb,y\n")
    saved = _bytes_of(lambda path: checkpoint.save(path, {"w": torch.ones(3)}, {"history": []}), "c.safetensors")
    manifest = _bytes_of(lambda path: write_manifest(path.parent, []), "manifest.json")
    base = load_config("shop", "bpr")
    return tables | {
        "a matrix of content, .npy": (matrix_bytes(), table_reader("text_feat.npy", acts)),
        "items beside interactions, .csv": (ITEMS, table_reader("items.csv", acts)),
        "a RecBole table, .inter": (INTER, table_reader("shop.inter")),
        "an MMRec folder, .inter": (MMREC, table_reader("shop.inter", ("item_mapping.csv", b"asin,itemID\nx,0\n"))),
        "lists, TREC": (TREC, file_reader("lists.trec", lambda path: read_trec_run(path, catalog()))),
        "lists, MMRec": (LISTS, file_reader("lists.csv", lambda path: read_mmrec_lists(path, catalog()))),
        "YAML": (YAML, read_yaml),
        "a configuration": (CONFIG, file_reader("config.yaml", lambda path: load_config("shop", "bpr", path))),
        "KEY=VALUE words": (b"embedding_dim=8 train.epochs=3 seed=1 learning_rate=1e-3 preset=default", read_words),
        "a benchmark's plan": (PLAN, file_reader("plan.yaml", read_file)),
        "a search space": (SPACE, file_reader("space.yaml", lambda path: resolve_space(base, (), path))),
        "a filter of items": (FILTER, read_filter),
        "a manifest": (manifest, read_sealed),
        "a checkpoint": (saved, file_reader("c.safetensors", checkpoint.load)),
        "an image, .png": (encode_png(np.full((8, 8, 3), 99, np.uint8)), read_image),
    }


class InputFolder:
    """A folder in memory, if there is one, that hostile files are put into; a context."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder)

    def try_input(self, whole: bytes, read: Reader, draw: random.Random, tally: Tally) -> None:
        """Let a reader read mutated files, a hundred of them."""
        place = self.folder / str(sum(tally.target.encode()))
        place.mkdir(exist_ok=True)
        for _ in range(100):
            content = mutate(whole, draw)
            tally.tried += 1
            try:
                read(place, content)
            except GtcrecError as error:
                if "\n" in str(error) or len(str(error)) > LONGEST:
                    said = f"an error of several lines, or a long one: {str(error)[:200]!r}"
                    tally.failures.append(f"{content[:3000]!r}: {said}")
            except Exception as error:  # whatever else comes is what is looked for
                tally.failures.append(f"{content[:3000]!r}: {type(error).__name__}: {str(error)[:200]}")
