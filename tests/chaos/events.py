"""Faults at each thing that a command does to a file: SIGKILL, an error of the system, another command in between.

Each command is done twice undisturbed. Files that are equal in both, and the names of all, are what must stand at the
end, whatever happened before.
"""

import errno
import hashlib
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.forks import KILL_ALL, KILL_ONE, STOP, Ended, Forks
from chaos.stage import Command, Stage, Tally, require, require_refusal
from gtcrec.errors import GtcrecError

MOST = 160  # places of a command; of one with more events each second, third, ... is taken
DAYS = 200_000  # seconds
REPEATS = 10
WAIT = 15  # seconds until a command that is still under way beside one that stands still is taken to wait for it
# Hold seconds or the number of threads, beside figures that other files hold.
COSTS = {"results.md", "results.tex", "ablation.md", "report.html", "environment.json"}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)


def read_files(place: Path) -> dict[str, str]:
    """Return the sha256 sum of each file below a folder but locks, by its name, and "" of each folder."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.suffix != ".lock":
            name = str(path.relative_to(place))
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


@dataclass
class Undisturbed:
    """What a command does and leaves when nothing happens."""

    events: int
    names: set[str]
    files: dict[str, str]

    def compare(self, place: Path) -> None:
        """Raise `GtcrecError` unless a folder holds what this one left."""
        found = read_files(place)
        require(found.keys() == self.names, f"other files: {sorted(found.keys() ^ self.names)}")
        different = [name for name, content in self.files.items() if found[name] != content]
        require(not different, f"other contents than undisturbed: {different}")


@dataclass(frozen=True)
class Other:
    """A command that is done while another stands still.

    One that `reads` must always succeed; after a `harmless` one the first leaves what it leaves undisturbed. One that
    `shares` the work waits for the first where others are refused.
    """

    name: str
    words: Callable[[Path], list[str]]
    reads: bool = False
    harmless: bool = True
    shares: bool = False


@dataclass
class EventAttack:
    """One command, attacked at one event after the other; `seed` says where it begins."""

    stage: Stage
    forks: Forks
    one: Command
    seed: int
    _whole: Undisturbed | None = None
    _places: Iterator[int] | None = None

    @property
    def place(self) -> Path:
        return self.stage.folder / "place"

    @property
    def whole(self) -> Undisturbed:
        """What the command leaves; a command that is done twice does it in the same folder."""
        if self._whole is None:
            ended, left = zip(*(self._do_undisturbed(shift) for shift in (0, DAYS)), strict=True)
            same = {
                name: left[0][name]
                for name in left[0]
                if left[0][name] == left[1].get(name) and Path(name).name not in COSTS
            }
            self._whole = Undisturbed(ended[0].events, set(left[0]), same)
        return self._whole

    def _do_undisturbed(self, shift: int) -> tuple[Ended, dict[str, str]]:
        self._prepare()
        ended = self.forks.run(self.one.words(self.place), self.place, shift=shift)
        require(ended.code == 0, f"undisturbed: {ended.said}")
        self.one.check(self.place, True)
        return ended, read_files(self.place)

    def next_event(self, tally: Tally) -> int:
        """Return the next event to attack at, 0 when all have been."""
        if self._places is None:
            step = -(-self.whole.events // MOST)
            places = list(range(1 + self.seed % step, self.whole.events + 1, step))
            random.Random(self.seed).shuffle(places)
            self._places = iter(places)
            tally.note = f"{self.whole.events:,} events" + (f", 1 in {step}" if step > 1 else "")
        return next(self._places, 0)

    def kill(self, draw: random.Random, tally: Tally) -> bool:
        """Kill the command at an event, often once more as it is done again, and then let it end.

        Returns False when there is no event left. So do the other attacks.
        """
        at = self.next_event(tally)
        if not at:
            return False
        again = draw.randint(1, self.whole.events) if draw.random() < 0.6 else 0
        with self._watched(tally, f"killed at event {at}, then {again}"):
            for event in (at, again):
                action = draw.choice((KILL_ALL, KILL_ALL, KILL_ONE))
                ended = self.forks.run(self.one.words(self.place), self.place, event, action)
                if not ended.what:
                    self._require_whole(ended)
                    break
                tally.tried += 1
                require(ended.code in (-signal.SIGKILL, 0, 1), f"exit code {ended.code}: {ended.said}")
                self.one.check(self.place, False)
                if self._is_done():
                    break
            else:
                self._end()
        return True

    def fail(self, draw: random.Random, tally: Tally) -> bool:
        """Let everything that takes room fail from an event on; then there is room again."""
        at, number = self.next_event(tally), draw.choice(ERRORS)
        if not at:
            return False
        with self._watched(tally, f"{errno.errorcode[number]} from event {at} on"):
            tally.tried += 1
            ended = self.forks.run(self.one.words(self.place), self.place, at, number)
            require_refusal(ended.code, ended.said)
            self.one.check(self.place, False)
            if not self._is_done():
                self._end()
        return True

    def repeat(self, elsewhere: Forks, draw: random.Random, tally: Tally) -> bool:
        """Do the command in a process with another hash seed or number of threads: it leaves the same files."""
        with self._watched(tally, "done again elsewhere"):
            tally.tried += 1
            shift = draw.randrange(DAYS)
            self._require_whole(elsewhere.run(self.one.words(self.place), self.place, shift=shift))
        return tally.tried < REPEATS

    def interrupt(self, other: "Other", draw: random.Random, tally: Tally) -> bool:
        """Let the command stand still at an event while another is done, and go on."""
        at = self.next_event(tally)
        if not at:
            return False
        with self._watched(tally, f"{other.name} at event {at}"):
            tally.tried += 1
            first = self.forks.start(self.one.words(self.place), self.place, at, STOP)
            self.forks.wait(first, stopped=True)
            beside = self.forks.start(other.words(self.place), self.place)
            waits = self.forks.wait(beside, seconds=WAIT).code is None and not other.reads
            self.forks.go_on(first)
            ended = self.forks.wait(first)
            second = self.forks.wait(beside)
            require(not waits or other.shares, f"waits for more than {WAIT} seconds in place of being refused")
            require_refusal(ended.code, ended.said)
            require_refusal(second.code, second.said)
            require(second.code == 0 or not other.reads, f"the reader failed: {second.said}")
            require(ended.code == 0 or not other.reads, f"failed beside a reader: {ended.said}")
            require(0 in (ended.code, second.code), f"both failed: {ended.said} {second.said}")
            if other.harmless and not self._is_done():
                self._end()
            elif not other.harmless:
                self._go_on_to_the_end()
        return True

    def _go_on_to_the_end(self) -> None:
        """Do the command again, which may say that another has done it, and check what stands then."""
        ended = self.forks.run(self.one.words(self.place), self.place)
        require_refusal(ended.code, ended.said)
        self.one.check(self.place, False)

    def _prepare(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        self.one.prepare(self.place)

    def _is_done(self) -> bool:
        try:
            self.one.check(self.place, True)
            self.whole.compare(self.place)
        except (GtcrecError, OSError):
            return False
        return True

    def _end(self) -> None:
        self._require_whole(self.forks.run(self.one.words(self.place), self.place))

    def _require_whole(self, ended: Ended) -> None:
        require(ended.code == 0, f"done again: exit code {ended.code}: {ended.said}")
        self.one.check(self.place, True)
        self.whole.compare(self.place)

    def _watched(self, tally: Tally, what: str) -> "_Watched":
        assert self.whole
        self._prepare()
        return _Watched(self, tally, what)


@dataclass
class _Watched:
    """A context that counts what is raised in it as a failure, and keeps the folder of one."""

    attack: EventAttack
    tally: Tally
    what: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, (GtcrecError, OSError)):
            return False
        kept = self.attack.stage.folder / f"failed-{len(list(self.attack.stage.folder.glob('failed-*')))}"
        os.rename(self.attack.place, kept)
        self.tally.failures.append(f"{self.attack.one.name}, {self.what}: {kept}: {error}"[:2000])
        return True
