"""Further commands that write, for the attacks that fork: their material is made once, by forked commands too."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.forks import Forks
from chaos.stage import Command, Stage, require
from gtcrec.data import load
from gtcrec.runtime.files import check_manifest
from gtcrec.serving.recommender import Recommender

SMALL = ["embedding_dim=8", "hidden_dim=8", "batch_size=128", "epochs=2", "seed=3"]
GTC = ["gtc", *SMALL, "history_hidden_dim=8", "history_content_dim=8", "content_dim=8"]


@dataclass(frozen=True)
class Material:
    """A built data folder, the tables of a day after it, and runs on it."""

    stage: Stage
    folder: Path
    forks: Forks

    def make(self) -> "Material":
        self.folder.mkdir()
        shop, out = self.stage.shop, self.folder
        items, acts = ((shop / f"{name}.csv").read_text().splitlines() for name in ("items", "interactions"))
        self._write("items", items[:-4]), self._write("acts", acts[:-60])
        self._write("new_items", [items[0], *items[-4:]]), self._write("new_acts", [acts[0], *acts[-60:]])
        shutil.copytree(shop / "images", out / "images")
        tables = ["--items", f"{out}/items.csv", "--interactions", f"{out}/acts.csv"]
        self.run(["data", "build", *tables, "category=description", "core=0", "split.strategy=leave_one_out"], "built")
        self.run(["train", f"{out}/built", *GTC], "gtc")
        self.run(["train", f"{out}/built", *GTC, "blend=none"], "embedding")
        self.run(["train", f"{out}/built", *GTC, "blend=none", "init=random"], "random")
        return self

    def run(self, words: list[str], out: str) -> None:
        ended = self.forks.run([*words, "--out", str(self.folder / out)], self.folder)
        require(ended.code == 0, f"{' '.join(words)}: {ended.said}")

    def _write(self, name: str, lines: list[str]) -> None:
        (self.folder / f"{name}.csv").write_text("\n".join(lines) + "\n")

    def copy(self, *names: str) -> Callable[[Path], None]:
        def prepare(place: Path) -> None:
            for name in names:
                shutil.copytree(self.folder / name, place / name)

        return prepare


def further_commands(made: Material) -> list[Command]:
    """Return the commands on a copy of the material."""
    own = made.folder
    new = ["--items", f"{own}/new_items.csv", "--interactions", f"{own}/new_acts.csv"]

    def none(place: Path) -> None:
        """Nothing is there before."""

    def data_stays(place: Path, ended: bool) -> None:
        load(place / "built")

    def run_answers(place: Path, ended: bool) -> None:
        _answer(place / "gtc")

    def out_is_whole(place: Path, ended: bool) -> None:
        if (place / "out" / "manifest.json").exists():
            check_manifest(place / "out")

    def train(place: Path, *words: str) -> list[str]:
        out = place / "out"
        if (out / "config.yaml").exists():
            return ["resume", str(out)]
        return ["train", str(own / "built"), *words, "--out", str(out)]

    def stay(place: Path, ended: bool) -> None:
        """The comparison with the undisturbed command says all."""

    init = [*GTC, "blend=none", "init=random", "--init-from", f"{own}/random"]
    export = ["export", f"{own}/embedding", "vectors", "lists", "card"]
    return [
        Command("train gtc, resume", none, lambda place: train(place, *GTC), stay),
        Command("train --init-from, resume", none, lambda place: train(place, *init), stay),
        Command(
            "data build --append",
            made.copy("built"),
            lambda place: ["data", "build", "--append", *new, "--out", f"{place}/built"],
            data_stays,
        ),
        Command(
            "items add",
            made.copy("gtc"),
            lambda place: ["items", "add", f"{place}/gtc", f"{own}/new_items.csv"],
            run_answers,
        ),
        Command("evaluate gtc", made.copy("gtc"), lambda place: ["evaluate", f"{place}/gtc"], run_answers),
        Command("export", none, lambda place: [*export, "--out", f"{place}/out"], out_is_whole),
        Command(
            "recommend --all to CSV",
            none,
            lambda place: ["recommend", f"{own}/gtc", "--all", "--format", "csv", "--out", f"{place}/lists.csv"],
            stay,
        ),
        Command(
            "data export",
            none,
            lambda place: ["data", "export", f"{own}/built", "--to", "recbole", "--out", f"{place}/out"],
            stay,
        ),
        Command(
            "data synthesize",
            none,
            lambda place: ["data", "synthesize", "--users", "30", "--items", "24", f"{place}/out"],
            out_is_whole,
        ),
    ]


def _answer(run: Path) -> None:
    require(Recommender.load(run).recommend(["u0001", "u0042"], k=3).num_rows == 6, "no lists")
