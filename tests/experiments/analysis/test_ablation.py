"""The ablation: what is trained, what is kept or refused, and what the table says."""

import json
import re
import shutil
from pathlib import Path
from statistics import stdev
from xml.etree import ElementTree

import numpy as np
import pytest

from gtcrec import resolve
from gtcrec.cli.main import execute
from gtcrec.data import write_catalogue
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.evaluation.statistics import holm, paired_test
from gtcrec.experiments.analysis import ablation
from gtcrec.experiments.analysis.ablation import Measured, Variant, finished, plan, start_or_resume, table
from gtcrec.experiments.run import Run
from gtcrec.reporting import figures
from gtcrec.reporting.run_comparison import compare_to_first
from gtcrec.reporting.run_record import read

SMALL = ["epochs=2", "dim=8", "batch_size=512"]
SET = [word for one in SMALL for word in ("--set", one)]
METRICS = ("recall@20", "ndcg@5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.fixture(scope="module")
def studied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three variants of two seeds, of one variant a third."""
    out = tmp_path_factory.mktemp("study") / "out"
    line = ["ablate", "--data", str(data), "--out", str(out), *SET]
    names = ["--only", "full", "--only", "no-filter", "--only", "without-image"]
    assert execute([*line, "--seeds", "0,1", *names]) == 0
    assert execute([*line, "--seeds", "4", "--only", "no-filter"]) == 0
    return out


@pytest.fixture
def copied(studied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(studied, tmp_path / "out"))


def test_a_variant_of_equal_settings_is_not_trained_twice(data: Path, tmp_path: Path) -> None:
    asked = ["full", "no-alignment", "pairwise", "with-user-graph"]
    found = plan(str(data), tmp_path, [3, 5], asked, ["alignment=pairwise", "user_neighbours=40"])
    assert {one.name: one.same_as for one in found.variants} == {
        "full": "", "no-alignment": "", "pairwise": "full", "with-user-graph": "full",
    }  # fmt: skip
    assert [run.folder.name for run in found.runs] == ["full-3", "full-5", "no-alignment-3", "no-alignment-5"]
    assert [run.config.train.seed for run in found.runs] == [3, 5, 3, 5]
    assert [run.config.settings["alignment"] for run in found.runs] == ["pairwise", "pairwise", "none", "none"]


def test_asking_for_a_variant_that_is_the_same_as_full_trains_full(data: Path, tmp_path: Path) -> None:
    found = plan(str(data), tmp_path, [0], ["no-filter"], ["filter=off"])
    assert [run.folder.name for run in found.runs] == ["full-0"]


def test_a_variant_without_a_modality_reads_the_others(data: Path, tmp_path: Path) -> None:
    found = plan(str(data), tmp_path, [0], ["without-image", "without-text"])
    assert [run.config.data.modalities for run in found.runs] == [("text",), ("image",)]
    alone = plan(str(data), tmp_path, [0], ["without-text"], ["data.modalities=[text]"])
    assert [run.config.data.modalities for run in alone.runs] == [()]


@pytest.mark.parametrize(
    ("only", "given", "message"),
    [
        ((), ["dimm=8"], r"^unknown key 'dimm' \(did you mean 'dim'\?\)"),
        (["no-filtre"], [], r"^unknown variant 'no-filtre' \(did you mean 'no-filter'\?\); known: full, untrained, .*"),
        (["without-video"], [], "^unknown variant 'without-video'.*, without-image, without-text$"),
        ((), ["seed=3"], r"^the ablation's seeds are 0, 1, ... of --seeds, found the setting 'seed=3'"),
        ((), ["train.seed=3"], "found the setting 'train.seed=3'"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    data: Path, tmp_path: Path, only: list[str], given: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(str(data), tmp_path, [0], only, given)


def test_a_variant_that_the_config_refuses_fails_before_anything_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"full": ablation.GRID["full"], "odd": ("odd", ("dim=0",))}
    monkeypatch.setattr(ablation, "GRID", grid)
    assert execute(["ablate", "--data", str(data), "--out", str(tmp_path / "out"), *SET]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: variant odd: gtc: dim: Input should be greater than or equal to 1, found 0")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_settings_is_refused(data: Path, copied: Path) -> None:
    with pytest.raises(RunError, match=r"full-0: holds a run with settings.dim = 8, wanted 16; give the settings"):
        plan(str(data), copied, [0], ["full"], [*SMALL, "dim=16"])
    with pytest.raises(RunError, match=r"-0: holds a run with settings.dim = 8, wanted 16"):
        plan(str(data), copied, [9], ["pairwise"], [*SMALL, "dim=16"])  # trains none of them, but the table shows them
    (copied / "pairwise-0").mkdir()
    (copied / "pairwise-0" / "note.txt").write_text("mine")
    with pytest.raises(RunError, match=r"pairwise-0: exists and is not an empty folder"):
        plan(str(data), copied, [0], ["pairwise"], SMALL)


def test_a_stopped_ablation_goes_on_and_ends_as_the_unbroken_one(data: Path, studied: Path, copied: Path) -> None:
    shutil.rmtree(copied / "full-0")
    for name in ("no-filter-0", "no-filter-1"):
        shutil.rmtree(copied / name)
    (run,) = plan(str(data), copied, [0], ["no-filter"], SMALL).runs
    next(iter(start_or_resume(run).epochs()))  # and there it is killed
    assert start_or_resume(run).epochs_done == 1
    kept = (copied / "full-1" / "report.json").stat().st_mtime_ns
    line = ["ablate", "--data", str(data), "--out", str(copied), *SET, "--seeds", "0,1"]
    assert execute([*line, "--only", "full", "--only", "no-filter"]) == 0
    for name in ("full-0", "no-filter-0", "no-filter-1"):
        for file in ("history.jsonl", "model.safetensors"):
            assert (copied / name / file).read_bytes() == (studied / name / file).read_bytes()
    assert (copied / "full-1" / "report.json").stat().st_mtime_ns == kept


def test_each_run_that_ended_is_one_line_and_the_table_goes_to_stdout(
    data: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["ablate", "--data", str(data), "--out", str(copied), *SET, "--seeds", "0,1", "--only", "full"]
    assert execute([*line, "--only", "pairwise", "--table-only"]) == 0
    shown, said = capsys.readouterr()
    lines = said.splitlines()
    assert [re.sub(r"\d\.\d{4}", "X", text) for text in lines[:2]] == [
        f"{place}/4  full-{seed}  recall@20 X at epoch {read(copied / f'full-{seed}').result.best_epoch} of 2"
        for place, seed in ((1, 0), (2, 1))
    ]
    assert lines[2:] == [str(copied / f"ablation.{end}") for end in ("md", "json", "svg")]
    assert not (copied / "pairwise-0").exists()
    assert re.search(r"^pairwise +not finished", shown, re.MULTILINE)
    assert re.search(r"^no-filter +0, 1, 4 \(paired: 0, 1\) +\d, \d, \d +\d\.\d\d +[\d,]+$", shown, re.MULTILINE)


def test_one_seed_gives_the_same_tests_as_a_comparison_of_the_two_runs(data: Path, copied: Path) -> None:
    shutil.rmtree(copied / "full-1")
    shutil.rmtree(copied / "without-image-0")
    shutil.rmtree(copied / "without-image-1")
    found = plan(str(data), copied, [0], ["full"], SMALL)
    rows = {row.name: row for row in table(found.variants, finished(found, "valid", METRICS), METRICS)}
    records = [(name, read(copied / f"{name}-0")) for name in ("full", "no-filter")]
    assert [rows["no-filter"].effects[metric].test for metric in METRICS] == compare_to_first(records, METRICS)
    means = [read(copied / f"no-filter-{seed}").result.valid.means["ndcg@5"] for seed in (0, 1, 4)]
    effect = rows["no-filter"].effects["ndcg@5"]
    assert (effect.mean, effect.sd) == (pytest.approx(sum(means) / 3), pytest.approx(stdev(means)))


def test_the_files_hold_the_rows_of_the_table(data: Path, studied: Path) -> None:
    found = plan(str(data), studied, [0], ["full"], SMALL)
    rows = table(found.variants, finished(found, "valid", METRICS), METRICS)
    facts = json.loads((studied / "ablation.json").read_text())
    assert (facts["data"], facts["on"], facts["base"]) == ("shop", "valid", "full")
    assert facts["users"] == read(studied / "full-0").result.valid.users
    assert [one["name"] for one in facts["variants"]] == ["full", "no-filter", "without-image"]
    page = (studied / "ablation.md").read_text()
    for row, stored in zip(rows, facts["variants"], strict=True):
        effect, there = row.effects["ndcg@5"], stored["effects"]["ndcg@5"]
        assert (there["mean"], there["sd"], there["relative"]) == (effect.mean, effect.sd, effect.relative)
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {row.name} |"))
        assert f"| {effect.mean:.4f} ± {effect.sd:.4f} |" in line
        if effect.test:
            low, high = effect.interval or (0.0, 0.0)
            text = f"{effect.relative:+.1%} [{low:+.1%}, {high:+.1%}], p {effect.test.p_holm:.4f}"
            assert f"| {text}{chr(92) + '*' if effect.sure else ''} |" in line
    texts = re.findall(r"<!-- (.*?) -->", (studied / "ablation.svg").read_text())
    assert [text for text in texts if text in ("full", "no-filter", "without-image")] == ["no-filter", "without-image"]


def test_test_is_looked_at_when_asked_and_once_a_run(
    data: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    evaluate = Run.evaluate

    def counted(self: Run) -> object:
        calls.append(self.folder.name)
        return evaluate(self)

    monkeypatch.setattr(Run, "evaluate", counted)
    line = ["ablate", "--data", str(data), "--out", str(copied), *SET, "--only", "full", "--seeds", "0,1"]
    assert execute(line) == 0
    assert calls == []
    assert execute([*line, "--on", "test"]) == 0
    assert execute([*line, "--on", "test"]) == 0
    assert calls == ["full-0", "full-1"]
    facts = json.loads((copied / "ablation.json").read_text())
    assert (facts["on"], [one["seeds"] for one in facts["variants"]]) == ("test", [[0, 1], [], []])
    result = read(copied / "full-0").result.test
    assert result is not None
    assert facts["users"] == result.users
    assert "recall@20, test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--seeds", "0,0"], 2, "--seeds: wanted distinct whole numbers such as 0,1,2, found '0,0'"),
        (["--seeds", "-1"], 2, "--seeds: wanted distinct whole numbers such as 0,1,2, found '-1'"),
        (["--only", "full", "--metric", "ndcg@55"], 1, "'ndcg@55' is not measured (did you mean 'ndcg@5'?); measured"),
        (["--only", "full", "--table-only"], 1, "wanted runs that have been measured on valid, found none"),
        (
            ["--only", "full", "--set", "valid_users=20"],
            1,
            "wanted the same validation users for every seed, found valid_users=20; use --on test or 0",
        ),
    ],
)
def test_wrong_usage_is_refused_before_anything_trains(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert execute(["ablate", "--data", str(data), "--out", str(tmp_path / "out"), *SET, *more]) == code
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().err).split())
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_and_an_unmeasured_metric_are_named(data: Path, copied: Path) -> None:
    found = plan(str(data), copied, [0], ["full"], SMALL)
    with pytest.raises(
        ConfigError, match=r"'ndcg@7' was not measured \(did you mean 'ndcg@\d+'\?\); measured: recall@5"
    ):
        finished(found, "valid", ["ndcg@7"])
    path = copied / "no-filter-1" / "per_user_valid.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"no-filter-1/per_user_valid.parquet: damaged or edited"):
        finished(found, "valid", METRICS)


# The table, from figures that can be worked out by hand.


def variant(name: str, data: str = "x") -> Variant:
    return Variant(name, name, resolve(data, "gtc"))


def measured(name: str, seed: int, values: list[float], **more: object) -> Measured:
    facts: dict[str, object] = {
        "data": "shop",
        "fingerprint": "f00d",
        "users": np.arange(len(values)),
        "pairs": {"liked": "a", "train": "b"},
        "per_user": {"hit@1": np.array(values)},
        "best_epoch": seed,
        "cpu_seconds": 1.0 + seed,
        "parameters": 10,
    }
    return Measured(name, seed, **{**facts, **more})  # type: ignore[arg-type]


def test_users_are_averaged_over_the_seeds_of_both_and_paired() -> None:
    runs = [
        measured("full", 0, [0.2, 0.4, 0.6]),
        measured("full", 1, [0.4, 0.4, 0.4]),
        measured("full", 2, [1.0, 1.0, 1.0]),
        measured("less", 0, [0.1, 0.4, 0.4]),
        measured("less", 1, [0.1, 0.4, 0.2]),
        measured("less", 3, [0.0, 0.0, 0.0]),
    ]
    full, less = table([variant("full"), variant("less")], runs, ["hit@1"])
    assert (full.seeds, full.paired, less.seeds, less.paired) == ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 1))
    effect = less.effects["hit@1"]
    assert effect.mean == pytest.approx((0.9 / 3 + 0.7 / 3 + 0) / 3)
    assert effect.sd == pytest.approx(stdev([0.9 / 3, 0.7 / 3, 0]))
    assert effect.test is not None
    # full over seeds 0 and 1: .3 .4 .5, mean .4; less: .1 .4 .3; differences -.2 0 -.2
    assert effect.test.difference == pytest.approx(-0.4 / 3)
    assert effect.relative == pytest.approx(-1 / 3)
    expected = paired_test(np.array([0.1, 0.4, 0.3]), np.array([0.3, 0.4, 0.5]), np.random.default_rng(0))
    assert effect.interval == pytest.approx((expected.low / 0.4, expected.high / 0.4))
    assert effect.test.p == effect.test.p_holm == expected.p
    assert full.effects["hit@1"].test is None
    assert (less.best_epochs, less.cpu_seconds, less.parameters) == ((0, 1, 3), pytest.approx(1 + 4 / 3), 10)


def test_holm_is_over_the_variants_of_a_metric() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(200)
    runs = [measured("full", 0, base.tolist())]
    shifts = {"a": 0.2, "b": 0.07, "c": 0.0}
    runs += [measured(name, 0, (base + rng.normal(by, 0.4, 200)).tolist()) for name, by in shifts.items()]
    rows = table([variant(name) for name in ("full", *shifts)], runs, ["hit@1"])
    tests = [test for row in rows[1:] if (test := row.effects["hit@1"].test)]
    assert [test.p_holm for test in tests] == holm([test.p for test in tests]).tolist()
    assert tests[1].p_holm > tests[1].p
    assert [row.effects["hit@1"].sure for row in rows[1:]] == [test.p_holm < 0.05 for test in tests]
    assert rows[1].effects["hit@1"].sure
    assert not rows[3].effects["hit@1"].sure


def test_without_full_there_are_means_and_no_tests() -> None:
    full, less = table([variant("full"), variant("less")], [measured("less", 0, [0.5, 0.7])], ["hit@1"])
    assert (full.effects, full.parameters, full.cpu_seconds) == ({}, None, None)
    assert less.effects["hit@1"] == ablation.Effect(pytest.approx(0.6), None)


def test_nothing_is_relative_to_zero() -> None:
    runs = [measured("full", 0, [0.0, 0.0]), measured("less", 0, [0.5, 0.5])]
    effect = table([variant("full"), variant("less")], runs, ["hit@1"])[1].effects["hit@1"]
    assert effect.test is not None
    assert (effect.test.difference, effect.relative, effect.interval) == (0.5, None, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"users": np.array([0, 2])}, "full-0 and less-0 were measured on different users; wanted the same users and"),
        ({"pairs": {"liked": "a", "train": "c"}}, "full-0 and less-0 saw different training or liked pairs"),
        ({"fingerprint": "beef"}, "full-0 and less-0 saw different data: fingerprints must be equal"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(more: dict[str, object], message: str) -> None:
    runs = [measured("full", 0, [0.1, 0.2]), measured("less", 0, [0.1, 0.2], **more)]
    with pytest.raises(RunError, match=message):
        table([variant("full"), variant("less")], runs, ["hit@1"])


def test_a_variant_that_reads_other_content_has_another_fingerprint_and_is_paired() -> None:
    runs = [measured("full", 0, [0.1, 0.2]), measured("less", 0, [0.1, 0.2], fingerprint="beef")]
    rows = table([variant("full"), variant("less", "y")], runs, ["hit@1"])
    assert rows[1].paired == (0,)


def test_a_forest_plot_has_a_panel_a_metric_and_a_line_a_variant() -> None:
    marks = [figures.Mark("less", -5.0, -8.0, -2.0, True), figures.Mark("more", 1.0, -1.0, 3.0, False)]
    drawn = figures.forest([("recall@20", marks), ("ndcg@5", marks[:1])], "relative, %")
    assert drawn == figures.forest([("recall@20", marks), ("ndcg@5", marks[:1])], "relative, %")
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    texts = re.findall(r"<!-- (.*?) -->", drawn.decode())
    assert [texts.count(word) for word in ("recall@20", "ndcg@5", "less", "more", "relative, %")] == [1] * 5
    assert drawn.decode().count('id="axes_') == 2
    assert figures.forest([("recall@20", [])], "relative, %") == b""
