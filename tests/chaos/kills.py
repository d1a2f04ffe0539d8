"""SIGKILL at random moments over the commands that write: python tests/chaos/kills.py [SECONDS] [SEED].

Each round kills one command somewhere, looks whether everything can be read, and at the end does the command whole.
Prints for each command how often it was killed and what failed, and ends with 1 if anything did. `make chaos` runs it.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gtcrec.data import load, write_catalog
from gtcrec.errors import GtcrecError
from gtcrec.experiments.run_check import check_run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import MANIFEST, check_manifest

KILLS_A_ROUND = 3


@dataclass
class Attack:
    """A command that is killed, and the check of what it leaves, after a kill and at the end."""

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    check: Callable[[Path, bool], None]


@dataclass
class Tally:
    """What came of the attacks so far."""

    kills: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Stage:
    """A small shop and two runs on it that the attacks copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shop = write_catalog(folder / "shop", n_users=60, n_items=40, seed=1)
        self.trained = folder / "trained"
        run_command([*self.train(self.trained)])
        self.whole = {name: (self.trained / name).read_bytes() for name in ("history.jsonl", "model.safetensors")}

    def train(self, out: Path) -> list[str]:
        settings = ["embedding_dim=8", "batch_size=128", "epochs=6", "seed=3"]
        return ["resume", str(out)] if (out / "config.yaml").exists() else [
            "train", str(self.shop), "bpr", *settings, "--out", str(out)
        ]  # fmt: skip

    def attacks(self) -> list[Attack]:
        return [
            Attack("train, resume", lambda place: None, lambda place: self.train(place / "run"), self.check_training),
            Attack("evaluate", self.copy_run, lambda place: ["evaluate", str(place / "run")], self.check_evaluation),
            Attack("recommend", self.copy_run, self.recommend, self.check_lists),
            Attack("data encode", self.copy_shop, self.encode, self.check_data),
            Attack("data build", lambda place: None, self.build, self.check_build),
        ]

    def copy_run(self, place: Path) -> None:
        shutil.copytree(self.trained, place / "run")

    def copy_shop(self, place: Path) -> None:
        shutil.copytree(self.shop, place / "shop")

    def recommend(self, place: Path) -> list[str]:
        form = ["--all", "--format", "parquet", "--block-users", "7"]
        return ["recommend", str(place / "run"), *form, "--out", str(place / "lists" / "all.parquet")]

    def encode(self, place: Path) -> list[str]:
        out = place / "shop" / "text_feat.npy"
        return ["data", "encode", str(place / "shop" / "items.csv"), "tags=description", "--out", str(out)]

    def build(self, place: Path) -> list[str]:
        tables = ["--items", str(self.shop / "items.csv"), "--interactions", str(self.shop / "interactions.csv")]
        return ["data", "build", *tables, "tags=description", "core=0", "--out", str(place / "built")]

    def check_training(self, place: Path, ended: bool) -> None:
        run = place / "run"
        if run.exists():
            require(not [one for one in check_run(run) if one.harmful and "history" not in one.file], "harm in the run")
        if ended:
            for name, content in self.whole.items():
                require((run / name).read_bytes() == content, f"{name} differs from the unbroken run's")
            require(check_run(run) == [], "the run is not whole")

    def check_evaluation(self, place: Path, ended: bool) -> None:
        check_manifest(place / "run")
        result = read_run_record(place / "run").result
        require(result.test is not None or not ended, "no test figures")
        require(check_run(place / "run") == [] or not ended, "the run is not whole")

    def check_lists(self, place: Path, ended: bool) -> None:
        check_manifest(place / "run")
        names = [file.name for file in (place / "lists").iterdir()] if (place / "lists").exists() else []
        require(names == ["all.parquet"] or not ended, f"found {names}")

    def check_data(self, place: Path, ended: bool) -> None:
        load(place / "shop")
        hidden = [file.name for file in (place / "shop").iterdir() if file.name.startswith(".")]
        require(not hidden or not ended, f"left over: {hidden}")

    def check_build(self, place: Path, ended: bool) -> None:
        if (place / "built" / MANIFEST).exists() or ended:
            load(place / "built")
        names = [file.name for file in place.iterdir()]
        require(names == ["built"] or not ended, f"found {names}")


def require(holds: bool, otherwise: str) -> None:
    """Raise `GtcrecError` saying what is otherwise."""
    if not holds:
        raise GtcrecError(otherwise)


def run_command(words: list[str], kill_after: float | None = None) -> int:
    """Run `gtcrec` with these words and return its exit code; kill it after so many seconds if given."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "gtcrec", *words]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            return process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return process.wait()


def attack(one: Attack, place: Path, took: float, draw: random.Random, tally: Tally) -> None:
    """Kill a command some times at random moments, then do it whole; what is found goes to the tally."""
    place.mkdir()
    one.prepare(place)
    try:
        for _ in range(KILLS_A_ROUND):
            code = run_command(one.command(place), draw.uniform(0.3, 1.0) * took)
            if code == 0:
                break
            require(code == -signal.SIGKILL, f"exit code {code}")
            tally.kills[one.name] += 1
            one.check(place, False)
        else:
            code = run_command(one.command(place))
        require(code == 0, f"exit code {code} at the end")
        one.check(place, True)
        tally.whole[one.name] += 1
    except (GtcrecError, OSError) as error:
        tally.failures.append(f"{one.name}: {place}: {error}")


def main(seconds: float, seed: int) -> int:
    """Attack for so many seconds and print the tally; returns 1 if anything failed."""
    folder, draw, tally, took = Path(tempfile.mkdtemp(prefix="chaos-")), random.Random(seed), Tally(), {}
    stage, end, number = Stage(folder), time.monotonic() + seconds, 0
    while time.monotonic() < end or number < len(stage.attacks()):
        one = stage.attacks()[number % len(stage.attacks())]
        place = folder / str(number)
        if one.name not in took:
            (folder / "timed").mkdir()
            one.prepare(folder / "timed")
            start = time.monotonic()
            run_command(one.command(folder / "timed"))
            took[one.name] = time.monotonic() - start
            shutil.rmtree(folder / "timed")
        attack(one, place, took[one.name], draw, tally)
        number += 1
    found = {"seed": seed, "kills": tally.kills, "ended whole": tally.whole, "failures": tally.failures}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if not tally.failures:
        shutil.rmtree(folder)
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main(float((sys.argv[1:2] or ["600"])[0]), int((sys.argv[2:3] or ["0"])[0])))
