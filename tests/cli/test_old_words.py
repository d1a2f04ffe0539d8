"""The commands, options and arguments of version 0.1, which are no longer listed."""

import json
import re
from pathlib import Path

import pytest
import yaml

from gtcrec.cli.data import OLD_OPTIONS, read_settings
from gtcrec.cli.main import OLD_WORDS, current_words, execute
from gtcrec.data import EncodeConfig
from gtcrec.data.build.pipeline import BuildConfig
from gtcrec.data.sources.huggingface import HuggingFaceConfig

VERBS = {old: new for old, new in OLD_WORDS.items() if not old.startswith("-")}
OPTIONS = {old: new for old, new in OLD_WORDS.items() if old.startswith("-")}
LISTED = {
    "": "demo train resume stop evaluate recommend similar users serve export compare tune benchmark data items "
    "analyze models runs",
    "data": "list download describe convert build encode synthesize export",
    "items": "add",
    "analyze": "ablation missing-modalities importance explain",
    "models": "list show",
    "runs": "list show report check",
}
BUILD_OPTIONS = """user-col item-col items-item-col rating-col time-col label-col title-col text image image-root tags
tag-separator category numbers number keep min-rating core duplicates split ratios seed encoding text-encoder
image-encoder device"""
ENCODE_OPTIONS = "text image file tags numbers encoder function separator width dtype batch device"


@pytest.mark.parametrize("group", LISTED)
def test_help_lists_the_commands_of_today_alone(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*group.split(), "--help"]) == 0
    listed = re.findall(r"^│ ([a-z-]+)  ", capsys.readouterr().out.split("Commands")[1], re.MULTILINE)
    assert listed == LISTED[group].split()


@pytest.mark.parametrize("old", VERBS)
def test_an_old_verb_is_the_verb_of_today(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*old.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert execute([*VERBS[old].split(), "--help"]) == 0
    assert shown == capsys.readouterr().out
    assert f"Usage: gtcrec {VERBS[old]} " in shown


@pytest.mark.parametrize("old", OPTIONS)
def test_an_old_option_is_the_option_of_today(old: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["recommend", str(runs / "popular"), "-k", "1", *([] if old == "--all-users" else ["--user", "u0001"])]
    shown = []
    for option in (old, OPTIONS[old]):
        assert execute([*line, *option.split()]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != ""


def test_only_the_start_of_a_line_is_an_old_verb() -> None:
    assert current_words(["data", "describe", "missing"]) == ["data", "describe", "missing"]
    assert current_words(["train", "ablate", "--out", "explain"]) == ["train", "ablate", "--out", "explain"]


def test_train_takes_its_old_options(data: Path, tmp_path: Path) -> None:
    old = ["--data", str(data), "--model", "bpr", "--set", "epochs=1", "--set", "dim=4", "--seed", "2"]
    new = [str(data), "bpr", "epochs=1", "dim=4", "seed=2"]
    for name, line in (("old", old), ("new", new)):
        assert execute(["train", *line, "--out", str(tmp_path / name)]) == 0
    texts = [(tmp_path / name / "config.yaml").read_text() for name in ("old", "new")]
    assert texts[0] == texts[1]
    assert yaml.safe_load(texts[0])["model"] == "bpr"


def test_tune_takes_its_old_options(data: Path, tmp_path: Path) -> None:
    old = ["--data", str(data), "--model", "popular", "--set", "seed=1", "--out", str(tmp_path / "old")]
    new = [str(data), "popular", "seed=1", "--out", str(tmp_path / "new")]
    assert [execute(["tune", *line]) for line in (old, new)] == [0, 0]
    studies = [json.loads((tmp_path / name / "study.json").read_text()) for name in ("old", "new")]
    assert studies[0] == studies[1]


def test_old_lists_of_liked_items_are_split_at_commas(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["recommend", str(runs / "popular"), "--format", "json", "-k", "2"]
    assert execute([*line, "--liked", "p0001,p0002", "--liked", "p0003"]) == 0
    old = json.loads(capsys.readouterr().out)
    assert execute([*line, "--history", "p0001", "--history", "p0002"]) == 0
    assert old[:2] == json.loads(capsys.readouterr().out)
    assert [row["user_id"] for row in old] == ["1", "1", "2", "2"]


@pytest.mark.parametrize("option", BUILD_OPTIONS.split())
def test_each_old_option_of_build_is_a_key(option: str) -> None:
    fields = [*BuildConfig.model_fields, "split.strategy", "split.ratios", "split.seed", "image_root"]
    settings, others = read_settings([f"--{option}", "x"], fields, OLD_OPTIONS)
    assert (len(settings), others) == (1, [])
    assert settings == read_settings([f"--{option}=x"], fields, OLD_OPTIONS)[0]


@pytest.mark.parametrize("option", ENCODE_OPTIONS.split())
def test_each_old_option_of_encode_is_a_key(option: str) -> None:
    assert read_settings(["items.csv", f"--{option}", "x"], list(EncodeConfig.model_fields), {}) == (
        {option: "x"},
        ["items.csv"],
    )


@pytest.mark.parametrize(
    "option", ["interactions", "items", "user-col", "item-col", "rating-col", "time-col", "items-item-col"]
)
def test_each_old_option_of_convert_is_a_key(option: str) -> None:
    settings, sources = read_settings(["folder", f"--{option}", "x"], list(HuggingFaceConfig.model_fields), OLD_OPTIONS)
    assert (list(settings.values()), sources) == (["x"], ["folder"])
