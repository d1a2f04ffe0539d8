"""All attacks in turn, in bounded time: PYTHONPATH=tests python -m chaos.attack [SECONDS] [SEED].

Kills, pairs of processes, full disks, damaged files and hostile inputs, each with a share of the time. The counts are
printed and, if a file is named, written into it, from which `report.py` makes docs/reliability.md. Ends with 1 if
anything failed; the folders of failures stay.
"""

import argparse
import itertools
import json
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chaos.damages import damaged_folders
from chaos.full_disk import can_mount, fill_disk
from chaos.inputs import targets, try_input
from chaos.kills import kill_at_random, start_two
from chaos.stage import Stage, Tally

Attack = tuple[Tally, Callable[[Tally], None]]

SHARES = {"SIGKILL": 0.5, "two processes": 0.12, "full disk": 0.1, "damaged file": 0.15, "hostile input": 0.13}


def plan(stage: Stage, draw: random.Random) -> dict[str, list[Attack]]:
    """Return the attacks of each kind."""

    def over_commands(kind: str, attack: Callable[..., None]) -> list[Attack]:
        return [(Tally(kind, one.name), partial(_on_command, attack, stage, one, draw)) for one in stage.commands()]

    found = {"SIGKILL": over_commands("SIGKILL", kill_at_random)}
    found["two processes"] = over_commands("two processes", start_two)
    found["full disk"] = over_commands("full disk", fill_disk) if can_mount() else []
    found["damaged file"] = [
        (Tally("damaged file", name), partial(one.attack, draw)) for name, one in damaged_folders(stage).items()
    ]
    found["hostile input"] = [
        (Tally("hostile input", name), partial(try_input, whole, read, draw))
        for name, (whole, read) in targets().items()
    ]
    return found


def _on_command(attack: Callable[..., None], stage: Stage, one: object, draw: random.Random, tally: Tally) -> None:
    attack(stage, one, draw, tally)


def attack_for(attacks: Iterable[Attack], seconds: float) -> None:
    """Attack in turn until the time is over."""
    end = time.monotonic() + seconds
    for tally, attack in itertools.cycle(attacks):
        if time.monotonic() >= end:
            return
        before = len(tally.failures)
        attack(tally)
        for failure in tally.failures[before:]:
            sys.stderr.write(f"{tally.attack}: {failure}\n")


def write_counts(file: Path, facts: dict[str, Any], only: str | None) -> None:
    """Write the counts into a file; those of one attack alone take the place of its earlier ones."""
    past = json.loads(file.read_text(encoding="utf-8"))["counts"] if only and file.exists() else []
    kept = [one for one in past if one["attack"] != only]
    file.write_text(json.dumps({**facts, "counts": kept + facts["counts"]}, indent=2) + "\n", encoding="utf-8")


def main(seconds: float, seed: int, counts: Path | None, only: str | None) -> int:
    """Attack for so many seconds and tell the counts; returns 1 if anything failed."""
    begun = time.monotonic()
    folder, draw = Path(tempfile.mkdtemp(prefix="chaos-")), random.Random(seed)
    found = plan(Stage(folder), draw)
    for kind, share in SHARES.items():
        if only in (None, kind) and found[kind]:
            attack_for(found[kind], seconds if only else share * seconds)
    spent = {"seed": seed, "seconds": round(time.monotonic() - begun), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    tallies = [tally for kind, attacks in found.items() for tally, _ in attacks if only in (None, kind)]
    facts = {
        "gtcrec": version("gtcrec"),
        "python": platform.python_version(),
        "system": platform.system(),
        "counts": [{**vars(tally), **spent} for tally in tallies],
    }
    sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    if counts:
        write_counts(counts, facts, only)
    failed = any(tally.failures for tally in tallies)
    if not failed:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Attack the commands and readers of gtcrec.")
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--counts", type=Path, help="the file to write the counts into")
    parser.add_argument("--only", choices=list(SHARES), help="this attack alone")
    given = parser.parse_args()
    sys.exit(main(given.seconds, given.seed, given.counts, given.only))
