"""Files and settings with bytes put in, left out or changed: a reader takes them, or raises an error of ours."""

import io
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chaos.stage import Tally
from gtcrec.data import load
from gtcrec.errors import GtcrecError
from gtcrec.experiments.config import load_config
from gtcrec.runtime.yaml_reader import parse_yaml
from helpers.hostile import table_bytes

WORDS = (
    *(b"NaN", b"1e999", b"9" * 309, b"\xff", b"\x00", b'"', b"{", b"[" * 200, b"\\ud83d", b"\n", b",", b"\t", b": "),
    *(b"&a ", b"*a", b"2020-01-01", b"!!set", b"\x1b[2J", b"- ", b"\xed\xa0\x80", b"1" * 5000),
)
YAML = b"data: {path: shop}\nmodel: bpr\nseed: 3\nepochs: 10\nsplit.ratios: [0.8, 0.1, 0.1]\n"
LONGEST = 5000  # letters of an error


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
        found[start : start + draw.randint(0, 8)] = new
    return bytes(found)


def read_table(kind: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> object:
        path = folder / f"interactions.{kind}"
        path.write_bytes(content)
        return load(path)

    return read


def read_matrix(folder: Path, content: bytes) -> object:
    (folder / "interactions.csv").write_text("user,item\na,x\nb,y\n")
    (folder / "text_feat.npy").write_bytes(content)
    return load(folder)


def read_yaml(folder: Path, content: bytes) -> object:
    return parse_yaml(content.decode("utf-8", "replace"), "settings.yaml")


def read_config(folder: Path, content: bytes) -> object:
    path = folder / "config.yaml"
    path.write_bytes(content)
    return load_config("shop", "bpr", path)


Reader = Callable[[Path, bytes], object]


def targets() -> dict[str, tuple[bytes, Reader]]:
    """Return the readers by name, each with a file that it takes."""
    kinds = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")
    tables = {f"a table, .{kind}": (table_bytes(kind), read_table(kind)) for kind in kinds}
    matrix = {"a matrix of content, .npy": (matrix_bytes(), read_matrix)}
    return tables | matrix | {"YAML": (YAML, read_yaml), "a configuration": (YAML, read_config)}


def try_input(whole: bytes, read: Reader, draw: random.Random, tally: Tally) -> None:
    """Let a reader read a mutated file."""
    content = mutate(whole, draw)
    tally.tried += 1
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        try:
            read(Path(name), content)
        except GtcrecError as error:
            if "\n" in str(error) or len(str(error)) > LONGEST:
                tally.failures.append(
                    f"{content[:200]!r}: an error of several lines, or a long one: {str(error)[:200]}"
                )
        except Exception as error:  # whatever else comes is what is looked for
            tally.failures.append(f"{content[:200]!r}: {type(error).__name__}: {str(error)[:200]}")
