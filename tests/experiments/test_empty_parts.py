"""A split without validation is refused when a run or a study is made, and nothing of it stays."""

from pathlib import Path

import pytest

from gtcrec.errors import DataError
from gtcrec.experiments.config import load_config
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
