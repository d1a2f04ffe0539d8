import os
import shutil

import numpy as np
import pytest

from gtcrec.errors import DataError, RunError
from gtcrec.serving.http.events import NewItem
from gtcrec.serving.http.live import LiveRun, find_run, version_of


def test_the_newest_run_of_a_folder_is_served(ease, bpr, tmp_path):
    for age, source in ((2, bpr), (1, ease)):
        shutil.copytree(source, tmp_path / source.name)
        os.utime(tmp_path / source.name / "model.json", (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished").mkdir()
    assert find_run(tmp_path) == (tmp_path / "ease").resolve()


def test_a_link_that_points_elsewhere_is_followed_at_the_next_look(ease, bpr, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(ease)
    live = LiveRun(link)
    first = live.current()
    link.unlink()
    link.symlink_to(bpr)
    assert live.reload()
    assert (first.recommender.model, live.current().recommender.model) == ("ease", "bpr")
    assert first.version != live.current().version
    assert not live.reload()


def test_a_damaged_newer_run_is_refused_and_the_former_goes_on(ease, bpr, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(ease)
    live = LiveRun(link)
    damaged = shutil.copytree(bpr, tmp_path / "damaged")
    (damaged / "users.parquet").write_bytes(b"PAR1")
    link.unlink()
    link.symlink_to(damaged)
    with pytest.raises(RunError, match=r"users\.parquet"):
        live.reload()
    assert live.current().recommender.model == "ease"


def test_a_rewritten_report_is_no_new_version(ease, tmp_path):
    copied = shutil.copytree(ease, tmp_path / "run")
    before = version_of(copied)
    text = (copied / "manifest.json").read_text()
    (copied / "manifest.json").write_text(
        text.replace('"files": {', '"files": {"report.html": {"bytes": 1, "sha256": "00"},')
    )
    assert version_of(copied) == before


def test_no_run_is_an_error_that_names_the_path(tmp_path):
    with pytest.raises(RunError, match="expected a finished run or a folder of runs, found none"):
        LiveRun(tmp_path)


def test_added_items_are_known_from_then_on_and_after_a_reload(save_model, catalog, tmp_path):
    content = {m: np.ones(x.shape[1]) for m, x in catalog.features.values.items()}
    kept = [NewItem("new", content)]
    link = tmp_path / "current"
    link.symlink_to(save_model("gtc", embedding_dim=8))
    live = LiveRun(link, new_items=lambda: kept)
    before = live.current()
    assert before.version.endswith("+1")
    assert "new" in before.recommender.item_ids
    live.add_items([NewItem("newer", content)])
    assert live.current().version.endswith("+2")
    assert "newer" not in before.recommender.item_ids
    with pytest.raises(DataError, match="known already"):
        live.add_items([NewItem("newer", content)])


def test_the_thread_of_watch_replaces_the_run(ease, bpr, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(ease)
    live, seen = LiveRun(link), []
    live.watch(0.01, lambda run: (seen.append(run), live._stopping.set()))
    (tmp_path / "next").symlink_to(bpr)
    (tmp_path / "next").replace(link)
    live._watcher.join(timeout=30)
    live.close()
    assert [run.recommender.model for run in seen] == ["bpr"]
    assert live.current() is seen[0]
