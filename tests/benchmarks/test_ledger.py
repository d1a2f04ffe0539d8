"""Every look at test has a line, with its date; pages print how many there were."""

from datetime import date
from pathlib import Path

import pytest

from benchmarks import pages, store
from benchmarks.accuracy import peers
from benchmarks.accuracy.running import quick_catalog
from benchmarks.blocks import Block
from benchmarks.ledger import Look, ledger_block, note_look, read_ledger
from benchmarks.paths import PAGES, RESULTS
from gtcrec.experiments.benchmark.plan import BenchmarkConfig


def test_a_look_is_noted_after_those_before(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    note_look("shop", ["gtc", "bpr"], "models tuned alike", path)
    note_look("toys", ["gtc"], "ablation", path)
    today = str(date.today())
    assert read_ledger(path) == [
        Look(today, "shop", "gtc, bpr", "models tuned alike"),
        Look(today, "toys", "gtc", "ablation"),
    ]


def test_the_table_counts_the_looks_of_each_data_set_and_names_the_ideas() -> None:
    looks = [
        Look("2026-11-23", "shop", "gtc", "first"),
        Look("2026-11-24", "shop", "gtc", "second", "a start"),
        Look("2026-11-24", "shop", "bpr", "third"),
        Look("2026-11", "audit", "l3ae", "tables", "l3ae"),
    ]
    assert ledger_block(looks).rows == [
        ("shop", "3", "2026-11-23 (1), 2026-11-24 (2)", "a start"),
        ("audit", "1", "2026-11 (1)", "l3ae"),
    ]
    assert ledger_block(looks, ["toys"]).rows == [("toys", "0", "–", "–")]


def test_a_damaged_ledger_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    path.write_text(
        "date,data,models,looked_at,idea,source\n2026-11-23,shop,gtc,first,,\nyesterday,shop,gtc,second,,\n"
    )
    with pytest.raises(SystemExit, match="line 3: expected a date such as 2026-11-29 or 2026-11, found 'yesterday'"):
        read_ledger(path)
    path.write_text("date,data,models,looked_at,idea,source\n2026-11-23,shop\n")
    with pytest.raises(SystemExit, match="line 2: expected date, data, models, looked_at, idea, source"):
        read_ledger(path)


def test_the_ledger_has_each_data_set_that_a_page_has_tested() -> None:
    data = {look.data for look in read_ledger()}
    assert {"tiktok", "sports", "ml100k", "baby", "clothing", "sports_id", "movies"} <= data
    assert any("l3ae" in look.idea for look in read_ledger())


def test_what_is_tested_is_noted_once(tmp_path: Path) -> None:
    catalog = quick_catalog(tmp_path / "catalog")
    entries = {"data": {"catalog": str(catalog)}, "models": ["popular", "itemknn"], "base": "popular", "seeds": [0]}
    config = BenchmarkConfig.model_validate(entries)
    (tmp_path / "results").mkdir()
    noted: list[tuple[str, list[str]]] = []

    def note(data: str, models: object, what: str) -> None:
        noted.append((data, list(models)))  # type: ignore[call-overload]

    peers.train(config, ["popular"], 1, tmp_path / "runs", tmp_path / "results", note)
    peers.train(config, [], 1, tmp_path / "runs", tmp_path / "results", note)
    peers.train(config, [], 1, tmp_path / "runs", tmp_path / "results", note)
    assert noted == [("catalog", ["popular"]), ("catalog", ["itemknn"])]


# What is withdrawn.


def test_withdrawn_models_have_no_rows_but_a_reason() -> None:
    text = (PAGES / "peers-ml100k.md").read_text(encoding="utf-8")
    stored = {row["name"] for row in store._read_rows(RESULTS / store.RUNS)}
    for model, reason in peers.WITHDRAWN.items():
        assert model in stored  # measured once, so it could be shown
        assert f"| {model} |" not in text
        assert f"- `{model}`: {reason}." in text
    assert "| bm3 |" in text


def test_a_stored_table_loses_the_rows_of_withdrawn_models_and_says_why() -> None:
    rows = [("vbpr with plots", "0.2"), ("gtc", "0.3"), ("vbpr", "0.1"), ("*bpr, published*", "0.1")]
    found = pages.without_withdrawn(Block(["text"], ("run", "recall@20"), rows))
    assert found.rows == [("gtc", "0.3"), ("*bpr, published*", "0.1")]
    reason = peers.WITHDRAWN["vbpr"]
    assert found.text == ["text", f"Withdrawn until measured again: `vbpr`, as {reason}."]
    costs = Block([], ("model", "seconds"), [("vbpr", "1")])
    assert pages.without_withdrawn(costs) == costs
