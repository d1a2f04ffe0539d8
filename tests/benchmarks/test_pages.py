"""Every page is written from what git holds; what git holds is small; the prose has no figures of its own."""

import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import pages, store
from benchmarks.accuracy import peers, tuning
from benchmarks.blocks import Block, fill_page, outside_marks, parse_table, read_blocks, store_blocks
from benchmarks.paths import PAGES, RESULTS, module_command, module_environment
from gtcrec.experiments.benchmark.plan import plan

NAMES = [*(path.name for path in sorted(PAGES.glob("*.md"))), "content.md"]
COMPUTED = [name for name in NAMES if name.startswith("peers")]
# Versions, the level of intervals, the level of tests.
CONSTANTS = ("version 0.1", "version 0.2", "arXiv 2508.13500", "95 %", "p < 0.05")


def other_than_written(name: str) -> list[str]:
    found = []
    for path, blocks in pages.page_blocks([name]):
        text = path.read_text(encoding="utf-8")
        if fill_page(text, blocks, path.name) != text:
            found.append(path.name)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COMPUTED])
def test_a_page_of_stored_tables_is_as_it_should_be(name: str) -> None:
    assert other_than_written(name) == []


@pytest.mark.parametrize("name", ["peers-ml100k.md", "peers-tiktok-tuning.md"])
def test_a_page_computed_from_the_runs_is_as_it_should_be(name: str) -> None:
    blocks = peers.blocks(["ml100k"]) if name == "peers-ml100k.md" else {name: tuning_blocks("tiktok")}
    text = (PAGES / name).read_text(encoding="utf-8")
    assert fill_page(text, blocks[name], name) == text


def tuning_blocks(data: str) -> dict[str, Block]:
    models = [name for name in peers.read_plan(Path("data")).models if name not in peers.NEW]
    return {"tuning": tuning.tuning_block(data, models)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_changes_no_page() -> None:
    done = subprocess.run(
        module_command("benchmarks", "pages"), env=module_environment(1), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "every page is as it should be\n"), done.stderr


def test_a_trial_of_the_search_trains_as_the_final_trainings_do(tmp_path: Path) -> None:
    """The same cap, patience, validations and metric."""
    config = peers.read_plan(Path("data"))
    config = config.model_copy(update={"config": ""})
    for data in config.data:
        for name in ("gtc", "lightgcn", "smore"):
            searched = tuning.plan(config, data, name, tmp_path / "search").config.train
            (final,) = {run.config.train for run in plan(config, tmp_path, [f"{data}/{name}"]).trained if run.seed == 0}
            assert searched == final
            assert searched.valid_metric == "ndcg@20"


def write_search(folder: Path, columns: str, *trials: str) -> None:
    (folder / "shop").mkdir(exist_ok=True)
    (folder / "shop" / "bpr.csv").write_text("\n".join([columns, *trials]) + "\n")
    (folder / "shop" / "bpr.yaml").write_text("train: {epochs: 9, valid_every: 3, patience: 2}\n")


def test_the_table_of_a_search_says_trials_caps_errors_and_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    columns = "trial,state,ndcg@20,standard_error,best_epoch,epochs,seconds,reg,outside,at_edge,error"
    rows = ["1,done,0.25,0.01,3,9,1,0.1,,,", "2,done,0.5,0.02,3,6,1,0.2,,,", "3,done,0.75,0.03,3,9,1,0.4,reg,reg,"]
    write_search(tmp_path, columns, *rows)
    block = tuning.tuning_block("shop", ["bpr"])
    assert block.rows == [("bpr", "2 + 1", "2", "0.2500", "0.7500 ± 0.0300", "reg 0.4", "reg", "reg")]
    assert block.text[0].startswith(
        "A trial has at most 9 epochs, a validation every 3 epochs, and ends after 2 validations without a better one. "
        "Validation ndcg@20 of the defaults"
    )
    write_search(tmp_path, "trial,state,recall@20,best_epoch,epochs,seconds,reg,error", "1,done,0.25,3,6,1,0.1,")
    block = tuning.tuning_block("shop", ["bpr"])  # as version 0.1 wrote it
    assert block.rows == [("bpr", "1", "0", "0.2500", "0.2500", "the defaults", "–", "–")]
    assert "Validation recall@20" in block.text[0]


def test_the_stored_results_are_under_5_megabytes() -> None:
    assert sum(path.stat().st_size for path in RESULTS.iterdir()) < 5_000_000


def test_stored_tables_say_which_measurement_they_are() -> None:
    for path in RESULTS.glob("*.json"):
        assert all(block.measurement.startswith("Measured with version ") for block in read_blocks(path).values())


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.name)
def test_no_figure_stands_outside_the_tables(path: Path) -> None:
    text = outside_marks(path.read_text(encoding="utf-8"))
    for constant in CONSTANTS:
        text = text.replace(constant, "")
    assert re.findall(r"\S*\d*\.\d\S*|\d+ ?%", text) == []


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.name)
def test_a_page_says_with_which_version_it_was_measured(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "Measured with version 0.1; to be measured again." in text or "Measured after version 0.2." in text


def test_stored_runs_are_restored_and_stored_again_alike(tmp_path: Path) -> None:
    store.restore(RESULTS, tmp_path / "runs", ["ml100k"])
    (tmp_path / "results").mkdir()
    store.collect(tmp_path / "runs", tmp_path / "results", ["ml100k"])
    users = store.per_user_file("ml100k")
    assert pq.read_table(tmp_path / "results" / users).equals(pq.read_table(RESULTS / users))
    rows = pq.read_table(RESULTS / store.RUNS).filter(
        pq.read_table(RESULTS / store.RUNS).column("data").to_numpy() == "ml100k"
    )
    again = pq.read_table(tmp_path / "results" / store.RUNS).to_pylist()
    assert again == rows.to_pylist()


def test_every_model_has_runs_and_a_family() -> None:
    config = peers.read_plan(Path("data"))
    runs = pq.read_table(RESULTS / store.RUNS).to_pylist()
    for data in config.data:
        assert {run["name"] for run in runs if run["data"] == data} == set(config.models) - set(peers.NEW)
    families = [name for family in peers.FAMILIES.values() for name in family]
    assert sorted([*families, "gtc", *peers.NEW]) == sorted(config.models)


def test_a_mark_that_names_no_table_is_refused() -> None:
    text = "<!-- table: a -->\nold\n<!-- end -->\nprose\n"
    assert fill_page(text, {"a": Block(["new"])}, "x.md") == "<!-- table: a -->\nnew\n<!-- end -->\nprose\n"
    with pytest.raises(SystemExit, match=r"x\.md: no table 'a'; measured: b"):
        fill_page(text, {"b": Block()}, "x.md")


def test_blocks_are_stored_beside_those_of_other_measurements(tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    table = parse_table(["text", "| a | b |", "| --- | ---: |", r"| x \| y | 1 |"])
    assert (table.headers, table.rows, table.left) == (["a", "b"], [[r"x \| y", "1"]], [0])
    store_blocks(path, "first", {"a": table, "b": Block(["old"])})
    store_blocks(path, "second", {"b": Block(["new"])})
    found = read_blocks(path)
    assert (found["a"].measurement, found["b"].measurement) == ("first", "second")
    assert found["a"].lines() == table.lines() == ["| a | b |", "| --- | ---: |", r"| x \| y | 1 |"]
    assert found["b"].lines() == ["new"]
