"""What the command line shows: tables on stdout, progress and messages on stderr."""

import json
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable

from gtcrec.errors import UNSEEN, visible
from gtcrec.reporting.tables import Cell, Table, latex_lines, markdown_lines

if TYPE_CHECKING:
    from gtcrec.training.trainer import Epoch

__all__ = [
    "TimeLeft",
    "counted",
    "json_text",
    "nested",
    "number",
    "print_json",
    "print_table",
    "print_tables",
    "progress",
    "rendered",
    "resumable",
    "rich_table",
    "say",
    "table",
    "write_out",
]

PIPED_WIDTH = 400  # a table that goes into a file or a pipe is never cut at the width of a terminal


def console(stream: TextIO) -> Console:
    """Return a rich console on a stream; it is made anew each time, so that a replaced stream is honoured."""
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(file=stream, highlight=False, emoji=False, width=width, soft_wrap=False)


def say(text: str, style: str = "") -> None:
    """Print a message for the person on stderr."""
    console(sys.stderr).print(_visible_lines(text), style=style, markup=False, soft_wrap=True)


def write_out(text: str) -> None:
    """Write text on stdout; on a terminal, what it would obey in the text of data is shown as escapes."""
    sys.stdout.write(_visible_lines(text) if sys.stdout.isatty() else text)


def _visible_lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", left: Collection[int] = (0,)
) -> RenderableType:
    """Return a table; the columns that `left` names hold text, the others numbers, aligned right."""
    made = RichTable(box=None, pad_edge=False)
    for place, header in enumerate(headers):
        made.add_column(escape(visible(header)), justify="left" if place in left else "right", header_style="dim")
    for row in rows:
        made.add_row(*map(visible, row))
    return Group(f"[bold]{escape(visible(title))}[/bold]", made) if title else made


_MARKS = {"": "", "*": "*", "ns": " ns"}


def rich_table(one: Table) -> RenderableType:
    """Return a table of cells for the terminal: best bold, second underlined, details dim; its note is left out.

    Numbers are padded here, so that they stand under one another whatever mark or detail follows them.
    """
    widths = [
        0 if place in one.left else max(map(cell_len, [header, *(row[place].text for row in one.rows)]))
        for place, header in enumerate(one.headers)
    ]
    marks = [max((len(_MARKS[row[place].mark]) for row in one.rows), default=0) for place in range(len(widths))]

    def padded(cell: Cell, place: int) -> str:
        text = escape(cell.text)
        text = f"[bold]{text}[/bold]" if cell.best else f"[u]{text}[/u]" if cell.second else text
        mark = _MARKS[cell.mark].ljust(marks[place])
        detail = f" [dim]{escape(cell.detail)}[/dim]" if cell.detail else ""
        return " " * (widths[place] - cell_len(cell.text)) + text + mark + detail

    headers = [" " * (width - cell_len(header)) + header for width, header in zip(widths, one.headers, strict=True)]
    rows = [[padded(cell, place) for place, cell in enumerate(row)] for row in one.rows]
    return table(headers, rows, one.title, range(len(headers)))


def rendered(one: RenderableType) -> str:
    """Return a table as text, in colour and fitted to the width if stdout is a terminal."""
    out = console(sys.stdout)
    with out.capture() as captured:
        out.print(one)
    return captured.get()


def print_table(*tables: RenderableType | Table) -> None:
    """Print tables on stdout, a blank line between."""
    out = console(sys.stdout)
    for place, one in enumerate(tables):
        if place:
            out.print()
        out.print(rich_table(one) if isinstance(one, Table) else one)


def print_tables(tables: Sequence[Table], form: str = "text") -> None:
    """Print tables on stdout as "text" for the terminal, "markdown" or "latex"."""
    if form == "text":
        print_table(*tables)
        return
    lines = {"markdown": markdown_lines, "latex": latex_lines}[form]
    write_out("\n\n".join("\n".join(lines(table)) for table in tables) + "\n")


def number(value: Any) -> str:
    """Return a value for a cell: counts with their thousands grouped, other numbers with 4 decimals.

    >>> number(68722), number(0.05), number(None), number([1.0, 2.5])
    ('68,722', '0.0500', '-', '1 to 2.5000')
    """
    if value is None:
        return "-"
    if isinstance(value, list) and len(value) == 2:
        return " to ".join(map(number, value))
    if isinstance(value, float):
        return f"{int(value):,}" if value == int(value) else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def nested(facts: Mapping[str, Any]) -> list[RenderableType]:
    """Return tables for a nested mapping: one of its plain values, one for each mapping in it."""
    words = [[escape(key), escape(value)] for key, value in facts.items() if isinstance(value, str)]
    plain = [
        [escape(key), escape(number(value))] for key, value in facts.items() if not isinstance(value, (str, Mapping))
    ]
    made = [table(["", ""], words, left=(0, 1)), table(["", ""], plain)]
    for key, part in facts.items():
        if isinstance(part, Mapping) and part:
            made.append(_part(key, part))
    return made


def _part(title: str, part: Mapping[str, Any]) -> RenderableType:
    groups = [value for value in part.values() if isinstance(value, Mapping)]
    if len(groups) < len(part):
        return table([title, ""], [[escape(key), escape(number(value))] for key, value in part.items()])
    columns = list(dict.fromkeys(column for group in groups for column in group))
    rows = [[escape(name), *(escape(number(group.get(c))) for c in columns)] for name, group in part.items()]
    return table([title, *columns], rows)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    sys.stdout.write(json_text(value))


def json_text(value: Any) -> str:
    """Return a value as JSON, what a terminal would obey as escapes, which JSON reads back.

    >>> print(json_text("mug\\x9b2J"), end="")
    "mug\\u009b2J"
    """
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")  # other control characters are escaped there
    return "\n".join(UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines) + "\n"


@contextmanager
def progress(
    total: int, metric: str, done: int = 0, best: float | None = None
) -> Iterator[tuple[Callable[["Epoch"], None], Callable[[int, int], None]]]:
    """Show a training on stderr; yields what to call after each epoch and after each step.

    On a terminal a bar, with the time left if training does not stop early; elsewhere a line an epoch, and of long ones
    a line now and then.
    """
    if not sys.stderr.isatty():
        lines = _Lines(total, metric, best, done)
        yield lines.epoch, lines.step
        return
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch {task.fields[number]}/{task.fields[total_]}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, TextColumn("at most"), TimeRemainingColumn(), TextColumn("left"))
    task = bar.add_task("", total=total, completed=done, number=done, total_=total)
    lines = _Lines(total, metric, best)
    with Live(bar, console=console(sys.stderr), transient=True, refresh_per_second=8) as live:

        def after_epoch(epoch: "Epoch") -> None:
            bar.update(task, completed=epoch.number, number=epoch.number)
            live.update(Group(bar, lines.losses(epoch), lines.valid(epoch)))

        def after_step(step: int, steps: int) -> None:
            whole = bar.tasks[0].fields["number"]
            bar.update(task, completed=whole + step / steps)

        yield after_epoch, after_step


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a count on stderr; yields what to call with how many are done of how many.

    On a terminal a bar with the time left; elsewhere about ten lines in all, or more of them where that takes long.
    """
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
        with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    clock = TimeLeft()

    def on_block(done: int, total: int) -> None:
        left = clock.words(done, total)
        if left or done % max(1, total // 10) == 0:
            say(f"{done} of {total} {what}{left}")

    yield on_block


class TimeLeft:
    """How long the rest will take, going by what this process has done so far; said now and then."""

    def __init__(self, done: float = 0, every: float = 30.0) -> None:
        """Start the clock; `done` was done before, and words come `every` so many seconds."""
        self._first, self._every, self._start = done, every, monotonic()
        self._last = self._start

    def words(self, done: float, total: float, bound: str = "about") -> str:
        """Return ", about 0:12:30 left", or "" if that was said lately or cannot be known yet."""
        now, ours = monotonic(), done - self._first
        if ours <= 0 or done >= total or now - self._last < self._every:
            return ""
        self._last = now
        seconds = (now - self._start) / ours * (total - done)
        return f", {bound} {timedelta(seconds=round(seconds))} left"


class _Stopped(BaseException):
    """SIGTERM arrived."""


@contextmanager
def resumable(way_on: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into the words that say how to go on, and the exit code 130 or 143."""

    def stop(number: int, frame: object) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, _Stopped) as end:
        say(f"stopped; {way_on}", style="yellow")
        raise typer.Exit(130 if isinstance(end, KeyboardInterrupt) else 143) from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Lines:
    """The words about an epoch, and the best value of the metric so far."""

    def __init__(self, total: int, metric: str, best: float | None, done: int = 0) -> None:
        self.total, self.metric, self.best, self.done = total, metric, best, done
        self.clock = TimeLeft(done)

    def losses(self, epoch: "Epoch") -> str:
        return "  ".join(f"{name.removeprefix('log.')} {value:.4f}" for name, value in epoch.losses.items())

    def valid(self, epoch: "Epoch") -> str:
        if epoch.valid and epoch.best:
            self.best = epoch.valid[self.metric]
        now = f"{self.metric} {epoch.valid[self.metric]:.4f}" if epoch.valid else "not validated"
        return now + ("" if self.best is None else f" (best {self.best:.4f})")

    def epoch(self, epoch: "Epoch") -> None:
        self.done = epoch.number
        words = [f"epoch {epoch.number}/{self.total}", self.losses(epoch), self.valid(epoch), epoch.stop]
        left = "" if epoch.stop else self.clock.words(epoch.number, self.total, "at most")
        say("  ".join(filter(None, words)) + left)

    def step(self, step: int, steps: int) -> None:
        if left := self.clock.words(self.done + step / steps, self.total, "at most"):
            say(f"epoch {self.done + 1}/{self.total}  step {step} of {steps}{left}")
