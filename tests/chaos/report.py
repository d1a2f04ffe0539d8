"""Writes docs/reliability.md from the counts of a recorded attack: PYTHONPATH=tests python -m chaos.report."""

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).parent / "counts.json"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

WHAT = {
    "SIGKILL at file events": (
        "a command is killed at the n-th thing it does to a file (opening it for writing, a write, half of which is "
        "done, fsync, rename, link, truncation, removal, a new folder), for each n or 1 in 2, in 3, ...; more "
        "than half of the time it is killed once more as it is done again",
        "after each kill what stood before can be read; done again, the command leaves what it leaves undisturbed: no "
        "file more, none less, and equal bytes in all that do not hold times",
    ),
    "errors at file events": (
        "from the n-th event on all that takes room fails: no space, no quota, an input/output error, a read-only file "
        "system, no permission",
        "the command ends well or with an error of one line; done again, it leaves what it leaves undisturbed",
    ),
    "another command in between": (
        "a command stands still at its n-th event while another is done, and goes on",
        "each does its work or is refused in one line, readers always answer; the result is whole",
    ),
    "SIGKILL": (
        "a command in a process of its own is killed at random moments",
        "after each kill what stood before can be read; done again, the command ends with the whole result",
    ),
    "two processes": (
        "a command is started twice, a moment apart",
        "each does its work or is refused in one line; the result is whole",
    ),
    "full disk": (
        "a file system fills up at a random place",
        "the command ends well or with an error of one line; done again with room, its result is whole",
    ),
    "read-only folder": (
        "a command writes into a file system that is mounted read-only",
        "an error of one line says so, and all can be read; done again where it may write, its result is whole",
    ),
    "done again elsewhere": (
        "a command is done by a process with another hash seed, at another time of the day, with one thread or two",
        "it leaves equal bytes in all files that do not hold times or the number of threads",
    ),
    "damaged file": (
        "a file of a folder loses a bit, its end or a stretch, or gets other bytes",
        "each reader gives the same answer, or an error of ours",
    ),
    "forged file": (
        "a file of a folder says something else, and the folder's manifest has its sum",
        "each reader gives an answer, or an error of ours in one line of at most 5,000 letters",
    ),
    "hostile input": (
        "bytes of a file are put in, left out or changed",
        "the reader takes it, or raises an error of ours in one line of at most 5,000 letters",
    ),
}

PROMISES = """## What is promised

- A command that is killed, at any moment, leaves what stood before readable. Done again, it goes on or starts anew.
- Of two processes that write to one place, one is refused in words. Any number may read meanwhile.
- A damaged file of a run or of a data folder is an error, or changes no answer.
- Whatever a file of data or of settings holds, the error is one of `gtcrec.errors`, in one line.
- A full or read-only disk is an error in one line, and nothing half-written is taken for whole.
- Equal commands give equal weights, lists and figures, to the last bit, on one machine with one number of threads,
  whatever the hash seed and the hour.

## What is not promised

- **Equal bits with another number of threads, or on another machine.** Sums may be added up in another order there,
  which changes the last digits of a score. The table above says which commands were tried with two threads.
- **Network file systems.** Locks need a file system that honours them on all machines. Many of them do not.
- **Power loss.** Files are synced before they are renamed, and folders after it. But the attacks end processes, not
  machines: what a disk's own cache loses is not tested.
- **Files that are changed on purpose**, with their sums. The sums find damage; they are no signatures.
- **Memory that the system takes away.** A process killed for memory is a SIGKILL, and leaves what one leaves. The
  estimate of memory before a training is within a factor of two, not a bound.
- **Trainings by Ray, and on GPUs**, take no part in the attacks of this page.
"""


def page(found: Mapping[str, Any]) -> str:
    """Return the page."""
    failures = sum(len(one["failures"]) for one in found["counts"])
    lines = [
        "# Reliability: what was tried",
        "",
        "`make chaos` attacks the commands and readers with faults. `CHAOS_SECONDS` bounds its time, and `CHAOS_SEED`",
        "its draws. The same command writes this page from its counts, `tests/chaos/counts.json`, to which runs of a",
        "single attack with other seeds add theirs.",
        "",
        f"Recorded with {found['system']}, Python {found['python']} and gtcrec {found['gtcrec']}: "
        f"**{failures} failures**.",
        "A row of 0 was not reached in the time of the recorded run. Moments of kills depend on the machine, too.",
        "",
        *_table(("attack", "tried", "failures"), [_sum(attack, found["counts"], attack) for attack in WHAT]),
    ]
    for attack, (what, right) in WHAT.items():
        counts = [one for one in found["counts"] if one["attack"] == attack]
        lines += ["", f"## {attack[0].upper()}{attack[1:]}", "", *_wrapped(f"Done: {what}. Right: {right}."), ""]
        if not any(one["tried"] for one in counts):
            lines.append("Not tried in the recorded run.")
            continue
        targets = list(dict.fromkeys(one["target"] for one in counts))
        rows = [_sum(_named(counts, name), [one for one in counts if one["target"] == name]) for name in targets]
        lines += _table(("on", "tried", "failures"), [*rows, _sum("all", counts)])
        lines += ["", f"Recorded on {max(one['date'] for one in counts)}. Try the same again with:", "", "```text"]
        lines += dict.fromkeys(one["command"] for one in counts)
        lines += ["```"]
    return "\n".join(lines) + "\n\n" + PROMISES


def _table(head: Sequence[str], rows: Sequence[tuple[str, int, int]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: |"]
    return lines + [f"| {name} | {tried:,} | {failed} |" for name, tried, failed in rows]


def _sum(name: str, counts: Sequence[Mapping[str, Any]], attack: str = "") -> tuple[str, int, int]:
    chosen = [one for one in counts if attack in ("", one["attack"])]
    return name, sum(one["tried"] for one in chosen), sum(len(one["failures"]) for one in chosen)


def _named(counts: Sequence[Mapping[str, Any]], target: str) -> str:
    """Return a target with what the attack noted of it."""
    notes = [one["note"] for one in counts if one["target"] == target and one["note"]]
    return f"{target} ({notes[0]})" if notes else target


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, break_on_hyphens=False)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(COUNTS.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
