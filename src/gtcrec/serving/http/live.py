"""The run that answers now, and its replacement by a newer one while requests go on.

A request takes `LiveRun.current` once. What it got never changes, so that no answer mixes two models.
"""

import copy
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from gtcrec.errors import DataError, GtcrecError, RunError
from gtcrec.experiments.model_bundle import FACTS, is_bundle
from gtcrec.runtime.files import MANIFEST
from gtcrec.serving.http.events import NewItem
from gtcrec.serving.http.ready_lists import ReadyLists
from gtcrec.serving.new_items import encode_rows, refuse_files
from gtcrec.serving.recommender import Recommender

__all__ = ["LiveRun", "LoadedRun", "find_run", "version_of"]

_LOG = logging.getLogger(__name__)
_PRIORITY = 5  # of 19 steps below the requests
_RESULTS = ("report", "examples", "per_user", "history", "timings", "environment")  # files that no answer reads


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run in memory, as all answers of one version see it.

    Parameters
    ----------
    version : str
        Twelve hexadecimal digits of the manifest's sums, then `+n` where n items were added since.
    folder : pathlib.Path
        The run's folder, links followed.
    recommender : Recommender
    lists : ReadyLists
    loaded_at : float
        Seconds since 1970.
    """

    version: str
    folder: Path
    recommender: Recommender
    lists: ReadyLists = field(repr=False)
    loaded_at: float = field(default_factory=time.time)


class LiveRun:
    """Holds the run that answers now.

    Parameters
    ----------
    path : path
        A finished run or saved recommender, or a folder of these, whose newest is taken; links are followed anew at
        each look.
    device : str, optional
        "cpu", "cuda" or "cuda:N"; the CPU if not given.
    new_items : callable
        Returns the items to add to each run that is loaded.
    images : pathlib.Path, optional
        The only folder whose files the columns of new items may name.
    ready_items, ready_users : int
        Length and number of the lists that are computed before a run answers.

    Raises
    ------
    RunError
        If there is no finished run at the path, or it is damaged.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
    >>> live = LiveRun(model.save(folder))
    >>> live.current().recommender.recommend("u0001", k=1).num_rows
    1
    >>> live.reload()
    False
    """

    def __init__(
        self,
        path: str | Path,
        device: str | None = None,
        new_items: Callable[[], Iterable[NewItem]] = tuple,
        images: Path | None = None,
        ready_items: int = 100,
        ready_users: int = 20_000,
    ) -> None:
        self.path = Path(path)
        self._device, self._new_items, self._images = device, new_items, images
        self._sizes = ready_items, ready_users
        self._lock = threading.Lock()  # one replacement at a time; readers need none
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._refused = ""
        self._left_out: set[str] = set()  # added items that the current model cannot score
        folder = find_run(self.path)
        self._current, self._base = self._load(folder, version_of(folder))

    def current(self) -> LoadedRun:
        """Return the run that answers now; a request calls this once."""
        return self._current

    def reload(self) -> bool:
        """Load the run at the path if its model differs from the one that answers; return whether it was replaced.

        Raises `RunError` when it cannot be loaded; the former run then goes on answering.
        """
        with self._lock:
            folder = find_run(self.path)
            version = version_of(folder)
            if version == self._base:
                return False
            self._current, self._base = self._load(folder, version)
            return True

    def add_items(self, items: Iterable[NewItem]) -> tuple[LoadedRun, list[str]]:
        """Let all later answers know new items; return the run that has them, and which content could not be read.

        Raises as `Recommender.add_items`, and `DataError` for a file that does not lie in the folder of images; nothing
        is added then.
        """
        with self._lock:
            new = list(items)
            for item in new:
                refuse_files(self._current.recommender.bundle, item.item_id, item.columns or {}, self._images)
            self._current, unread = self._with_items(self._current, new)
            return self._current, unread

    def follow_items(self) -> None:
        """Add the items that another process of the same events has taken."""
        with self._lock:
            self._current = self._with_new_items(self._current)

    def watch(self, seconds: float, on_reload: Callable[[LoadedRun | None], object] = lambda run: None) -> None:
        """Look for a newer run every so many seconds, in a thread of its own, until `close`.

        `on_reload` is given the run that answers from now on, or None where a newer one was refused.
        """
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._look, args=(seconds, on_reload), daemon=True)
            self._watcher.start()

    def close(self) -> None:
        """End the thread of `watch`."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()

    def _look(self, seconds: float, on_reload: Callable[[LoadedRun | None], object]) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own: requests go before the reading of a run
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
        while not self._stopping.wait(seconds):
            try:
                if self.reload():
                    _LOG.info("%s: version %s answers from now on", self._current.folder, self._current.version)
                    on_reload(self._current)
                self._refused = ""
                self.follow_items()
            except (GtcrecError, OSError) as error:
                if str(error) != self._refused:  # once, not at every look
                    _LOG.error("the newer run was refused, version %s goes on: %s", self._current.version, error)
                    on_reload(None)
                self._refused = str(error)

    def _load(self, folder: Path, version: str) -> tuple[LoadedRun, str]:
        recommender = Recommender.load(folder, device=self._device)
        if version_of(folder) != version:
            raise RunError(f"{folder}: changed while it was read; it is read again at the next look")
        run = LoadedRun(version, folder, recommender, ReadyLists(recommender, *self._sizes))
        self._left_out = set()
        run = self._with_new_items(run)
        run.lists.fill(recommender.user_ids[: self._sizes[1]])
        return run, version

    def _with_new_items(self, run: LoadedRun) -> LoadedRun:
        new = [item for item in self._new_items() if item.item_id not in run.lists.items]
        return self._with_fitting(run, [item for item in new if item.item_id not in self._left_out])

    def _with_fitting(self, run: LoadedRun, items: list[NewItem]) -> LoadedRun:
        """Return the run with those of some items that fit its data; the others are left out."""
        try:
            return self._with_items(run, items)[0]
        except GtcrecError as error:  # a model without a way to score them, or of other content
            if isinstance(error, DataError) and len(items) > 1:  # that of some item, found by halving
                half = len(items) // 2
                return self._with_fitting(self._with_fitting(run, items[:half]), items[half:])
            _LOG.warning("%s: %d added items are left out: %s", run.folder, len(items), error)
            self._left_out.update(item.item_id for item in items)
            return run

    def _with_items(self, run: LoadedRun, items: list[NewItem]) -> tuple[LoadedRun, list[str]]:
        if not items:
            return run, []
        grown, unread = copy.copy(run.recommender), []
        for _, group in groupby(sorted(items, key=_given), key=_given):  # one call adds items given alike
            unread += _add_alike(grown, list(group), self._images)
        base, _, added = run.version.partition("+")
        version = f"{base}+{int(added or 0) + len(items)}"
        return LoadedRun(version, run.folder, grown, ReadyLists(grown, *self._sizes)), unread


def _given(item: NewItem) -> tuple[bool, list[str]]:
    return item.columns is not None, sorted(item.content)


def _add_alike(recommender: Recommender, items: list[NewItem], images: Path | None) -> list[str]:
    """Add items with content of the same modalities, all with columns or none; return what could not be read."""
    ids = [item.item_id for item in items]
    content: dict[str, Any] = {name: [list(item.content[name]) for item in items] for name in items[0].content}
    rows = {item.item_id: item.columns for item in items if item.columns is not None}
    if not rows:
        recommender.add_items(ids, content)
        return []
    if len(rows) < len(ids):
        raise DataError(f"item {max(ids, key=ids.count)!r} stands twice")
    content, columns, unread = encode_rows(recommender.bundle, rows, content, images)
    recommender.add_items(ids, content, item_columns=columns)
    return unread


def find_run(path: Path) -> Path:
    """Return the folder of the run to serve: `path` itself, or the newest finished run in it; links are followed.

    Raises `RunError` if there is none.
    """
    place = path.resolve()
    if (place / MANIFEST).is_file() or (place / "config.yaml").is_file():
        return place
    runs = [child for child in place.iterdir() if is_bundle(child)] if place.is_dir() else []
    if not runs:
        raise RunError(f"{path}: expected a finished run or a folder of runs, found none")
    return max(runs, key=lambda run: ((run / FACTS).stat().st_mtime_ns, run.name)).resolve()


def version_of(folder: Path) -> str:
    """Return twelve hexadecimal digits that differ between models: of the manifest's sums, results left out.

    Raises `RunError` when the folder has no manifest that can be read.
    """
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        sums = {name: entry["sha256"] for name, entry in files.items() if not name.startswith(_RESULTS)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}: its training has not ended, or {MANIFEST} cannot be read: {error}") from error
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:12]
