"""How a grid goes on beyond its ends, and how a study does while its winner stands at one."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gtcrec import data, models
from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.experiments.tuning import study as tune
from gtcrec.experiments.tuning.grids import Grid, extend_grids, next_values
from gtcrec.experiments.tuning.study import TuningPlan, best, list_trials, plan
from gtcrec.experiments.tuning.trials import Outcome, Trials
from gtcrec.types import Interactions, ItemFeatures

SMALL = ["epochs=2", "embedding_dim=8", "batch_size=512"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.mark.parametrize(
    ("values", "above"),
    [
        ((0.01, 0.1, 1.0), (10.0, 100.0)),
        ((1, 2, 4, 8), (16, 32)),
        ((1, 2, 3), (4, 5)),
        ((1, 2), (3, 4)),
        ((0.3, 0.5), (0.7, 0.9)),
        ((0.01, 0.1), (1.0, 10.0)),
        ((0.0, 0.01, 0.1), (1.0, 10.0)),  # 0 stands for "off"
        ((0, 1, 2), (3, 4)),
        ((10, 30, 100), (333, 1110)),  # three digits
        ((3, 2, 1), (0, -1)),
        ((5e-4, 1e-3, 2e-3, 5e-3), (0.0125, 0.0313)),
    ],
)
def test_values_go_on_by_their_ratio_or_their_difference(values: tuple[float, ...], above: tuple[float, ...]) -> None:
    found = tuple(itertools.islice(next_values(values), 2))
    assert found == above
    assert [type(one) for one in found] == [type(values[-1])] * 2


def test_a_grid_goes_on_as_far_as_the_setting_has_values() -> None:
    base = load_config("data", "freedom")
    space = {"edge_dropout": (0.5, 0.8, 0.9), "num_layers": (1, 2), "num_item_layers": (1, 2), "reg": (1e-3,)}
    space |= {"embedding_dim": (64, 128), "content_scaling": ("raw", "standardized")}
    grids = extend_grids(base, {key: value for key, value in space.items() if key != "reg"}, 1)
    assert (grids["edge_dropout"].below, grids["edge_dropout"].above) == ((0.2,), ())  # below 1
    assert (grids["num_layers"].below, grids["num_layers"].above) == ((0,), (3, 4))
    assert grids["num_item_layers"].below == ()  # at least 1
    for key in ("embedding_dim", "content_scaling"):  # sizes are the same for all models, the others have no order
        assert (grids[key].below, grids[key].above) == ((), ())


def test_a_place_has_a_value_in_the_grid_and_outside() -> None:
    grid = Grid((1, 2, 4), (0,), (8, 16), 1)
    assert [grid.value(place) for place in range(-1, 5)] == [0, 1, 2, 4, 8, 16]
    assert [grid.outside(place) for place in range(-1, 5)] == [1, 0, 0, 0, 1, 2]
    assert [grid.exists(place) for place in (-2, -1, 4, 5)] == [False, True, True, False]


# A made-up validation, best at a = 32 and b = 3, where the space ends at 4 and begins at 1.

SPACE = {"a": (1, 2, 4), "b": (1, 2, 3, 4), "c": ("x", "y")}
GRIDS = {
    "a": Grid((1, 2, 4), (), (8, 16, 32), 2),
    "b": Grid((1, 2, 3, 4), (0,), (5, 6), 2),
    "c": Grid(("x", "y"), (), (), 2),
}


def work(folder: Path, count: int, until: int = 99, grids: dict[str, Grid] | None = None) -> list[dict[str, Any]]:
    """Try settings until a trial is under way as number `until`, or to the end; returns the settings in order."""
    with Trials(folder, SPACE, dict.fromkeys(SPACE, 0), 0, grids=GRIDS if grids is None else grids) as trials:
        while trial := trials.claim(count):
            if trial.number == until:
                return []
            s = trial.settings
            value = 1 - 0.1 * abs(np.log2(s["a"]) - 5) - 0.01 * abs(s["b"] - 3) - 0.05 * (s["c"] == "y")
            trials.finish(trial, Outcome(float(value), 1, 1, 0.0))
        return [dict(trial.settings) for trial in trials.all()]


def test_a_winner_at_an_edge_extends_its_grid_and_the_study_goes_on_there(tmp_path: Path) -> None:
    found = work(tmp_path, 24)
    assert all(one["a"] <= 4 for one in found[:24])
    assert found[24:] == [{"a": 8, "b": 3, "c": "x"}, {"a": 16, "b": 3, "c": "x"}]  # two outside, then no more
    with Trials(tmp_path, SPACE, dict.fromkeys(SPACE, 0), 0, grids=GRIDS) as trials:
        last = trials.all()[-1]
        assert (last.outside, last.at_edge) == (("a",), ("a",))  # 32 could still be tried
        assert max(trials.all(), key=lambda trial: trial.value or 0) == last


def test_a_winner_inside_ends_the_study(tmp_path: Path) -> None:
    grids = {**GRIDS, "a": Grid((1, 2, 4), (), (), 2)}  # its values end at 4
    assert len(work(tmp_path, 24, grids=grids)) == 24
    with Trials(tmp_path, SPACE, dict.fromkeys(SPACE, 0), 0, grids=grids) as trials:
        assert trials.all()[0].at_edge == ("b",)  # 0 could be tried
        assert max(trials.all(), key=lambda trial: trial.value or 0).at_edge == ()


def test_without_grids_nothing_outside_is_tried(tmp_path: Path) -> None:
    grids = {key: Grid(values) for key, values in SPACE.items()}
    assert len(work(tmp_path, 24, grids=grids)) == 24


def test_what_is_tried_outside_does_not_depend_on_where_a_study_stopped(tmp_path: Path) -> None:
    for name in ("one", "two", "longer"):
        (tmp_path / name).mkdir()
    whole = work(tmp_path / "one", 12)
    assert len(whole) > 12
    for until in (3, 12, 13, 14):
        work(tmp_path / "two", 12, until)  # its worker leaves while the trial is under way
    assert work(tmp_path / "two", 12) == whole
    work(tmp_path / "longer", 12)
    assert [
        one for one in work(tmp_path / "longer", 24) if one["a"] <= 4 and one["b"] >= 1
    ]  # inside again, then outside
    assert work(tmp_path / "longer", 24)[: len(whole)] == whole


def test_outside_is_tried_once_all_inside_has_ended(tmp_path: Path) -> None:
    with Trials(tmp_path, SPACE, dict.fromkeys(SPACE, 0), 0, grids=GRIDS) as one:
        first = one.claim(2)
        second = one.claim(2)
        assert first is not None
        assert second is not None
        one.finish(first, Outcome(0.9, 1, 1, 0.0))
        assert one.claim(2) is None
        one.finish(second, Outcome(0.1, 1, 1, 0.0))
        third = one.claim(2)
        assert third is not None
        assert third.outside != ()


# With a model.


def rows(found: TuningPlan) -> list[dict[str, str]]:
    with (found.out / "trials.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def studied(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> TuningPlan:
    """A study of BPR whose best learning rate is the highest of two."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "space.yaml").write_text("train.learning_rate: [1e-3, 4e-3]\n")
    found = plan(str(shop), "bpr", folder / "bpr", 5, SMALL, space=folder / "space.yaml")
    list(tune.tune(found))
    return found


def test_the_table_says_what_was_tried_outside_and_what_stands_at_an_edge(studied: TuningPlan) -> None:
    table = rows(studied)
    assert [row["train.learning_rate"] for row in table] == ["0.001", "0.004", "0.016"]
    assert [row["outside"] for row in table] == ["", "", "train.learning_rate"]
    assert [row["at_edge"] for row in table] == ["train.learning_rate", "", "train.learning_rate"]
    assert best(list_trials(studied)).number == 2  # no longer at an edge


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from gtcrec.experiments.tuning import study as tune
shop, out, space, *given = sys.argv[1:]

@contextmanager
def watch(trial):
    def after_epoch(epoch):
        if trial.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    yield after_epoch, lambda step, steps: None

list(tune.tune(tune.plan(shop, "bpr", Path(out), 5, given, space=Path(space)), watch=watch))
"""


def test_a_study_killed_outside_of_its_space_ends_as_an_unbroken_one(
    shop: Path, studied: TuningPlan, tmp_path: Path
) -> None:
    space = studied.out.parent / "space.yaml"
    line = [sys.executable, "-c", KILLED, str(shop), str(tmp_path / "out"), str(space), *SMALL]
    done = subprocess.run(line, capture_output=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = plan(str(shop), "bpr", tmp_path / "out", 5, SMALL, space=space)
    list(tune.tune(again))
    assert rows(again) == rows(studied)


def test_a_trials_standard_error_is_that_of_its_mean_over_the_validation_users(
    studied: TuningPlan, tmp_path: Path
) -> None:
    top = best(list_trials(studied))
    assert top.outcome is not None
    run = Run.create(load_config(file=studied.out / "best.yaml"), tmp_path / "run")
    list(run.epochs())
    metric = run.config.train.valid_metric
    values = evaluate_split(run.scorer, run.split, "valid", metrics=(metric,)).per_user[metric]
    assert top.value == pytest.approx(values.mean())
    assert top.outcome.standard_error == pytest.approx(values.std(ddof=1) / len(values) ** 0.5)
    assert rows(studied)[top.number - 1]["standard_error"] == str(top.outcome.standard_error)


def test_the_command_says_the_standard_error_and_the_edges(shop: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "space.yaml").write_text("train.learning_rate: [1e-3, 4e-3]\n")
    line = ["tune", str(shop), "bpr", "--out", str(tmp_path / "out"), "--space", str(tmp_path / "space.yaml"), *SMALL]
    assert execute([*line, "--trials", "2", "--extend", "0"]) == 0
    printed = capfd.readouterr()
    lines = printed.err.splitlines()
    assert [text.split("  ")[0] for text in lines[:2]] == ["1/2", "2/2"]
    assert lines[0].split("  ")[1].startswith("ndcg@20 0.")
    assert " ± 0." in lines[0]
    assert "at an edge of what was tried: train.learning_rate" in printed.err
    assert "outside" not in printed.err
    assert printed.out.count(" ± ") == 2
    assert execute([*line, "--trials", "2"]) == 0  # goes on
    printed = capfd.readouterr()
    assert printed.err.startswith("3, outside  ndcg@20 0.")
    assert "tried outside of the space: train.learning_rate" in printed.err
    assert "at an edge" not in printed.err
    assert json.loads((tmp_path / "out" / "study.json").read_text())["extend"] == 2


def test_a_study_that_is_there_keeps_its_space_and_its_metric(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*SMALL, "valid_metric=recall@20"]
    before = plan(str(shop), "lightgcn", tmp_path, 2, [*given, "reg=0.001"], extend=0)
    list(tune.tune(before))
    facts = json.loads((tmp_path / "study.json").read_text())
    del facts["config"]["settings"]["num_layers"]  # as a setting that came later, at its default
    facts["space"] = {"num_layers": [1, 2, 3, 4]}
    facts["space"]["num_layers"].insert(0, 0)
    (tmp_path / "study.json").write_text(json.dumps(facts))
    after = plan(str(shop), "lightgcn", tmp_path, 3, [*SMALL, "reg=0.001"], extend=0)
    assert after.config.train.valid_metric == "recall@20"
    assert after.space == {"num_layers": (0, 1, 2, 3, 4)}


# Alike for all models.

LATENT = ["ials", "bpr", "lightgcn", "simgcl", "vbpr", "freedom", "bm3", "mgcn", "lgmrec", "diffmm", "smore", "gtc"]
CONTENT = ["contentknn", "mmgf", "vbpr", "freedom", "bm3", "mgcn", "lgmrec", "diffmm", "smore"]


@pytest.mark.parametrize("name", LATENT)
def test_every_latent_model_searches_the_same_embedding_sizes(name: str, shop: Path, tmp_path: Path) -> None:
    found = plan(str(shop), name, tmp_path)
    assert found.space["embedding_dim"] == (64, 128)
    assert not found.grids["embedding_dim"].above


def test_ials_and_gtc_search_the_same_values_of_the_least_squares(shop: Path, tmp_path: Path) -> None:
    ials, gtc = (plan(str(shop), name, tmp_path).space for name in ("ials", "gtc"))
    assert ials["reg"] == gtc["als_reg"]
    assert ials["unobserved_multiple"] == (0.0, *gtc["unobserved_weight"])  # 0: a weight given as it is


def test_a_multiple_of_the_observed_pairs_means_for_ials_what_it_means_for_gtcs_start(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = data.split(data.load(shop)).train
    solved: list[tuple[float, ...]] = []

    def factorize(pairs: Interactions, dim: int, *weights: float, **more: float) -> tuple[torch.Tensor, torch.Tensor]:
        solved.append(weights)
        return torch.zeros(pairs.n_users, dim), torch.zeros(pairs.n_items, dim)

    for module in ("baselines.ials", "embeddings"):
        monkeypatch.setattr(f"gtcrec.models.{module}.factorize", factorize)
    asked = [
        ("ials", {"unobserved_multiple": 3.0, "reg": 0.02}),
        ("gtc", {"unobserved_weight": 3.0, "als_reg": 0.02}),
        ("ials", {"unobserved_weight": 3.0, "reg": 0.02}),
    ]
    for name, settings in asked:
        models.build_model(name, train, ItemFeatures(train.n_items), models.make_config(name, settings), 0)
    density = len(train) / (train.n_users * train.n_items)
    assert solved == [(3.0 * density, 0.02), (3.0 * density, 0.02), (3.0, 0.02)]


@pytest.mark.parametrize("name", CONTENT)
def test_every_model_that_takes_content_as_it_is_searches_raw_and_standardized(name: str) -> None:
    assert models.get_spec(name).search_space["content_scaling"] == ("raw", "standardized")


def test_every_model_is_selected_by_the_same_metric(shop: Path) -> None:
    assert {load_config(str(shop), name).train.valid_metric for name in models.list_models()} == {"ndcg@20"}
