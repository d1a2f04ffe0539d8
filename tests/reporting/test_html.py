"""The page of a run, the plots, and the comparison of runs."""

import base64
import builtins
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gtcrec.errors import ConfigError, GtcrecError, RunError
from gtcrec.evaluation.comparison import PairedDifference
from gtcrec.evaluation.metrics import headline_cut
from gtcrec.reporting import figures
from gtcrec.reporting.html import write_comparison_page, write_run_report
from gtcrec.reporting.run_comparison import (
    annotate_ranks,
    comparable_part,
    compare_runs,
    evaluation_table,
    shared_means,
    unfinished_runs,
)
from gtcrec.reporting.run_record import EvaluationRecord, read_run_record

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
METRICS = ("recall@5", "recall@20", "ndcg@5", "ndcg@20")


def evaluation(value: float, liked: str = "aa") -> dict[str, Any]:
    means = {name: value + 0.001 * place for place, name in enumerate(METRICS)}
    return {
        "users": 1234,
        "means": means,
        "intervals": {name: [mean - 0.002, mean + 0.002] for name, mean in means.items()},
        "lists": {"coverage@20": 0.61},
        "slices": {"items: cold": {"users": 17, **means}},
        "about": {"on": "valid", "fingerprints": {"liked": liked}},
    }


def write_run(
    folder: Path, model: str = "gtc", value: float = 0.05, epochs: int = 3, test: float | None = None
) -> Path:
    """Write a run folder as training leaves it."""
    folder.mkdir(parents=True)
    result = {"model": model, "best_epoch": 2, "epochs": epochs, "stop": "no better", "parameters": 98765}
    result |= {"valid": evaluation(value)} | ({} if test is None else {"test": evaluation(test)})
    counts = {"users": 1200, "items": 600, "interactions": 13324, "modalities": {"image": {"width": 8}}}
    files = {
        "report.json": result,
        "data.json": {"name": "shop", "fingerprint": "f00d", "counts": counts, "notes": {"duplicates": 41}},
        "environment.json": {"python": "3.11.9", "versions": {"numpy": "2.4.1"}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    train = {"learning_rate": 0.00321, "epochs": 1000, "patience": 50, "valid_every": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "train": train}))
    lines = [
        {
            "epoch": epoch,
            "losses": {"bpr": 1 / epoch, "log.tc_bound_nats": epoch / 3},
            "valid": evaluation(0.01 * epoch)["means"],
            "best": epoch <= 2,
        }
        for epoch in range(1, epochs + 1)
    ]
    times = [{"epoch": e, "train_seconds": float(e), "train_cpu_seconds": 2.0 * e} for e in range(1, epochs + 1)]
    for name, entries in (("history.jsonl", lines), ("timings.jsonl", times)):
        (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def write_users(folder: Path, values: np.ndarray, part: str = "test", users: int = 0) -> None:
    table = {"user": [f"u{users + i}" for i in range(len(values))], **{m: values for m in METRICS}}
    pq.write_table(pa.table(table), folder / f"per_user_{part}.parquet")


class Page(HTMLParser):
    """Collects what a page asks a browser to load or to run, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for name, v in attrs if name in ("src", "srcset", "href", "poster", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_one_file_without_scripts_or_addresses(tmp_path: Path) -> None:
    page = Page(write_run_report(write_run(tmp_path / "run")))
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert len(page.addresses) == 8  # two plots, light and dark, wide and for a phone
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_a_run_without_test_says_so_and_shows_validation(tmp_path: Path) -> None:
    page = Page(write_run_report(write_run(tmp_path / "run", value=0.05)))
    assert "Result on validation" in page.text
    assert "Test not evaluated yet: run gtcrec evaluate run" in page.text
    assert "0.0510 0.0490 to 0.0530" in page.text  # recall@20 and its interval


def test_an_evaluated_run_shows_test_not_validation(tmp_path: Path) -> None:
    page = Page(write_run_report(write_run(tmp_path / "run", value=0.05, test=0.08)))
    assert "Result on test" in page.text
    assert "not evaluated yet" not in page.text
    assert "0.0810 0.0790 to 0.0830" in page.text
    assert "0.0510" not in page.text


def test_the_page_holds_data_settings_environment_slices_and_times(tmp_path: Path) -> None:
    text = Page(write_run_report(write_run(tmp_path / "run"))).text
    for words in (
        "1,200 users, 600 items and 13,324 interactions; the content is image",
        "(98,765 parameters)",
        "duplicates 41",
        "f00d",
        "learning_rate 0.00321",
        "versions.numpy 2.4.1",
        "items: cold 17",
        "Training, wall clock 2.00 6.0",  # median and sum of 1, 2, 3
        "Training, CPU 4.00 12.0",
    ):
        assert words in text


def test_titles_are_escaped_and_images_embedded(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (tmp_path / "lamp.png").write_bytes(PNG)
    (tmp_path / "no.png").write_bytes(b"<svg onload=alert(1)>")
    (tmp_path / "big.png").write_bytes(PNG + bytes(1 << 20))
    liked = {"item": 7, "title": "<script>alert(1)</script>", "image": "../lamp.png"}
    missing = [
        {"item": "i8", "title": None, "image": path} for path in ("../gone.png", "../no.png", "../big.png", None)
    ]
    recommended = [{**liked, "score": 1.5, "hit": True}, {**liked, "score": 1.25, "hit": False}]
    users = [{"user": "u1", "liked": [liked, *missing], "recommended": recommended}]
    (folder / "examples.json").write_text(json.dumps({"users": users}))
    page = Page(write_run_report(folder))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert page.addresses.count("data:image/png;base64," + base64.b64encode(PNG).decode()) == 3
    assert "1 of 2 hit" in page.text
    assert len(re.findall(r"\bi8\b", page.text)) == 4  # without a title the id stands


def test_a_model_without_training_has_no_curves(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=1)
    line = {"epoch": 1, "losses": {}, "valid": {"recall@20": 0.1}, "best": True}
    (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    text = Page(write_run_report(folder)).text
    assert "computed in one pass" in text
    assert "Learning curves" not in text
    assert not (folder / "curves.png").exists()


def test_without_matplotlib_the_page_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    folder = write_run(tmp_path / "run")
    page = Page(write_run_report(folder))
    assert "pip install gtcrec[plot]" in page.text
    assert page.addresses == []
    assert not (folder / "curves.png").exists()


def test_rendering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    names = ("report.html", "curves.png", "losses.png")
    write_run_report(folder)
    first = [(folder / name).read_bytes() for name in names]
    write_run_report(folder)
    assert [(folder / name).read_bytes() for name in names] == first
    assert all(content.startswith(b"\x89PNG") for content in first[1:])


FILES = ("report.json", "data.json", "environment.json", "history.jsonl", "timings.jsonl", "config.yaml")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: missing; a run folder must have it"):
        write_run_report(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b'{"cut": [', b"\xff\xfe"])
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name}.*: (damaged|cannot be read): "):
        write_run_report(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.json", "{}", r"report\.json: damaged: model: Field required"),
        (
            "history.jsonl",
            '{"epoch": 1, "losses": {}}\n{"epoch": "x"}',
            r"history\.jsonl, line 2: damaged: epoch: ",
        ),
        ("config.yaml", "- 1", r"config\.yaml: damaged: expected keys and values, found list"),
        ("examples.json", '{"users": [{}]}', r"examples\.json: damaged: users\.0\.user: Field required"),
    ],
)
def test_the_damaged_place_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(RunError, match=message):
        write_run_report(folder)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere: expected a run folder, found nothing"):
        read_run_record(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: expected a run folder, found a file"):
        read_run_record(tmp_path / "file")


def test_an_evaluation_has_a_row_a_kind_and_a_column_a_cut_off() -> None:
    found = EvaluationRecord(
        users=2,
        means={"recall@5": 0.1, "recall@20": 0.2, "mrr": 0.3},
        intervals={"recall@5": (0.0, 0.2)},
        lists={"gini@20": 0.4},
    )
    table = evaluation_table(found, "title")
    assert (table.title, table.headers) == ("title", ("metric", "", "@5", "@20"))
    assert [[(cell.text, cell.detail) for cell in row] for row in table.rows] == [
        [("recall", ""), ("", ""), ("0.1000", "0.0000 to 0.2000"), ("0.2000", "")],
        [("mrr", ""), ("0.3000", ""), ("", ""), ("", "")],
        [("gini", ""), ("", ""), ("", ""), ("0.4000", "")],
    ]


def test_the_headline_is_at_20_or_the_longest_list() -> None:
    assert headline_cut(["recall@5", "recall@20", "recall@50"]) == "20"
    assert headline_cut(["recall@5", "recall@10"]) == "10"
    assert headline_cut(["mrr"]) == "20"


def test_best_second_and_significant_are_marked() -> None:
    tests = [
        PairedDifference("b", "a", "m", -0.1, (-0.2, 0.0), 0.01, 0.02),
        PairedDifference("c", "a", "m", 0.1, (0, 1), 0.04, 0.08),
    ]
    rows = annotate_ranks([("a", {"m": 0.20001}), ("b", {"m": 0.1}), ("c", {"m": 0.20002})], ["m"], tests)
    flags = {name.text: (cell.best, cell.second, cell.mark) for name, cell in rows}
    assert flags == {"a": (True, False, ""), "b": (False, True, "*"), "c": (True, False, "")}


def test_missing_values_have_no_rank() -> None:
    rows = annotate_ranks([("a", {"m": None}), ("b", {}), ("c", {"m": 0.1}), ("d", {"m": 0.2})], ["m"])
    assert [(cell.text, cell.best, cell.second) for _, cell in rows] == [
        ("–", False, False),
        ("–", False, False),
        ("0.1000", False, True),
        ("0.2000", True, False),
    ]


def test_runs_are_compared_on_validation_until_all_have_test(tmp_path: Path) -> None:
    runs = [(name, read_run_record(write_run(tmp_path / name, test=test))) for name, test in (("a", 0.1), ("b", None))]
    assert comparable_part([record for _, record in runs]) == "valid"
    assert shared_means(runs)[0][1]["recall@5"] == 0.05
    assert comparable_part([runs[0][1]]) == "test"
    assert shared_means(runs[:1])[0][1]["recall@5"] == 0.1


def test_paired_differences_are_run_minus_base(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    base = rng.random(60)
    values = {"a": base, "b": base - 0.125, "c": base[::-1].copy()}
    runs = []
    for name, x in values.items():
        folder = write_run(tmp_path / name, test=0.1)
        write_users(folder, x)
        runs.append((name, read_run_record(folder)))
    tests = compare_runs(runs, ["recall@20"])
    assert [(test.name, test.base) for test in tests] == [("b", "a"), ("c", "a")]
    assert tests[0].difference == pytest.approx(-0.125)
    assert tests[0].interval == pytest.approx((-0.125, -0.125))
    assert tests[0].p < 0.001
    assert tests[0].p_holm == pytest.approx(2 * tests[0].p)  # the smaller of two
    assert tests[1].difference == pytest.approx(0)
    assert tests[1].p_holm > 0.9


def two_runs(tmp_path: Path) -> list[Path]:
    folders = [write_run(tmp_path / name, test=0.1) for name in ("a", "b")]
    for folder in folders:
        write_users(folder, np.arange(5.0))
    return folders


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: change(f / "data.json", "f00d", "beef"), RunError, "b and a saw different data"),
        (
            lambda f: change(f / "report.json", '"aa"', '"bb"'),
            RunError,
            "b and a were measured on different test inter",
        ),
        (
            lambda f: write_users(f, np.arange(5.0), users=1),
            RunError,
            "b and a were evaluated on different users",
        ),
        (
            lambda f: (f / "per_user_test.parquet").unlink(),
            RunError,
            r"per_user_test\.parquet: missing; a run folder",
        ),
        (
            lambda f: (f / "per_user_test.parquet").write_bytes(b"PAR1"),
            RunError,
            r"per_user_test\.parquet: damaged: ",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    spoil: Any, error: type[GtcrecError], message: str, tmp_path: Path
) -> None:
    folders = two_runs(tmp_path)
    spoil(folders[1])
    with pytest.raises(error, match=message):
        compare_runs([(folder.name, read_run_record(folder)) for folder in folders], ["recall@20"])


def test_an_unmeasured_metric_is_refused_with_the_nearest(tmp_path: Path) -> None:
    runs = [(folder.name, read_run_record(folder)) for folder in two_runs(tmp_path)]
    with pytest.raises(ConfigError, match=r"'recal@20' was not measured in a \(did you mean 'recall@20'\?\); found"):
        compare_runs(runs, ["recal@20"])


def test_the_comparison_page_names_part_base_and_tests(tmp_path: Path) -> None:
    runs = [
        (name, write_run(tmp_path / name, name, value, test=value)) for name, value in (("gtc", 0.08), ("bpr", 0.06))
    ]
    tests = [PairedDifference("bpr", "gtc", "recall@20", -0.02, (-0.03, -0.01), 0.0004, 0.0008)]
    out = write_comparison_page(runs, tests, tmp_path / "page.html")
    page = Page(out)
    html = out.read_text()
    assert out == tmp_path / "page.html"
    assert "Test figures, means over 1,234 users" in page.text
    assert "bpr recall@20 -0.0200 -0.0300 to -0.0100 0.0004 0.0008" in page.text
    assert "<b>0.0810</b>" in html
    assert '<u>0.0610</u><span class="star">*</span>' in html
    assert page.addresses == []
    assert "These are validation figures" not in page.text


@pytest.mark.parametrize(
    ("best", "epochs", "limit", "patience", "warned"),
    [(6, 6, 6, 3, True), (4, 6, 6, 3, True), (3, 6, 6, 3, False), (3, 6, 9, 3, False), (6, 6, 9, 3, False)],
)
def test_a_run_that_still_improved_at_its_epoch_limit_is_named(
    best: int, epochs: int, limit: int, patience: int, warned: bool, tmp_path: Path
) -> None:
    record = read_run_record(write_run(tmp_path / "gtc"))
    train = {"epochs": limit, "patience": patience, "valid_every": 1}
    result = record.result.model_copy(update={"best_epoch": best, "epochs": epochs})
    changed = replace(record, result=result, config={**record.config, "train": train})
    assert [sentence.partition(" ")[0] for sentence in unfinished_runs([("run", changed)])] == ["run"] * warned


def test_a_comparison_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a comparison needs at least one run, found none"):
        write_comparison_page([], [], tmp_path / "page.html")


def test_other_runs_can_stand_beside_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "gtc", value=0.08)
    page = Page(write_run_report(folder, [("bpr", write_run(tmp_path / "bpr", "bpr", 0.06))]))
    assert "Beside other runs" in page.text
    assert "bpr 0.0600 0.0610" in page.text
