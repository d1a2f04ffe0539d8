"""Writes docs/reliability.md from the counts of a recorded attack: PYTHONPATH=tests python -m chaos.report."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).parent / "counts.json"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

WHAT = {
    "SIGKILL": (
        "a command is killed at random moments",
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
    "damaged file": (
        "a file of a folder loses a bit, its end or a stretch, or gets other bytes",
        "each reader gives the same answer, or an error of ours",
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
- A full disk is an error in one line, and nothing half-written is taken for whole.

## What is not promised

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
        "`make chaos` attacks the commands and readers with faults at random places. `CHAOS_SECONDS` bounds its time,",
        "and `CHAOS_SEED` its draws. The same command writes this page from its counts, `tests/chaos/counts.json`.",
        "",
        f"Recorded with {found['system']}, Python {found['python']} and gtcrec {found['gtcrec']}: "
        f"**{failures} failures**.",
        "A row of 0 was not reached in the time of the recorded run. Moments of kills depend on the machine, too.",
    ]
    for attack, (what, right) in WHAT.items():
        counts = [one for one in found["counts"] if one["attack"] == attack]
        lines += ["", f"## {attack[0].upper()}{attack[1:]}", "", f"Done: {what}. Right: {right}.", ""]
        if not any(one["tried"] for one in counts):
            lines.append("Not tried in the recorded run.")
            continue
        lines += ["| on | tried | failures |", "| --- | ---: | ---: |"]
        lines += [f"| {one['target']} | {one['tried']:,} | {len(one['failures'])} |" for one in counts]
        tried, failed = (sum(one["tried"] for one in counts), sum(len(one["failures"]) for one in counts))
        lines += [
            f"| all | {tried:,} | {failed} |",
            "",
            f"Recorded on {counts[0]['date']}. Try the same again with:",
            "",
            "```text",
        ]
        one = counts[0]
        command = f"PYTHONPATH=tests python -m chaos.attack {one['seconds']} {one['seed']} --only {attack!r}"
        lines += [command.replace("'", '"'), "```"]
    return "\n".join(lines) + "\n\n" + PROMISES


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(COUNTS.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
