"""The plans of the smaller comparisons name what there is."""

from pathlib import Path

import pytest

from benchmarks.accuracy import peers, planned
from benchmarks.paths import CONFIGS
from gtcrec.models.registry import MODELS


@pytest.mark.parametrize("name", planned.PLANS)
def test_a_plan_names_models_that_there_are_and_refuses_data_that_it_lacks(name: str, tmp_path: Path) -> None:
    config = peers.read_plan(tmp_path, CONFIGS / f"{name}.yaml")
    assert {entry.model or line for line, entry in config.models.items()} <= set(MODELS)
    assert config.base in config.models
    with pytest.raises(SystemExit, match=f"{name}: expected data sets of the plan, .*tiktok.*; found tictoc"):
        planned.measure(tmp_path, name, ["tictoc"], 1, lambda *look: None)
