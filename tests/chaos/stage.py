"""A small shop, runs on it, and the commands that write: what the attacks copy, start and check."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gtcrec.data import load, write_catalog
from gtcrec.errors import GtcrecError
from gtcrec.experiments.run_check import check_run
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import MANIFEST, check_manifest

BENCHMARK = """
data: {shop: SHOP}
models: {popular: , bpr: {settings: {embedding_dim: 8}}}
seeds: [0]
base: popular
train: {epochs: 2, batch_size: 128}
"""


@dataclass
class Tally:
    """What came of one kind of attack on one target: how often it was tried, and each failure in words."""

    attack: str
    target: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Command:
    """A command that writes: what it needs, its words, and the check of what it leaves, midway and at its end."""

    name: str
    prepare: Callable[[Path], None]
    words: Callable[[Path], list[str]]
    check: Callable[[Path, bool], None]


class Stage:
    """A small shop and two runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shop = write_catalog(folder / "shop", n_users=60, n_items=40, seed=1)
        self.trained, self.tested = folder / "trained", folder / "tested"
        run_whole(self._train(self.trained))
        shutil.copytree(self.trained, self.tested)
        run_whole(["evaluate", str(self.tested)])
        self.whole = {name: (self.trained / name).read_bytes() for name in ("history.jsonl", "model.safetensors")}
        (folder / "toy").mkdir()
        lines = "".join(f"u{k % 9}\ti{k % 13}\t{k}\n" for k in range(60))
        (folder / "toy" / "toy.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{lines}")
        (folder / "benchmark.yaml").write_text(BENCHMARK.replace("SHOP", str(self.shop)))
        self._took: dict[str, float] = {}

    def commands(self) -> list[Command]:
        """Return the commands, each in a folder of its own."""
        nothing = _nothing
        return [
            Command("train, resume", nothing, lambda place: self._train(place / "run"), self._check_training),
            Command("evaluate", self._copy_run, lambda place: ["evaluate", str(place / "run")], self._check_evaluation),
            Command("recommend --all", self._copy_run, self._recommend, self._check_lists),
            Command("data encode", self._copy_shop, self._encode, self._check_data),
            Command("data build", nothing, self._build, self._check_build),
            Command("data convert", nothing, self._convert, self._check_convert),
            Command("tune", nothing, self._tune, self._check_tune),
            Command("benchmark", nothing, self._benchmark, self._check_benchmark),
            Command("analyze ablation", nothing, self._ablate, self._check_ablation),
        ]

    def seconds(self, one: Command) -> float:
        """Return how long a command takes, from doing it once."""
        if one.name not in self._took:
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                one.prepare(Path(name))
                start = time.monotonic()
                run_whole(one.words(Path(name)))
                self._took[one.name] = time.monotonic() - start
        return self._took[one.name]

    def _train(self, out: Path) -> list[str]:
        if (out / "config.yaml").exists():
            return ["resume", str(out)]
        settings = ["embedding_dim=8", "batch_size=128", "epochs=6", "seed=3"]
        return ["train", str(self.shop), "bpr", *settings, "--out", str(out)]

    def _copy_run(self, place: Path) -> None:
        shutil.copytree(self.trained, place / "run")

    def _copy_shop(self, place: Path) -> None:
        shutil.copytree(self.shop, place / "shop")

    def _recommend(self, place: Path) -> list[str]:
        form = ["--all", "--format", "parquet", "--block-users", "7"]
        return ["recommend", str(place / "run"), *form, "--out", str(place / "lists" / "all.parquet")]

    def _encode(self, place: Path) -> list[str]:
        out = place / "shop" / "text_feat.npy"
        return ["data", "encode", str(place / "shop" / "items.csv"), "tags=description", "--out", str(out)]

    def _build(self, place: Path) -> list[str]:
        tables = ["--items", str(self.shop / "items.csv"), "--interactions", str(self.shop / "interactions.csv")]
        return ["data", "build", *tables, "tags=description", "core=0", "--out", str(place / "built")]

    def _convert(self, place: Path) -> list[str]:
        return ["data", "convert", "recbole", str(self.folder / "toy"), "--out", str(place / "tables")]

    def _tune(self, place: Path) -> list[str]:
        settings = ["embedding_dim=8", "batch_size=128", "epochs=2"]
        search = ["--trials", "3", "--extend", "0", "--out", str(place / "study")]
        return ["tune", str(self.shop), "bpr", *settings, *search]

    def _benchmark(self, place: Path) -> list[str]:
        return ["benchmark", str(self.folder / "benchmark.yaml"), "--out", str(place / "bench")]

    def _ablate(self, place: Path) -> list[str]:
        settings = ["preset=plain", "embedding_dim=8", "hidden_dim=8", "batch_size=128", "epochs=1"]
        only = ["--seeds", "0", "--only", "full", "--only", "no-filter", "--out", str(place / "ablation")]
        return ["analyze", "ablation", str(self.shop), "gtc", *settings, *only]

    def _check_training(self, place: Path, ended: bool) -> None:
        run = place / "run"
        if run.exists():
            rebuilt = ("history.jsonl", "timings.jsonl")  # from the checkpoint
            harm = [one for one in check_run(run) if one.harmful and not one.file.endswith(rebuilt)]
            require(not harm, f"harm in the run: {harm}")
        if ended:
            for name, content in self.whole.items():
                require((run / name).read_bytes() == content, f"{name} differs from the unbroken run's")
            require(check_run(run) == [], "the run is not whole")

    def _check_evaluation(self, place: Path, ended: bool) -> None:
        check_manifest(place / "run")
        result = read_run_record(place / "run").result
        require(result.test is not None or not ended, "no test figures")
        require(check_run(place / "run") == [] or not ended, "the run is not whole")

    def _check_lists(self, place: Path, ended: bool) -> None:
        check_manifest(place / "run")
        lists = place / "lists"
        names = sorted(file.name for file in lists.iterdir() if file.suffix != ".lock") if lists.exists() else []
        require(names == ["all.parquet"] or not ended, f"found {names}")

    def _check_data(self, place: Path, ended: bool) -> None:
        load(place / "shop")
        hidden = [file.name for file in (place / "shop").iterdir() if _is_left_over(file)]
        require(not hidden or not ended, f"left over: {hidden}")

    def _check_build(self, place: Path, ended: bool) -> None:
        if (place / "built" / MANIFEST).exists() or ended:
            load(place / "built")
        self._check_folder(place, "built", ended)

    def _check_convert(self, place: Path, ended: bool) -> None:
        if (place / "tables").exists() or ended:
            check_manifest(place / "tables")
        self._check_folder(place, "tables", ended)

    def _check_folder(self, place: Path, name: str, ended: bool) -> None:
        names = [file.name for file in place.iterdir() if file.suffix != ".lock"]
        require(names == [name] or not ended, f"found {names}")

    def _check_tune(self, place: Path, ended: bool) -> None:
        if ended:
            lines = (place / "study" / "trials.csv").read_text().splitlines()
            require(len(lines) == 4, f"trials.csv has {len(lines)} lines, expected 4")
            require((place / "study" / "best.yaml").is_file(), "no best.yaml")

    def _check_benchmark(self, place: Path, ended: bool) -> None:
        self._check_study(place / "bench", 2, ended)

    def _check_ablation(self, place: Path, ended: bool) -> None:
        self._check_study(place / "ablation", 2, ended)

    def _check_study(self, out: Path, n_runs: int, ended: bool) -> None:
        """Finished runs are whole, at the end all of them."""
        finished = list(out.rglob("report.json")) if out.exists() else []
        for report in finished:
            if ended:
                require(check_run(report.parent) == [], f"{report.parent} is not whole")
            if (report.parent / MANIFEST).exists():
                check_manifest(report.parent)
        require(len(finished) == n_runs or not ended, f"{len(finished)} of {n_runs} runs")
        left = [file.name for file in out.rglob(".*") if _is_left_over(file)] if ended else []
        require(not left, f"left over: {left}")


def _nothing(place: Path) -> None:
    """A command that needs nothing but the stage."""


def _is_left_over(file: Path) -> bool:
    return file.name.startswith(".") and file.suffix == ".tmp"


def require(holds: bool, otherwise: str) -> None:
    """Raise `GtcrecError` saying what is otherwise."""
    if not holds:
        raise GtcrecError(otherwise)


def start(words: list[str]) -> "subprocess.Popen[str]":
    """Start `gtcrec` with these words, in a process group of its own, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "gtcrec", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(line, text=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]


def run(words: list[str], kill_after: float | None = None) -> tuple[int, str]:
    """Run `gtcrec` and return its exit code and what it said; kill it and its workers after so many seconds."""
    with start(words) as process:
        try:
            _, said = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, said = process.communicate()
        return process.returncode, said


def run_whole(words: list[str]) -> None:
    """Run `gtcrec` to its end. Raises `GtcrecError` with the last line of what it said if it fails."""
    code, said = run(words)
    require(code == 0, f"exit code {code} at the end: {last_line(said)}")


def last_line(said: str) -> str:
    """Return the last line of what a command said."""
    return (said.strip().splitlines() or [""])[-1]


def require_refusal(code: int, said: str) -> None:
    """Raise `GtcrecError` unless a command ended well, or with an error of ours in one line."""
    ours = last_line(said).startswith("error: ") and "Traceback" not in said
    require(code == 0 or (code == 1 and ours), f"exit code {code}: {last_line(said)}")
