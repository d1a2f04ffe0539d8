"""What users did with the lists, in SQLite: an event is on the disk before it is acknowledged.

One thread writes. It takes all that waits into one transaction, so that many clients share the wait for the disk.
Several processes may have the same file: SQLite lets one write at a time, and a stamp tells the others of new events.
"""

import hashlib
import json
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from gtcrec.errors import ConfigError, GtcrecError, WriteError
from gtcrec.runtime.files import make_folder
from gtcrec.runtime.shared_stamp import SharedStamp

__all__ = ["Event", "EventKind", "EventLog", "KeyInUseError", "LogFullError", "NewItem", "VariantCounts"]

EventKind = Literal["click", "like", "purchase", "dismiss"]
_WAITING = 10_000  # writes at most in the queue
_TOGETHER = 1_000  # writes at most in a transaction
_FLUSH = 1.0  # seconds that shown lists may wait to be written
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item TEXT NOT NULL, kind TEXT NOT NULL,
    impression TEXT NOT NULL, time REAL NOT NULL);
CREATE INDEX IF NOT EXISTS events_of_user ON events (user);
CREATE TABLE IF NOT EXISTS batches (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clicked (impression TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shown (
    variant TEXT NOT NULL, user TEXT NOT NULL, lists INTEGER NOT NULL, clicked INTEGER NOT NULL,
    PRIMARY KEY (variant, user)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS item_columns (id TEXT PRIMARY KEY, columns TEXT NOT NULL);
PRAGMA user_version = 1;
"""


class KeyInUseError(GtcrecError):
    """An idempotency key came with other events than the first time."""


class LogFullError(GtcrecError):
    """The disk does not keep up: more writes wait than the queue holds."""


@dataclass(frozen=True)
class Event:
    """One thing that a user did with an item.

    Parameters
    ----------
    user, item : str
        External ids.
    kind : str
        "click", "like" or "purchase"; "dismiss" hides an item and says nothing good of it.
    impression : str
        That of the answer which showed the item; empty if none did.
    time : float
        Seconds since 1970; of arrival if 0.
    """

    user: str
    item: str
    kind: EventKind
    impression: str = ""
    time: float = 0.0


@dataclass(frozen=True)
class NewItem:
    """An item that came after training.

    Parameters
    ----------
    item_id : str
    content : mapping
        Modality -> vector.
    columns : mapping, optional
        Column of the items table -> JSON value. Each run encodes of them what `content` lacks.
    """

    item_id: str
    content: Mapping[str, Iterable[float]]
    columns: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class VariantCounts:
    """What a variant showed, and what was clicked; the sums run over users.

    `lists` and `clicked` are numbers of shown lists and of lists with a click, over `users`. `squares` are the sums
    over users of lists², lists · clicked and clicked².
    """

    users: int = 0
    lists: int = 0
    clicked: int = 0
    squares: tuple[int, int, int] = (0, 0, 0)


class EventLog:
    """Events, added items and shown lists of a server, in one SQLite file.

    Parameters
    ----------
    path : path
        The file; made if missing, with the folders it lies in.

    Raises
    ------
    ConfigError
        For a file of another kind.
    WriteError
        When the system refuses.

    Examples
    --------
    >>> import tempfile
    >>> with EventLog(Path(tempfile.mkdtemp()) / "events.db") as log:
    ...     log.append([Event("ann", "p1", "click"), Event("ann", "p2", "dismiss")])
    ...     log.user_items("ann"), log.user_items("ann", basket=True)
    [1, 2]
    (['p1', 'p2'], ['p1'])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._tasks: queue.Queue[tuple[Callable[[sqlite3.Connection], Any], Future[Any]] | None]
        self._tasks = queue.Queue(_WAITING)
        self._shown: Counter[tuple[str, str]] = Counter()
        self._shown_lock = threading.Lock()
        self._items: tuple[int, list[NewItem]] = (0, [])
        self._users: set[str] = set()  # who have events
        self._last, self._followed = 0, 0  # the last event's id and the stamp, up to which they are known
        try:
            self._writer = self._connect()
            self._writer.executescript(_SCHEMA)
            self._stamp = SharedStamp(self.path.with_name(f"{self.path.name}-stamp"))
            self._follow()
        except OSError as error:
            raise WriteError(self.path, str(error)) from error
        except sqlite3.DatabaseError as error:
            kind = WriteError if isinstance(error, sqlite3.OperationalError) else None
            raise kind(self.path, str(error)) if kind else ConfigError(f"{self.path}: {error}") from error
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)
        self._thread.start()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, events: Sequence[Event], key: str = "") -> list[int]:
        """Write events and return their ids once they are on the disk.

        Parameters
        ----------
        events : sequence of Event
        key : str
            An idempotency key. Events that come again under it are not written again, and get their first ids.

        Returns
        -------
        list of int
            Ascending ids.

        Raises
        ------
        KeyInUseError
            If other events came under the key.
        LogFullError
            If too many writes wait.
        WriteError
            When the disk refuses; none of the events is kept then.
        """
        return self.submit(events, key).result()

    def submit(self, events: Sequence[Event], key: str = "") -> "Future[list[int]]":
        """Do what `append` does, and return at once: the future ends when the events are on the disk."""
        now = time.time()
        rows = [(*astuple(event)[:4], event.time or now) for event in events]
        asked = json.dumps([astuple(event) for event in events])
        digest = hashlib.sha256(asked.encode()).hexdigest() if key else ""

        return self._put(lambda connection: _insert(connection, rows, key, digest))

    def append_items(self, items: Sequence[NewItem]) -> None:
        """Write added items; on return they are on the disk. Raises as `append`."""
        rows = [(one.item_id, json.dumps({m: list(map(float, x)) for m, x in one.content.items()})) for one in items]
        columns = [(one.item_id, json.dumps(dict(one.columns))) for one in items if one.columns is not None]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", rows)
            connection.executemany("INSERT OR REPLACE INTO item_columns VALUES (?, ?)", columns)

        self._put(write).result()

    def items(self) -> list[NewItem]:
        """Return the added items, oldest first, those of other processes too."""
        (last,) = self._reader().execute("SELECT ifnull(max(rowid), 0) FROM items").fetchone()
        if last != self._items[0]:
            query = """SELECT id, content, columns FROM items LEFT JOIN item_columns USING (id)
                WHERE items.rowid <= ? ORDER BY items.rowid"""
            rows = self._reader().execute(query, (last,))
            self._items = last, [NewItem(item, json.loads(x), row and json.loads(row)) for item, x, row in rows]
        return self._items[1]

    def count_shown(self, variant: str, user: str) -> None:
        """Note that a list of a variant was shown to a user; it is on the disk within a second or so."""
        with self._shown_lock:
            self._shown[variant, user] += 1

    def user_items(self, user: str, basket: bool = False) -> list[str]:
        """Return the items of a user's events, each once, in the order of their first event.

        With `basket` those of events that speak for the item: all but "dismiss".
        """
        if self._stamp.value != self._followed:
            self._follow()
        if user not in self._users:  # most have none, and a query would cost more than the rest of an answer
            return []
        chosen = "AND kind != 'dismiss'" if basket else ""
        query = f"SELECT item FROM events WHERE user = ? {chosen} GROUP BY item ORDER BY min(id)"
        return [item for (item,) in self._reader().execute(query, (user,))]

    def click_through(self) -> dict[str, VariantCounts]:
        """Return for each variant what it showed and what was clicked, up to the last write."""
        query = """SELECT variant, count(*), sum(lists), sum(c), sum(lists * lists), sum(lists * c), sum(c * c)
            FROM (SELECT variant, lists, min(clicked, lists) AS c FROM shown WHERE lists > 0) GROUP BY variant"""
        rows = self._reader().execute(query)
        return {name: VariantCounts(users, lists, clicked, tuple(sums)) for name, users, lists, clicked, *sums in rows}

    def flush(self) -> None:
        """Return once all that came before is on the disk, shown lists included."""
        self._put(lambda connection: None).result()

    def close(self) -> None:
        """Write what waits and end the writer."""
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()
            for connection in self._readers:
                connection.close()

    def _follow(self) -> None:
        """Learn who has events since the last time, whichever process wrote them."""
        stamp = self._stamp.value  # read first: what comes meanwhile is looked for again
        query = "SELECT user, max(id) FROM events WHERE id > ? GROUP BY user"
        for user, last in self._reader().execute(query, (self._last,)).fetchall():
            self._users.add(user)
            self._last = max(self._last, last)
        self._followed = stamp

    def _put(self, task: Callable[[sqlite3.Connection], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            self._tasks.put_nowait((task, future))
        except queue.Full:
            raise LogFullError(f"{self.path}: {_WAITING:,} writes wait for the disk; try again later") from None
        return future

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _reader(self) -> sqlite3.Connection:
        """A connection of this thread; readers never wait for the writer."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
            self._readers.append(self._local.connection)
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _write(self) -> None:
        open_ended = True
        while open_ended:
            tasks: list[Any] = []
            try:
                tasks.append(self._tasks.get(timeout=_FLUSH))
                while len(tasks) < _TOGETHER:
                    tasks.append(self._tasks.get_nowait())
            except queue.Empty:
                pass
            open_ended = None not in tasks
            self._commit([task for task in tasks if task is not None])
        self._writer.close()

    def _commit(self, tasks: list[tuple[Callable[[sqlite3.Connection], Any], "Future[Any]"]]) -> None:
        """Do tasks in one transaction; their futures end after it, all with its error if the disk refuses."""
        with self._shown_lock:
            shown, self._shown = self._shown, Counter()
        if not tasks and not shown:
            return
        ends: list[Callable[[], None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute(_COUNT_SHOWN, (json.dumps([(*place, count) for place, count in shown.items()]),))
            for task, future in tasks:
                ends.append(_outcome(task, future, self._writer))
            self._writer.execute("COMMIT")
            if tasks:
                self._stamp.renew()
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            with self._shown_lock:
                self._shown.update(shown)
            failure = WriteError(self.path, str(error))
            ends = [_failing(future, failure) for _, future in tasks]
        for end in ends:
            end()


# One statement for all rows: each lets go of the interpreter once, and the requests wait for it no more often.
_COUNT_SHOWN = """INSERT INTO shown SELECT value ->> 0, value ->> 1, value ->> 2, 0 FROM json_each(?) WHERE true
    ON CONFLICT (variant, user) DO UPDATE SET lists = lists + excluded.lists"""
_COUNT_CLICK = """INSERT INTO shown VALUES (?, ?, 0, 1)
    ON CONFLICT (variant, user) DO UPDATE SET clicked = clicked + 1"""


def _outcome(
    task: Callable[[sqlite3.Connection], Any], future: "Future[Any]", connection: sqlite3.Connection
) -> Callable[[], None]:
    """Do a task, and return what tells its result once the transaction has ended."""
    try:
        result = task(connection)
    except GtcrecError as error:
        return _failing(future, error)
    return lambda: future.set_result(result)


def _failing(future: "Future[Any]", error: Exception) -> Callable[[], None]:
    return lambda: future.set_exception(error)


def _insert(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]], key: str, digest: str) -> list[int]:
    """Insert events unless their key is known, and count the lists whose first click they are."""
    if key:
        known = connection.execute("SELECT digest, first, count FROM batches WHERE key = ?", (key,)).fetchone()
        if known:
            if known[0] != digest:
                raise KeyInUseError(f"the idempotency key {key!r} came with other events before")
            return list(range(known[1], known[1] + known[2]))
    ids = []
    for user, item, kind, impression, at in rows:
        statement = "INSERT INTO events (user, item, kind, impression, time) VALUES (?, ?, ?, ?, ?)"
        ids.append(connection.execute(statement, (user, item, kind, impression, at)).lastrowid or 0)
        variant = impression.partition("-")[0]
        if kind == "click" and variant:
            first = connection.execute("INSERT OR IGNORE INTO clicked VALUES (?)", (impression,)).rowcount
            if first:
                connection.execute(_COUNT_CLICK, (variant, user))
    if key and ids:
        connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (key, digest, ids[0], len(ids)))
    return ids
