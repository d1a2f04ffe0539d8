"""Missing content: what is trained, what is refused, and what the table and the plot say."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, RunError
from gtcrec.evaluation.statistics import holm
from gtcrec.experiments.analysis.missing_modalities import compare_points, plan
from gtcrec.experiments.execution.scheduler import WorkerPool
from gtcrec.experiments.measured_run import MeasuredRun
from gtcrec.experiments.run import Run
from gtcrec.reporting import figures
from gtcrec.reporting.run_record import read_run_record
from helpers.bench import measured_run

SMALL = ["epochs=1", "embedding_dim=8", "batch_size=512"]
SET = [word for one in SMALL for word in ("--set", one)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=60, n_items=40)


@pytest.fixture(scope="module")
def studied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vbpr and contentknn at shares 0 and 0.6 of the image, of seed 1."""
    out = tmp_path_factory.mktemp("study") / "out"
    assert execute(line(data, out)) == 0
    return out


def line(data: Path, out: Path) -> list[str]:
    own = [word for one in SMALL for word in ("--set", f"vbpr:{one}")]
    peers = ["--model", "vbpr", "--also", "contentknn"]
    grid = ["--shares", "0,0.6", "--modality", "image", "--seeds", "1"]
    return ["analyze", "missing-modalities", "--data", str(data), "--out", str(out), *peers, *grid, *own]


def test_each_modality_is_hidden_alone_and_all_together_and_nothing_once(data: Path, tmp_path: Path) -> None:
    found = plan(str(data), tmp_path, ["gtc", "vbpr"], [0, 0.9, 0.3], [0])
    assert [(one.model, one.masked, one.missing_rate) for one in found.points] == [
        (model, hidden, share)
        for model in ("gtc", "vbpr")
        for hidden, share in [("", 0), *((m, x) for m in ("image", "text", "image+text") for x in (0.3, 0.9))]
    ]
    hidden = {one.variant.name: one.variant.config.data.missing_rate for one in found.points}
    assert hidden["gtc-intact"] == {}
    assert hidden["gtc-text-90"] == {"text": 0.9}
    assert hidden["vbpr-image+text-30"] == {"image": 0.3, "text": 0.3}


def test_each_seed_hides_other_items_at_every_share_alike(data: Path, tmp_path: Path) -> None:
    found = plan(str(data), tmp_path, ["vbpr"], [0.3, 0.9], [2, 5], ["image"])
    assert [(run.folder.name, run.config.train.seed, run.config.data.missing_seed) for run in found.runs] == [
        ("vbpr-intact-2", 2, 0), ("vbpr-intact-5", 5, 0),
        ("vbpr-image-30-2", 2, 2), ("vbpr-image-30-5", 5, 5),
        ("vbpr-image-90-2", 2, 2), ("vbpr-image-90-5", 5, 5),
    ]  # fmt: skip


def test_a_setting_may_be_of_one_model(data: Path, tmp_path: Path) -> None:
    given = ["epochs=7", "vbpr:epochs=9", "vbpr:dim=8", "contentknn:neighbours=5"]
    found = plan(str(data), tmp_path, ["gtc", "vbpr", "contentknn"], [0], [0], settings=given)
    configs = [run.config for run in found.runs]
    assert [one.train.epochs for one in configs] == [7, 9, 7]
    assert [one.settings.get("embedding_dim") for one in configs] == [128, 8, None]
    assert configs[2].settings["num_neighbors"] == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ["gtcc"]}, r"^unknown model 'gtcc' \(did you mean 'gtc'\?\)"),
        ({"models": ["gtc", "gtc"]}, "^expected distinct models, found gtc, gtc$"),
        ({"shares": [0.3, 0.3]}, "^expected distinct shares, found 0.3, 0.3$"),
        (
            {"shares": [0.3, 1.0]},
            r"^expected shares in \[0, 1\), found 1.0; to leave a modality out, use data.modalities",
        ),
        ({"masked": ["image", "image"]}, "^expected distinct modalities, found image, image$"),
        (
            {"masked": ["image+txt"]},
            r"^no content 'txt' to mask \(did you mean 'text'\?\); the data have: image, text$",
        ),
        ({"settings": ["seed=3"]}, "^the study's seeds are those of --seeds, found the setting 'seed=3'"),
        ({"settings": ["gtc:train.seed=3"]}, "found the setting 'gtc:train.seed=3'"),
        ({"settings": ["data.hidden_seed=3"]}, "found the setting 'data.hidden_seed=3'"),
        ({"settings": ["vbrp:dim=8"]}, r"^'vbrp:dim=8': the study has no model 'vbrp'.*; has gtc$"),
        (
            {"settings": ["data.hidden={image: 0.5}"]},
            r"^what is masked is for --shares and --modality, found data.missing_rate=",
        ),
        ({"settings": ["data.modalities=[]"]}, "shop: its data have no content, so there is none to mask$"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    data: Path, tmp_path: Path, changed: dict[str, list[str]], message: str
) -> None:
    wanted: dict[str, object] = {"models": ["gtc"], "shares": [0, 0.3], "seeds": [0], **changed}
    with pytest.raises(ConfigError, match=message):
        plan(str(data), tmp_path, **wanted)  # type: ignore[arg-type]


def test_shares_that_are_no_numbers_are_wrong_usage(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        execute(
            ["analyze", "missing-modalities", "--data", str(data), "--out", str(tmp_path / "out"), "--shares", "0,x"]
        )
        == 2
    )
    said = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().err).split())
    assert "--shares: expected numbers such as 0,0.3,0.6,0.9, found '0,x'" in said


def test_a_table_without_any_run_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*line(data, tmp_path / "out"), "--table-only"]) == 1
    assert "expected runs that have been measured on valid, found none" in capsys.readouterr().err


def test_the_run_folders_were_trained_with_what_was_left(studied: Path) -> None:
    whole, *hidden = (
        read_run_record(studied / name) for name in ("vbpr-intact-1", "vbpr-image-60-1", "contentknn-image-60-1")
    )
    n_present = whole.data.counts["modalities"]["image"]["present"]
    for record in hidden:
        assert record.data.counts["modalities"]["image"]["present"] == n_present - int(0.6 * n_present)
        assert record.data.counts["modalities"]["text"] == whole.data.counts["modalities"]["text"]
        assert record.data.counts["interactions"] == whole.data.counts["interactions"]
        assert record.data.notes["image: items whose content was hidden"] == int(0.6 * n_present)
    assert hidden[0].data.fingerprint == hidden[1].data.fingerprint != whole.data.fingerprint


def test_a_run_of_hidden_content_is_evaluated_and_resumed_as_any_other(studied: Path, data: Path) -> None:
    run = Run.load(studied / "vbpr-image-60-1")
    assert run.finished
    assert (run.config.data.missing_rate, run.config.data.missing_seed) == ({"image": 0.6}, 1)
    assert run.dataset.fingerprint == read_run_record(run.folder).data.fingerprint


def test_the_same_command_trains_nothing_again_and_other_settings_are_refused(
    data: Path, studied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerPool, "start", lambda *_: pytest.fail("trained again"))
    assert execute(line(data, studied)) == 0
    with pytest.raises(RunError, match=r"vbpr-intact-1: holds a run with settings.embedding_dim = 8, expected 16"):
        plan(str(data), studied, ["vbpr"], [0], [1], settings=["epochs=1", "dim=16", "batch_size=512"])


def test_the_files_hold_each_model_against_its_own_share_0(data: Path, studied: Path) -> None:
    facts = json.loads((studied / "missing.json").read_text())
    assert (facts["data"], facts["on"], facts["base"], facts["metrics"]) == ("shop", "valid", "share 0", ["ndcg@20"])
    points = [(one["model"], one["hidden"], one["share"], one["seeds"]) for one in facts["points"]]
    assert points == [
        (model, hidden, share, [1]) for model in ("vbpr", "contentknn") for hidden, share in (("", 0), ("image", 0.6))
    ]
    rows = pq.read_table(studied / "missing.parquet").to_pylist()
    page = (studied / "missing.md").read_text()
    assert "![What is lost as content is masked](missing.svg)" in page
    for one, row in zip(facts["points"], rows, strict=True):
        mean = read_run_record(studied / f"{one['name']}-1").result.valid.means["ndcg@20"]
        assert one["estimates"]["ndcg@20"]["mean"] == row["mean"] == pytest.approx(mean)
        assert (row["model"], row["hidden"], row["share"]) == (one["model"], one["hidden"], one["share"])
        assert f"| {one['name']} | {one['what']} | {mean:.4f} |" in page
        stored = one["estimates"]["ndcg@20"]
        assert ("p" in stored) == bool(one["hidden"])
        if one["hidden"]:
            assert stored["base"] == f"{one['model']}-intact"
            names = ("difference", "difference_low", "difference_high", "relative", "p", "p_holm")
            assert [row[name] for name in names] == [stored[name] for name in names]
    drawn = (studied / "missing.svg").read_text()
    texts = re.findall(r"<!-- (.*?) -->", drawn)
    assert [text for text in texts if ": image" in text] == ["vbpr: image", "contentknn: image"]


# The table, from figures that can be worked out by hand.


def measured(values: dict[str, list[float]], data: str = "") -> list[MeasuredRun]:
    """A run of seed 0 for each name with these values of hit@1; what is masked changes data and fingerprint."""
    return [measured_run(name, 0, own, data=data or name, fingerprint=name) for name, own in values.items()]


def test_holm_is_over_the_points_of_one_model(data: Path, tmp_path: Path) -> None:
    study = plan(str(data), tmp_path, ["vbpr"], [0.3, 0.9], [0], ["image"])
    rng = np.random.default_rng(0)
    base = rng.random(200)
    shifted = {"vbpr-image-30": base + rng.normal(0.05, 0.4, 200), "vbpr-image-90": base - rng.normal(0.2, 0.4, 200)}
    runs = measured({"vbpr-intact": base.tolist(), **{name: x.tolist() for name, x in shifted.items()}})
    rows = [row for _, row in compare_points(study, runs, ["hit@1"])]
    tests = [one.against.test for row in rows if (one := row.estimates["hit@1"]).against]
    assert [test.difference for test in tests] == pytest.approx([float((x - base).mean()) for x in shifted.values()])
    assert [test.p_holm for test in tests] == holm([test.p for test in tests]).tolist()
    assert tests[0].p_holm > tests[0].p or tests[1].p_holm > tests[1].p
    assert rows[2].estimates["hit@1"].significant


def test_models_of_different_users_are_not_set_side_by_side(data: Path, tmp_path: Path) -> None:
    study = plan(str(data), tmp_path, ["vbpr", "contentknn"], [0], [0])
    runs = [*measured({"vbpr-intact": [0.1, 0.2]}), *measured({"contentknn-intact": [0.1, 0.2, 0.3]})]
    with pytest.raises(RunError, match="vbpr-intact-0 and contentknn-intact-0 were measured on different users"):
        compare_points(study, runs, ["hit@1"])


def test_one_content_hidden_must_have_been_the_same_for_all_models(data: Path, tmp_path: Path) -> None:
    study = plan(str(data), tmp_path, ["vbpr", "contentknn"], [0, 0.3], [0], ["image"])
    runs = measured({"vbpr-image-30": [0.1], "contentknn-image-30": [0.1]}, data="x")
    with pytest.raises(RunError, match="vbpr-image-30-0 and contentknn-image-30-0 saw different data"):
        compare_points(study, runs, ["hit@1"])


def test_a_plot_has_a_line_a_model_and_hidden_content_with_its_name() -> None:
    marks = [figures.Mark("", 0.4, 0.4, 0.4, False), figures.Mark("", 0.3, 0.2, 0.35, True)]
    points = list(zip((0.0, 90.0), marks, strict=True))
    curves = [figures.Curve("gtc", "image", points), figures.Curve("vbpr", "image", points)]
    drawn = figures.missing_curves([("ndcg@20", curves), ("recall@20", curves)], "hidden, %")
    assert drawn == figures.missing_curves([("ndcg@20", curves), ("recall@20", curves)], "hidden, %")
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    texts = re.findall(r"<!-- (.*?) -->", drawn.decode())
    words = ("ndcg@20", "recall@20", "gtc: image", "vbpr: image", "hidden, %")
    assert [texts.count(word) for word in words] == [1] * 5
    assert figures.missing_curves([("ndcg@20", [])], "hidden, %") == b""
