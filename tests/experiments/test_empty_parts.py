"""A split without validation is refused when a run or a study is made, and one without test is named in time."""

from pathlib import Path

import pytest

from gtcrec.cli.main import execute
from gtcrec.errors import DataError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.execution.worker import train_and_measure
from gtcrec.experiments.planned_run import PlannedRun
from gtcrec.experiments.run import Run
from gtcrec.experiments.tuning.study import plan, tune


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """Six users with three items each, two of them for training and one for test."""
    rows = [f"u{k // 3},i{(k // 3 + k % 3) % 7},{2 * (k % 3 == 2)}\n" for k in range(18)]
    (tmp_path / "shop.csv").write_text("user,item,x_label\n" + "".join(rows))
    return str(tmp_path / "shop.csv")


CASES = [
    (
        [],
        "split 'label' leaves no interaction for validation, .* 12 for training; mark some interactions with",
    ),
    (["split.strategy=random", "split.ratios=[0.8, 0, 0.2]"], r"split 'random' .*; set split.ratios, such as \[0.8"),
]


@pytest.mark.parametrize(("settings", "said"), CASES)
def test_a_run_without_validation_is_not_made(shop: str, tmp_path: Path, settings: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Run.create(load_config(shop, "bpr", assignments=settings), tmp_path / "run")
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == []
    config = load_config(shop, "popular", assignments=["split.strategy=leave_one_out"])
    assert list(Run.create(config, tmp_path / "run").epochs())


@pytest.mark.parametrize(("settings", "said"), CASES)
def test_a_study_without_validation_is_not_made(shop: str, tmp_path: Path, settings: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(tune(plan(shop, "bpr", tmp_path / "study", 2, settings)))
    assert not (tmp_path / "study").exists()


@pytest.fixture
def untested(tmp_path: Path) -> str:
    """Six users with three items each, two of them for training and one for validation."""
    rows = [f"u{k // 3},i{(k // 3 + k % 3) % 7},{int(k % 3 == 2)}\n" for k in range(18)]
    (tmp_path / "shop.csv").write_text("user,item,x_label\n" + "".join(rows))
    return str(tmp_path / "shop.csv")


NO_TEST = "split 'label' leaves no interaction for test, beside 12 for training and 6 for validation; mark some "


def test_a_run_without_test_is_told_of_before_it_is_trained_and_not_evaluated(
    untested: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert execute(["train", untested, "bpr", "epochs=1", "--out", out]) == 0
    said = capsys.readouterr().err
    assert f"warning: the run cannot be evaluated: {NO_TEST}" in said
    assert said.index("warning") < said.index("epoch 1")
    assert execute(["evaluate", out]) == 1
    assert f"error: {NO_TEST}interactions with label 2" in capsys.readouterr().err


def test_a_study_that_ends_with_test_ends_at_once_without_one(untested: str, tmp_path: Path) -> None:
    run = PlannedRun("popular", 0, load_config(untested, "popular"), tmp_path / "popular-0")
    events: list[object] = []
    with pytest.raises(DataError, match=NO_TEST):
        train_and_measure(run, "test", events.append)
    assert events == []
    train_and_measure(run, "valid", events.append)
    assert events
