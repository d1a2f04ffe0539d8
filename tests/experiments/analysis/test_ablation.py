"""The ablation: what is trained, what is kept or refused, and what the table says."""

import json
import re
import shutil
from pathlib import Path
from statistics import stdev
from xml.etree import ElementTree

import numpy as np
import pytest

from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.evaluation.statistics import holm, paired_test
from gtcrec.experiments.analysis import ablation
from gtcrec.experiments.analysis.ablation import compare_variants, plan
from gtcrec.experiments.config import load_config
from gtcrec.experiments.measured_run import Estimate, MeasuredRun, read_runs
from gtcrec.experiments.planned_run import StudyPlan, Variant, existing_runs, start_or_resume
from gtcrec.reporting import figures
from gtcrec.reporting.run_comparison import compare_runs
from gtcrec.reporting.run_record import read_run_record
from helpers.bench import measured_run

SMALL = ["preset=embedding", "epochs=2", "embedding_dim=8", "batch_size=512"]
SET = [word for one in SMALL for word in ("--set", one)]
METRICS = ("recall@20", "ndcg@5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=80, n_items=50)


@pytest.fixture(scope="module")
def studied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three variants of two seeds, of one variant a third."""
    out = tmp_path_factory.mktemp("study") / "out"
    line = ["analyze", "ablation", "--data", str(data), "--out", str(out), *SET]
    names = ["--only", "full", "--only", "no-filter", "--only", "without-image"]
    assert execute([*line, "--seeds", "0,1", *names]) == 0
    assert execute([*line, "--seeds", "4", "--only", "no-filter"]) == 0
    return out


@pytest.fixture
def copied(studied: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(studied, tmp_path / "out"))


def ended(found: StudyPlan, metrics: tuple[str, ...] = METRICS) -> list[MeasuredRun]:
    return read_runs(existing_runs(found.out, found.variants), "valid", metrics)


def test_a_variant_of_equal_settings_is_not_trained_twice(data: Path, tmp_path: Path) -> None:
    asked = ["full", "no-alignment", "pairwise", "with-user-graph"]
    found = plan(str(data), tmp_path, [3, 5], asked, ["alignment=pairwise", "num_user_neighbors=40"])
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
        ((), ["embeding_dim=8"], r"^unknown key 'embeding_dim' \(did you mean 'embedding_dim'\?\)"),
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
    grid = {"full": ablation.GRID["full"], "odd": ("odd", ("embedding_dim=0",))}
    monkeypatch.setattr(ablation, "GRID", grid)
    assert execute(["analyze", "ablation", "--data", str(data), "--out", str(tmp_path / "out"), *SET]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: variant odd: gtc: embedding_dim: Input should be greater than or equal to 1, found 0"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_settings_is_refused(data: Path, copied: Path) -> None:
    with pytest.raises(
        RunError, match=r"full-0: holds a run with settings.embedding_dim = 8, expected 16; give the settings"
    ):
        plan(str(data), copied, [0], ["full"], [*SMALL, "embedding_dim=16"])
    with pytest.raises(RunError, match=r"-0: holds a run with settings.embedding_dim = 8, expected 16"):
        plan(
            str(data), copied, [9], ["pairwise"], [*SMALL, "embedding_dim=16"]
        )  # trains none of them, but the table shows them
    (copied / "pairwise-0").mkdir()
    (copied / "pairwise-0" / "note.txt").write_text("mine")
    with pytest.raises(RunError, match=r"pairwise-0: expected a new or empty folder"):
        plan(str(data), copied, [0], ["pairwise"], SMALL)


def test_a_stopped_ablation_goes_on_and_ends_as_the_unbroken_one(data: Path, studied: Path, copied: Path) -> None:
    shutil.rmtree(copied / "full-0")
    for name in ("no-filter-0", "no-filter-1"):
        shutil.rmtree(copied / name)
    (run,) = plan(str(data), copied, [0], ["no-filter"], SMALL).runs
    next(iter(start_or_resume(run).epochs()))  # and there it is killed
    assert start_or_resume(run).epochs_done == 1
    kept = (copied / "full-1" / "report.json").stat().st_mtime_ns
    line = ["analyze", "ablation", "--data", str(data), "--out", str(copied), *SET, "--seeds", "0,1"]
    assert execute([*line, "--only", "full", "--only", "no-filter"]) == 0
    for name in ("full-0", "no-filter-0", "no-filter-1"):
        for file in ("history.jsonl", "model.safetensors"):
            assert (copied / name / file).read_bytes() == (studied / name / file).read_bytes()
    assert (copied / "full-1" / "report.json").stat().st_mtime_ns == kept


def test_each_run_that_ends_is_one_line_and_the_table_goes_to_stdout(
    data: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["ablate", "--data", str(data), "--out", str(copied), *SET, "--seeds", "0,1", "--only", "full"]
    shutil.rmtree(copied / "full-1")
    assert execute(line) == 0
    shown, said = capsys.readouterr()
    lines = said.splitlines()
    assert re.sub(r"\d\.\d{4}", "X", lines[0]) == "2/2  full-1  done  ndcg@20 X"
    assert lines[1:] == [str(copied / f"ablation.{end}") for end in ("md", "json", "svg")]
    assert execute([*line, "--only", "pairwise", "--table-only"]) == 0
    shown, said = capsys.readouterr()
    assert said.splitlines() == lines[1:]
    assert not (copied / "pairwise-0").exists()
    assert re.search(r"^pairwise +not finished", shown, re.MULTILINE)
    assert re.search(r"^no-filter +0, 1, 4 \(paired: 0, 1\) +\d, \d, \d +\d\.\d\d +[\d,]+$", shown, re.MULTILINE)


def test_one_seed_gives_the_same_tests_as_a_comparison_of_the_two_runs(data: Path, copied: Path) -> None:
    shutil.rmtree(copied / "full-1")
    shutil.rmtree(copied / "without-image-0")
    shutil.rmtree(copied / "without-image-1")
    found = plan(str(data), copied, [0], ["full"], SMALL)
    rows = {row.name: row for row in compare_variants(found.variants, ended(found), METRICS)}
    records = [(name, read_run_record(copied / f"{name}-0")) for name in ("full", "no-filter")]
    assert [rows["no-filter"].estimates[metric].against.test for metric in METRICS] == compare_runs(records, METRICS)
    means = [read_run_record(copied / f"no-filter-{seed}").result.valid.means["ndcg@5"] for seed in (0, 1, 4)]
    one = rows["no-filter"].estimates["ndcg@5"]
    assert (one.mean, one.sd) == (pytest.approx(sum(means) / 3), pytest.approx(stdev(means)))


def test_the_files_hold_the_rows_of_the_table(data: Path, studied: Path) -> None:
    found = plan(str(data), studied, [0], ["full"], SMALL)
    facts = json.loads((studied / "ablation.json").read_text())
    metrics = tuple(facts["variants"][0]["estimates"])  # one family
    rows = compare_variants(found.variants, ended(found, metrics), metrics)
    assert (facts["data"], facts["on"], facts["base"]) == ("shop", "valid", "full")
    assert facts["users"] == read_run_record(studied / "full-0").result.valid.users
    assert [one["name"] for one in facts["variants"]] == ["full", "no-filter", "without-image"]
    page = (studied / "ablation.md").read_text()
    for row, stored in zip(rows, facts["variants"], strict=True):
        one, there = row.estimates["ndcg@5"], stored["estimates"]["ndcg@5"]
        assert (there["mean"], there["sd"]) == (one.mean, one.sd)
        assert there.get("relative") == (one.against and one.against.relative)
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {row.name} |"))
        assert f"| {one.mean:.4f} ± {one.sd:.4f} |" in line
        if one.against:
            low, high = one.against.interval or (0.0, 0.0)
            text = f"{one.against.relative:+.1%} [{low:+.1%}, {high:+.1%}], p {one.against.test.p_holm:.4f}"
            assert re.search(rf"\| {re.escape(text)}{r' ?..' if one.significant else ''} \|", line)
    texts = re.findall(r"<!-- (.*?) -->", (studied / "ablation.svg").read_text())
    assert [text for text in texts if text in ("full", "no-filter", "without-image")] == ["no-filter", "without-image"]


def test_test_is_looked_at_when_asked_and_once_a_run(
    data: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured_at() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in copied.glob("*/per_user_test.parquet")}

    line = ["analyze", "ablation", "--data", str(data), "--out", str(copied), *SET]
    line += ["--only", "full", "--seeds", "0,1"]
    assert execute(line) == 0
    assert measured_at() == {}
    assert execute([*line, "--on", "test", "--jobs", "2"]) == 0
    first = measured_at()
    assert sorted(first) == ["full-0", "full-1"]
    assert execute([*line, "--on", "test"]) == 0
    assert measured_at() == first
    facts = json.loads((copied / "ablation.json").read_text())
    assert (facts["on"], [one["seeds"] for one in facts["variants"]]) == ("test", [[0, 1], [], []])
    result = read_run_record(copied / "full-0").result.test
    assert result is not None
    assert facts["users"] == result.users
    assert "recall@20, test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--seeds", "0,0"], 2, "--seeds: expected distinct whole numbers such as 0,1,2, found '0,0'"),
        (["--seeds", "-1"], 2, "--seeds: expected distinct whole numbers such as 0,1,2, found '-1'"),
        (["--only", "full", "--metric", "ndcg@55"], 1, "'ndcg@55' is not measured (did you mean 'ndcg@5'?); measured"),
        (["--only", "full", "--table-only"], 1, "expected runs that have been measured on valid, found none"),
        (
            ["--only", "full", "--set", "valid_users=20"],
            1,
            "expected the same validation users for every seed, found valid_users=20; use --on test or 0",
        ),
    ],
)
def test_wrong_usage_is_refused_before_anything_trains(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert execute(["analyze", "ablation", "--data", str(data), "--out", str(tmp_path / "out"), *SET, *more]) == code
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().err).split())
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_and_an_unmeasured_metric_are_named(data: Path, copied: Path) -> None:
    found = plan(str(data), copied, [0], ["full"], SMALL)
    with pytest.raises(
        ConfigError, match=r"'ndcg@7' was not measured \(did you mean 'ndcg@\d+'\?\); measured: recall@5"
    ):
        ended(found, ("ndcg@7",))
    path = copied / "no-filter-1" / "per_user_valid.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"no-filter-1/per_user_valid.parquet: damaged or edited"):
        ended(found)


# The table, from figures that can be worked out by hand.


def variant(name: str, data: str = "x") -> Variant:
    return Variant(name, name, load_config(data, "gtc"))


def test_users_are_averaged_over_the_seeds_of_both_and_paired() -> None:
    runs = [
        measured_run("full", 0, [0.2, 0.4, 0.6]),
        measured_run("full", 1, [0.4, 0.4, 0.4]),
        measured_run("full", 2, [1.0, 1.0, 1.0]),
        measured_run("less", 0, [0.1, 0.4, 0.4]),
        measured_run("less", 1, [0.1, 0.4, 0.2]),
        measured_run("less", 3, [0.0, 0.0, 0.0]),
    ]
    full, less = compare_variants([variant("full"), variant("less")], runs, ["hit@1"])
    assert (full.seeds, full.paired, less.seeds, less.paired) == ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 1))
    one = less.estimates["hit@1"]
    assert one.mean == pytest.approx((0.9 / 3 + 0.7 / 3 + 0) / 3)
    assert one.sd == pytest.approx(stdev([0.9 / 3, 0.7 / 3, 0]))
    assert one.against is not None
    test, relative, interval = one.against
    # full over seeds 0 and 1: .3 .4 .5, mean .4; less: .1 .4 .3; differences -.2 0 -.2
    assert test.difference == pytest.approx(-0.4 / 3)
    assert relative == pytest.approx(-1 / 3)
    expected = paired_test(np.array([0.1, 0.4, 0.3]), np.array([0.3, 0.4, 0.5]), np.random.default_rng(0))
    assert interval == pytest.approx((expected.low / 0.4, expected.high / 0.4))
    assert test.p == expected.p
    assert test.p_seeds is not None
    assert test.p_holm == max(test.p, test.p_seeds)
    assert full.estimates["hit@1"].against is None
    assert (less.best_epochs, less.cpu_seconds, less.parameters) == ((0, 1, 3), pytest.approx(1 + 4 / 3), 10)


def test_holm_is_over_the_variants_and_metrics() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(200)
    runs = [measured_run("full", 0, base.tolist())]
    shifts = {"a": 0.2, "b": 0.07, "c": 0.0}
    runs += [measured_run(name, 0, (base + rng.normal(by, 0.4, 200)).tolist()) for name, by in shifts.items()]
    rows = compare_variants([variant(name) for name in ("full", *shifts)], runs, ["hit@1"])
    tests = [one.against.test for row in rows[1:] if (one := row.estimates["hit@1"]).against]
    assert [test.p_holm for test in tests] == holm([test.p for test in tests]).tolist()
    assert tests[1].p_holm > tests[1].p
    assert [row.estimates["hit@1"].significant for row in rows[1:]] == [test.p_holm < 0.05 for test in tests]
    assert rows[1].estimates["hit@1"].significant
    assert not rows[3].estimates["hit@1"].significant


def test_without_full_there_are_means_and_no_tests() -> None:
    full, less = compare_variants([variant("full"), variant("less")], [measured_run("less", 0, [0.5, 0.7])], ["hit@1"])
    assert (full.estimates, full.parameters, full.cpu_seconds) == ({}, None, None)
    assert vars(less.estimates["hit@1"]) == vars(Estimate(pytest.approx(0.6), None))


def test_nothing_is_relative_to_zero() -> None:
    runs = [measured_run("full", 0, [0.0, 0.0]), measured_run("less", 0, [0.5, 0.5])]
    against = compare_variants([variant("full"), variant("less")], runs, ["hit@1"])[1].estimates["hit@1"].against
    assert against is not None
    assert (against.test.difference, against.relative, against.interval) == (0.5, None, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"users": [0, 2]}, "full-0 and less-0 were measured on different users; expected the same users and"),
        ({"train": "c"}, "full-0 and less-0 saw different training or relevant pairs"),
        ({"fingerprint": "beef"}, "full-0 and less-0 saw different data: fingerprints must be equal"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(more: dict[str, object], message: str) -> None:
    runs = [measured_run("full", 0, [0.1, 0.2]), measured_run("less", 0, [0.1, 0.2], **more)]  # type: ignore[arg-type]
    with pytest.raises(RunError, match=message):
        compare_variants([variant("full"), variant("less")], runs, ["hit@1"])


def test_a_variant_that_reads_other_content_has_another_fingerprint_and_is_paired() -> None:
    runs = [measured_run("full", 0, [0.1, 0.2]), measured_run("less", 0, [0.1, 0.2], data="y", fingerprint="beef")]
    rows = compare_variants([variant("full"), variant("less", "y")], runs, ["hit@1"])
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
