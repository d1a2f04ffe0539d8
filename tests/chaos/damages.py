"""Damage to one file of a run or of a data folder: a reader gives the same answer, or an error of ours."""

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from chaos.stage import Stage, Tally, run_whole
from gtcrec.data import load
from gtcrec.errors import GtcrecError
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.serving.recommender import Recommender

Readers = dict[str, Callable[[Path], object]]


def read_recommendations(folder: Path) -> object:
    """What a recommender of the run answers two users."""
    users = ["u0001", "u0042"]
    return Recommender.load(folder).recommend(users, k=5).to_pydict()


def read_figures(folder: Path) -> object:
    """What the run's record holds."""
    return read_run_record(folder).result.model_dump_json()


def read_training(folder: Path) -> object:
    """What a resumed training would start from."""
    run = Run.load(folder)
    return run.epochs_done, run.config.model_dump_json(), {k: v.sum().item() for k, v in run.model.state_dict().items()}


def read_data(folder: Path) -> object:
    """What identifies the data."""
    return load(folder).fingerprint


RUN_READERS: Readers = {"recommend": read_recommendations, "figures": read_figures, "resume": read_training}
DATA_READERS: Readers = {"data": read_data}


def damage_file(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return what is done, and the content after it."""
    place = draw.randrange(len(content)) if content else 0
    kind = draw.choice(["bit", "cut", "zeros", "swap", "append"])
    if kind == "bit" and content:
        return f"bit {place}", content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    if kind == "cut" and content:
        return f"cut at {place}", content[:place]
    if kind == "zeros" and content:
        end = min(place + draw.randrange(1, 513), len(content))
        return f"zeros from {place} to {end}", content[:place] + bytes(end - place) + content[end:]
    if kind == "swap":
        other = draw.randrange(len(content)) if content else 0
        return f"from {other} to the end put at {place}", content[:place] + content[other:]
    return "bytes put to the end", content + draw.randbytes(draw.randrange(1, 65))


class Damaged:
    """A folder whose files are damaged one at a time and made whole again."""

    def __init__(self, whole: Path, readers: Readers) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=whole.parent, prefix="damage-")) / whole.name
        shutil.copytree(whole, self.folder)
        self.files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        self.readers, self.right = readers, {name: read(self.folder) for name, read in readers.items()}

    def attack(self, draw: random.Random, tally: Tally) -> None:
        """Damage one file and try all readers."""
        file = draw.choice(self.files)
        content = file.read_bytes()
        what, damaged = damage_file(content, draw)
        if damaged == content:
            return
        file.write_bytes(damaged)
        tally.tried += 1
        for name, read in self.readers.items():
            try:
                if read(self.folder) != self.right[name]:
                    tally.failures.append(f"{file.name}, {what}: {name} gives another answer")
            except GtcrecError:
                pass
            except Exception as error:  # whatever else comes is what is looked for
                tally.failures.append(f"{file.name}, {what}: {name}: {type(error).__name__}: {error}")
        file.write_bytes(content)


def damaged_folders(stage: Stage) -> dict[str, Damaged]:
    """Return what is damaged, by name: an evaluated run, and a built data folder."""

    tables = ["--items", str(stage.shop / "items.csv"), "--interactions", str(stage.shop / "interactions.csv")]
    built = stage.folder / "built"
    run_whole(["data", "build", *tables, "tags=description", "core=0", "--out", str(built)])
    return {"an evaluated run": Damaged(stage.tested, RUN_READERS), "a built data folder": Damaged(built, DATA_READERS)}
