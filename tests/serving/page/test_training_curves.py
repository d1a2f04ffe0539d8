"""Curves of runs that have ended, that still run, and that were damaged."""

import json
import re
from pathlib import Path
from typing import Any

from gtcrec.runtime.locks import hold_lock
from gtcrec.serving.page.training_curves import HEIGHT, WIDTH, find_trainings, read_training


def make_run(folder: Path, lines: list[dict[str, Any]], rest: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model: bpr\n")
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)
    return folder


def line(epoch: int, value: float | None, best: bool = False) -> dict[str, Any]:
    valid = None if value is None else {"recall@20": value, "ndcg@20": value / 2, "recall@5": 0.0}
    return {"epoch": epoch, "losses": {"bpr": 1 / epoch}, "valid": valid, "best": best}


def test_a_curve_goes_from_the_left_to_the_right_and_from_its_least_to_its_largest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [line(1, 0.1), line(2, None), line(3, 0.3, best=True)], '{"epoch": 4, "los')
    training = read_training(run)
    assert (training.epochs, training.best, training.finished, training.running) == (3, 3, False, False)
    recall, ndcg = training.metrics
    assert (recall.name, recall.last, recall.low, recall.high) == ("recall@20", 0.3, 0.1, 0.3)
    assert recall.path == f"M0 {HEIGHT} L{WIDTH} 0"
    assert ndcg.last == 0.15
    assert [one.name for one in training.losses] == ["bpr"]
    assert training.losses[0].end == (WIDTH, HEIGHT)


def test_runs_are_found_at_a_folder_or_beside_a_run(shop: Path) -> None:
    assert {run.name for run in find_trainings(shop / "runs")} == {"gtc", "bpr"}
    assert {run.name for run in find_trainings(shop / "runs" / "gtc")} == {"gtc", "bpr"}
    assert find_trainings(shop) == []


def test_the_page_of_a_running_training_asks_to_be_refreshed(serve: Any, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gtc").symlink_to(shop / "runs" / "gtc")
    run = make_run(tmp_path / "runs" / "next", [line(1, 0.1), line(2, 0.2)])
    client = serve(tmp_path / "runs")
    assert "data-refresh" not in client.get("/training?run=next").text
    with hold_lock(run):
        import threading

        pages: list[str] = []
        asker = threading.Thread(target=lambda: pages.append(client.get("/training?run=next").text))
        asker.start()
        asker.join()
    assert 'data-refresh="3"' in pages[0]
    assert "In training: 2 epochs so far." in pages[0]
    assert re.search(r'aria-label="recall@20: 0.2000 at last', pages[0])
