"""All attacks in turn, in bounded time: PYTHONPATH=tests python -m chaos.attack [SECONDS] [SEED] [--only NAME].

The counts are printed and, if a file is named, added to those in it, from which `report.py` makes docs/reliability.md.
A run with the seed of an earlier one takes the place of that one's counts; `--forget` drops all earlier counts of its
targets, as after a fault is mended. Several processes may run at once. Ends with 1 if anything failed; the folders of
failures stay.
"""

import argparse
import json
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chaos.commands import Material, further_commands
from chaos.damages import Damaged, damaged_folders
from chaos.events import EventAttack
from chaos.forks import Forks, can_fork
from chaos.full_disk import can_mount, fill_disk, make_read_only
from chaos.inputs import InputFolder, targets
from chaos.kills import kill_at_random, start_two
from chaos.pairs import pairs
from chaos.stage import Command, Stage, Tally
from gtcrec.runtime.locks import hold_lock

Attack = tuple[Tally, Callable[[Tally], object]]  # False: nothing is left to try

SHARES = {
    "SIGKILL at file events": 0.3,
    "errors at file events": 0.1,
    "another command in between": 0.1,
    "SIGKILL": 0.1,
    "two processes": 0.05,
    "full disk": 0.05,
    "read-only folder": 0.03,
    "done again elsewhere": 0.05,
    "damaged file": 0.06,
    "forged file": 0.04,
    "hostile input": 0.12,
}
ON_EVENTS = tuple(SHARES)[:3]


class Plan:
    """The attacks of each kind, made when they are asked for; a context, at whose end their processes end."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.draw = folder, seed, random.Random(seed)
        self._open = ExitStack()
        self._stage: Stage | None = None
        self._made: tuple[Forks, Material] | None = None

    def __enter__(self) -> "Plan":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def stage(self) -> Stage:
        self._stage = self._stage or Stage(self.folder)
        return self._stage

    def attacks(self, kind: str) -> list[Attack]:
        """Return the attacks of a kind; none where this system cannot do them."""
        if kind in ON_EVENTS:
            return self._on_events(kind) if can_fork() else []
        if kind == "hostile input":
            place = self._open.enter_context(InputFolder())
            return [(Tally(kind, name), partial(place.try_input, *one, self.draw)) for name, one in targets().items()]
        if kind in ("damaged file", "forged file"):
            method = Damaged.attack if kind == "damaged file" else Damaged.forge
            folders = damaged_folders(self.stage)
            return [(Tally(kind, name), partial(method, one, self.draw)) for name, one in folders.items()]
        if kind == "done again elsewhere":
            return self._repeats(kind) if can_fork() else []
        attack: Callable[..., object] = {
            "SIGKILL": kill_at_random,
            "two processes": start_two,
            "full disk": fill_disk,
            "read-only folder": make_read_only,
        }[kind]
        if kind in ("full disk", "read-only folder") and not can_mount():
            return []
        return [(Tally(kind, one.name), partial(attack, self.stage, one, self.draw)) for one in self.stage.commands()]

    def _on_events(self, kind: str) -> list[Attack]:
        made = self._material()[1]
        commands = {one.name: one for one in [*self.stage.commands(), *further_commands(made)]}
        if kind == "another command in between":
            return [
                (Tally(kind, f"{one.name}; {other.name}"), partial(self._event_attack(one).interrupt, other, self.draw))
                for one, other in pairs(commands, made)
            ]
        method = EventAttack.kill if kind == "SIGKILL at file events" else EventAttack.fail
        return [
            (Tally(kind, name), partial(method, self._event_attack(one), self.draw)) for name, one in commands.items()
        ]

    def _repeats(self, kind: str) -> list[Attack]:
        made = self._material()[1]
        found = []
        for threads in (1, 2):
            elsewhere = self._open.enter_context(Forks(threads, self.draw.randrange(1 << 32)))
            for one in [*self.stage.commands(), *further_commands(made)]:
                words = f"{one.name}, {threads} thread{'s' if threads > 1 else ''}"
                again = partial(self._event_attack(one).repeat, elsewhere, self.draw)
                found.append((Tally(kind, words), again))
        return found

    def _event_attack(self, one: Command) -> EventAttack:
        return EventAttack(self.stage, self._material()[0], one, self.seed)

    def _material(self) -> tuple[Forks, Material]:
        if self._made is None:
            forks = self._open.enter_context(Forks())
            self._made = forks, Material(self.stage, self.folder / "material", forks).make()
        return self._made


def attack_for(attacks: Iterable[Attack], seconds: float) -> None:
    """Attack until the time is over or nothing is left, next with what has taken the least time so far."""
    end, found = time.monotonic() + seconds, list(attacks)
    spent = dict.fromkeys(range(len(found)), 0.0)
    while spent and time.monotonic() < end:
        number = min(spent, key=spent.__getitem__)
        tally, attack = found[number]
        before, begun = len(tally.failures), time.monotonic()
        goes_on = attack(tally)
        spent[number] += time.monotonic() - begun
        if goes_on is False:
            del spent[number]
        for failure in tally.failures[before:]:
            sys.stderr.write(f"{tally.attack}: {failure}\n")


def write_counts(file: Path, facts: dict[str, Any], forget: bool) -> None:
    """Add counts to those of a file; those of the same attack, target and seed, or with `forget` of any seed, go."""
    with hold_lock(file, wait=60):
        past = json.loads(file.read_text(encoding="utf-8"))["counts"] if file.exists() else []
        new = {(one["attack"], one["target"]): one["seed"] for one in facts["counts"]}
        kept = [
            one
            for one in past
            if (seed := new.get((one["attack"], one["target"]))) is None or (seed != one["seed"] and not forget)
        ]
        file.write_text(json.dumps({**facts, "counts": kept + facts["counts"]}, indent=1) + "\n", encoding="utf-8")


def main(seconds: float, seed: int, counts: Path | None, only: str | None, target: str, forget: bool) -> int:
    """Attack for so many seconds and tell the counts; returns 1 if anything failed."""
    folder, found = Path(tempfile.mkdtemp(prefix="chaos-")), []
    with Plan(folder, seed) as plan:
        for kind, share in SHARES.items():
            if only in (None, kind):
                attacks = [one for one in plan.attacks(kind) if target in ("", one[0].target)]
                attack_for(attacks, seconds if only else share * seconds)
                found += [tally for tally, _ in attacks]
    line = f"PYTHONPATH=tests python -m chaos.attack {round(seconds)} {seed}"
    chosen = [f'{option} "{name}"' for option, name in (("--only", only), ("--target", target)) if name]
    spent = {"seed": seed, "command": " ".join([line, *chosen]), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    facts = {
        "gtcrec": version("gtcrec"),
        "python": platform.python_version(),
        "system": platform.system(),
        "counts": [{**vars(tally), **spent} for tally in found],
    }
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")
    if counts:
        write_counts(counts, facts, forget)
    failed = any(tally.failures for tally in found)
    if not failed:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Attack the commands and readers of gtcrec.")
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--counts", type=Path, help="the file to add the counts to")
    parser.add_argument("--only", choices=list(SHARES), help="this attack alone")
    parser.add_argument("--target", default="", help="this target of it alone")
    parser.add_argument("--forget", action="store_true", help="drop the earlier counts of the same targets")
    given = parser.parse_args()
    sys.exit(main(given.seconds, given.seed, given.counts, given.only, given.target, given.forget))
