"""What `gtcrec benchmark` makes of its runs: statistics, tables, files and the page."""

import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gtcrec.cli.main import execute
from gtcrec.errors import DataError, RunError
from gtcrec.evaluation.statistics import bootstrap_interval, holm, paired_test
from gtcrec.experiments.benchmark.results import read_tested, results
from gtcrec.experiments.benchmark.tables import latex, markdown
from gtcrec.reporting import figures
from gtcrec.reporting.run_record import read_run_record
from gtcrec.runtime.files import sha256, write_json
from helpers.bench import RUNS, planned, write_file

# The results.


def test_users_are_averaged_over_seeds_paired_and_corrected_over_models(done: Path) -> None:
    plan = planned(done)
    runs = read_tested(plan.runs["shop"])
    found = results(plan, "shop", runs)
    assert [row.name for row in found.rows] == ["bpr", "popular", "wide"]
    assert [row.seeds for row in found.rows] == [(0, 1), (0,), (0, 1)]
    values = {}
    for name, seeds in (("bpr", (0, 1)), ("popular", (0,)), ("wide", (0, 1))):
        tables = [pq.read_table(done.parent / f"out/shop/{name}-{seed}/per_user_test.parquet") for seed in seeds]
        values[name] = [np.asarray(table["ndcg@20"]) for table in tables]
    average = {name: np.mean(own, axis=0) for name, own in values.items()}
    expected = [paired_test(average[name], average["bpr"], np.random.default_rng(0)) for name in ("popular", "wide")]
    every = {(row.name, m): row.estimates[m].against for row in found.rows[1:] for m in found.metrics}
    larger = [max(one.test.p, one.test.p_seeds) for one in every.values() if one and one.test.p_seeds is not None]
    assert len(larger) == len(every) == 2 * len(found.metrics)
    adjusted = dict(zip(every, holm(larger), strict=True))  # one family: all models and metrics of the table
    for row, test in zip(found.rows[1:], expected, strict=True):
        p = adjusted[row.name, "ndcg@20"]
        one = row.estimates["ndcg@20"]
        assert one.against is not None
        assert (
            one.against.test.difference,
            one.against.test.p,
            one.against.test.p_holm,
        ) == (
            test.difference,
            test.p,
            p,
        )
        assert one.against.interval == test.relative_interval
        assert one.significant == (p < 0.05)
    wide = found.rows[2].estimates["ndcg@20"]
    assert wide.mean == pytest.approx(average["wide"].mean())
    assert wide.sd == pytest.approx(statistics.stdev(float(one.mean()) for one in values["wide"]))
    interval = bootstrap_interval(average["wide"], np.random.default_rng(0), resamples=200)
    assert (wide.low, wide.high) == pytest.approx(interval, abs=1e-12)
    assert found.rows[0].estimates["ndcg@20"].against is None
    assert found.rows[1].estimates["ndcg@20"].sd is None


def test_costs_are_those_of_the_folders(done: Path) -> None:
    plan = planned(done)
    bpr, popular, _ = results(plan, "shop", read_tested(plan.runs["shop"])).rows
    records = [read_run_record(done.parent / f"out/shop/bpr-{seed}") for seed in (0, 1)]
    medians = [statistics.median(line.train_cpu_seconds for line in one.timings) for one in records]
    assert bpr.costs["epoch_cpu_seconds"] == pytest.approx(sum(medians) / 2)
    assert (bpr.costs["epochs"], bpr.costs["parameters"]) == (1, records[0].result.parameters)
    assert bpr.costs["total_cpu_seconds"] > bpr.costs["setup_cpu_seconds"] > 0
    assert [popular.costs[name] for name in ("epoch_cpu_seconds", "epochs", "best_epochs")] == [None, 0, (None,)]


def test_the_files_hold_every_run_and_the_summary(done: Path) -> None:
    assert execute(["benchmark", str(done), "--table-only"]) == 0
    out = done.parent / "out"
    rows = pq.read_table(out / "results.parquet").to_pylist()
    test = read_run_record(out / "shop/wide-1").result.test
    assert test is not None
    own = {(row["slice"], row["metric"]): row for row in rows if (row["name"], row["seed"]) == ("wide", 1)}
    assert {m: own["", m]["value"] for m in test.means} == test.means
    assert (own["", "recall@5"]["low"], own["", "recall@5"]["high"]) == test.intervals["recall@5"]
    assert own["", "coverage@20"]["value"] == test.lists["coverage@20"]
    assert own["users: low", "ndcg@20"]["value"] == test.slices["users: low"]["ndcg@20"]
    summary = pq.read_table(out / "summary.parquet").to_pylist()
    (wide,) = (row for row in summary if (row["name"], row["metric"]) == ("wide", "ndcg@20"))
    assert (wide["data"], wide["model"], wide["seeds"], wide["base"]) == ("shop", "bpr", [0, 1], "bpr")
    assert wide["p"] <= wide["p_holm"] <= 1
    assert wide["difference_low"] <= wide["difference"] <= wide["difference_high"]
    costs = pq.read_table(out / "costs.parquet").to_pylist()
    assert [f"{row['name']}-{row['seed']}" for row in costs] == RUNS
    assert all(row["peak_bytes"] > 10**8 for row in costs)


def test_the_tables_mark_best_second_and_what_is_not_significant(done: Path) -> None:
    plan = planned(done)
    found = results(plan, "shop", read_tested(plan.runs["shop"]))
    text = markdown([found])
    for row in found.rows:
        one = row.estimates["recall@20"]
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row.name} | recall@20 |"))
        assert f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]" in line
        if one.against:
            assert line.endswith(f"{one.against.test.p_holm:.4f} {chr(92) + '*' if one.significant else 'ns'} |")
    ranked = sorted({round(row.estimates["recall@20"].mean, 4) for row in found.rows}, reverse=True)
    means = text[text.index("### Means") : text.index("### Paired")]
    assert re.search(rf"\*\*{ranked[0]:.4f}( ± 0\.\d+)?\*\*", means)
    assert re.search(rf"<u>{ranked[1]:.4f}( ± 0\.\d+)?</u>", means)
    for title in ("Paired tests", "Lists as a whole", "Slices, recall@20", "Slices, ndcg@20", "Costs"):
        assert f"### {title}" in text
    assert "users: high (" in text
    tex = latex([found])
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\begin{table}") == 6
    assert rf"\textbf{{{ranked[0]:.4f}" in tex
    assert r"95 \% interval" in tex
    assert not re.search(r"[±–]|(?<!\\)[_%](?! Written)", tex)


def test_what_has_not_ended_is_said(copied: Path) -> None:
    shutil.rmtree(copied.parent / "out/shop/bpr-0")
    (copied.parent / "out/shop/bpr-1/manifest.json").unlink()
    assert execute(["benchmark", str(copied), "--table-only"]) == 0
    for name in ("results.md", "index.html"):
        assert "bpr-0, bpr-1" in (copied.parent / "out" / name).read_text()
    summary = pq.read_table(copied.parent / "out/summary.parquet")
    assert set(summary["name"].to_pylist()) == {"popular", "wide"}
    assert set(summary["p"].to_pylist()) == {None}


def test_nothing_measured_and_no_folder_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, data={"shop": str(data)})
    assert execute(["benchmark", str(file), "--table-only"]) == 1
    assert "expected runs that have been measured on test, found none" in capsys.readouterr().err
    assert execute(["benchmark", str(write_file(tmp_path, out=""))]) == 2
    assert "expected --out FOLDER, or `out` in the file" in capsys.readouterr().err


def test_runs_of_other_users_pairs_or_makers_are_refused(copied: Path) -> None:
    folder = copied.parent / "out/shop/bpr-0"

    def rewritten(name: str, change: object) -> None:
        path = folder / name
        path.write_text(change(path.read_text()))  # type: ignore[operator]
        sealed = json.loads((folder / "manifest.json").read_text())["files"]
        write_json(folder / "manifest.json", {"files": {**sealed, name: {"sha256": sha256(path)}}})

    runs = planned(copied).runs["shop"]
    rewritten("report.json", lambda text: re.sub(r'"relevant": "\w+"', '"relevant": "0"', text))
    with pytest.raises(RunError, match="bpr-0 and bpr-1 saw different training or relevant pairs; expected the same"):
        read_tested(runs)
    table = pq.read_table(folder / "per_user_test.parquet")
    pq.write_table(table.slice(1), folder / "per_user_test.parquet")
    rewritten("data.json", str)
    with pytest.raises(DataError, match=r"per_user_test.parquet: damaged or edited"):
        read_tested(runs)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["per_user_test.parquet"]["sha256"] = sha256(folder / "per_user_test.parquet")
    write_json(folder / "manifest.json", {"files": manifest["files"]})
    with pytest.raises(RunError, match="bpr-0 and bpr-1 were measured on different users; expected the same users"):
        read_tested(runs)
    manifest["files"].pop("costs.json")
    write_json(folder / "manifest.json", {"files": manifest["files"]})
    (folder / "costs.json").unlink()
    with pytest.raises(RunError, match=r"costs.json: missing; expected a run that `gtcrec benchmark` made"):
        read_tested(runs)


# The page.


def test_the_page_has_four_plots_and_asks_for_nothing_from_outside(done: Path) -> None:
    assert execute(["benchmark", str(done), "--table-only"]) == 0
    page = (done.parent / "out/index.html").read_text()
    assert page.count("<figure>") == (4 if figures.available() else 0)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r"<script|<link|<iframe|@import|url\(", page)
    assert "default-src 'none'" in page
    for title in ("Means", "Paired tests", "Slices, ndcg@20", "Costs"):
        assert f"<h3>{title}</h3>" in page


def test_without_matplotlib_the_page_says_that_it_has_no_plots(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "available", lambda: False)
    assert execute(["benchmark", str(done), "--table-only"]) == 0
    page = (done.parent / "out/index.html").read_text()
    assert "<figure>" not in page
    assert "Plots need matplotlib" in page


def test_equal_results_give_equal_plots_and_none_gives_none() -> None:
    pytest.importorskip("matplotlib")
    bars = [("recall@20", [figures.Mark("a", 0.1, 0.05, 0.2, True), figures.Mark("b", 0.2, 0.1, 0.3)])]
    curves = [("a", [(5, 0.1), (10, 0.2)]), ("b", [(5, 0.2), (10, 0.3)])]
    points = [(10.0, bars[0][1][0]), (100.0, bars[0][1][1])]
    for draw in (
        lambda: figures.bars(bars),
        lambda: figures.rank_curves(curves, "recall@k", "a"),
        lambda: figures.points(points, "recall@20", "seconds", True),
    ):
        drawn = draw()
        assert drawn == draw()
        texts = re.findall(r"<!-- (.*?) -->", drawn.decode())
        assert {"a", "b"} <= set(texts)
    assert figures.bars([("recall@20", [])]) == b""
    assert figures.rank_curves([], "recall@k") == b""
    assert figures.points([], "recall@20", "seconds") == b""
