"""Damage to one file of a run or of a data folder: a reader gives the same answer, or an error of ours.

Of a forged file, whose folder's manifest has its sum, a reader may give another answer; what else it raises is ours.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.inputs import LONGEST, mutate
from chaos.stage import Stage, Tally, run_whole
from gtcrec.data import load
from gtcrec.errors import GtcrecError
from gtcrec.experiments.run import Run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import MANIFEST, OWN_SUM, renew_manifest
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

    def forge(self, draw: random.Random, tally: Tally) -> None:
        """Change what one file says, seal the folder again, and try all readers."""
        file = draw.choice(self.files)
        sealed = {one: one.read_bytes() for one in (file, self.folder / MANIFEST)}
        forged = forge_json(sealed[file], draw) if file.suffix == ".json" else mutate(sealed[file], draw)
        file.write_bytes(forged)
        if file.name != MANIFEST:
            renew_manifest(self.folder, [str(file.relative_to(self.folder))])
        tally.tried += 1
        for name, read in self.readers.items():
            try:
                read(self.folder)
            except GtcrecError as error:
                if "\n" in str(error) or len(str(error)) > LONGEST:
                    tally.failures.append(f"{file.name}: {name}: an error of several lines, or a long one: {error}")
            except Exception as error:  # whatever else comes is what is looked for
                what = f"{type(error).__name__}: {error}"
                tally.failures.append(f"{file.name}: {name}: {what[:300]}: {forged[:1500]!r}")
        for one, content in sealed.items():
            one.write_bytes(content)


ODD = (
    None,
    True,
    -1,
    0,
    1e308,
    2**70,
    "",
    "x",
    "../../x",
    "\x1b[2J\n",
    [],
    {},
    [[[]]],
    {"a": 1},
    "9" * 400,
    1.5,
    [1, "a"],
)


def forge_json(content: bytes, draw: random.Random) -> bytes:
    """Return JSON in which one value is another, is left out, or stands under another name."""
    value = json.loads(content)
    value.pop(OWN_SUM, None)  # as manifests of earlier versions, which are believed without
    place: Any = value
    while isinstance(place, (dict, list)) and place:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.25:
            kind = draw.choice(("other", "other", "other", "gone", "renamed"))
            if kind == "other":
                place[key] = draw.choice(ODD)
            elif kind == "gone":
                del place[key]
            elif isinstance(place, dict):
                place[f"{key}x"] = place.pop(key)
            break
        place = place[key]
    return json.dumps(value).encode()


def damaged_folders(stage: Stage) -> dict[str, Damaged]:
    """Return what is damaged, by name: an evaluated run, and a built data folder."""

    tables = ["--items", str(stage.shop / "items.csv"), "--interactions", str(stage.shop / "interactions.csv")]
    built = stage.folder / "built"
    run_whole(["data", "build", *tables, "tags=description", "core=0", "--out", str(built)])
    return {"an evaluated run": Damaged(stage.tested, RUN_READERS), "a built data folder": Damaged(built, DATA_READERS)}
