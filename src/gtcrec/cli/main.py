"""The command line: results on stdout, messages on stderr; exit codes 0 (done), 1 (error), 2 (usage).

A reader such as `head` that closes the pipe ends a command without a word, with 141 as of other tools (128 + SIGPIPE).

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gtcrec.cli.analyze import analyze_app
from gtcrec.cli.benchmark import benchmark
from gtcrec.cli.compare import compare
from gtcrec.cli.data import data_app
from gtcrec.cli.demo import demo
from gtcrec.cli.listings import models_app, runs_app
from gtcrec.cli.recommend import recommend
from gtcrec.cli.serving.export import export
from gtcrec.cli.serving.items import items_app
from gtcrec.cli.serving.questions import similar, users
from gtcrec.cli.serving.serve import serve
from gtcrec.cli.train import evaluate, resume, stop, train
from gtcrec.cli.tune import tune
from gtcrec.errors import GtcrecError

__all__ = ["OLD_WORDS", "app", "current_words", "execute", "main"]

OLD_WORDS = {  # of version 0.1, in words of today: verbs where the line starts, options anywhere
    "ablate": "analyze ablation",
    "explain": "analyze explain",
    "knockout": "analyze importance",
    "missing": "analyze missing-modalities",
    "data get": "data download",
    "data import": "data convert",
    "data inspect": "data describe",
    "data make-synthetic": "data synthesize",
    "--all-users": "--all",
    "--format table": "--format text",
    "--format=table": "--format text",
    "--json": "--format json",
}


class _Commands(TyperGroup):
    """The commands of today, and those of version 0.1 unlisted."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, current_words(args))


app = typer.Typer(
    name="gtcrec",
    cls=_Commands,
    help="Multi-modal recommendation: train, evaluate, recommend, compare.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    demo,
    train,
    resume,
    stop,
    evaluate,
    recommend,
    similar,
    users,
    serve,
    export,
    compare,
    tune,
    benchmark,
):
    app.command()(_command)
for _group, _name in (
    (data_app, "data"), (items_app, "items"), (analyze_app, "analyze"), (models_app, "models"), (runs_app, "runs"),
):  # fmt: skip
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line and leave with its exit code."""
    from gtcrec.runtime.memory import keep_freed_memory
    from gtcrec.runtime.threads import wait_passively

    wait_passively()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error becomes one line on stderr."""
    debug = "--debug" in arguments  # wherever it stands: people add it to the end of the line that failed
    try:
        app([word for word in arguments if word != "--debug"], prog_name="gtcrec")
        sys.stdout.flush()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich end so
            return _end_unread()
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        return _end_unread()
    except Exception as error:
        from gtcrec.cli.console import say

        if debug:
            traceback.print_exc()
        say(f"error: {_error_line(error)}", style="red")
        return 1
    return 0


def _end_unread() -> int:
    """Let what is still to be written go nowhere, and return the exit code of an output that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    return 128 + 13  # SIGPIPE, which not every system has


def current_words(words: Sequence[str]) -> list[str]:
    """Return a command line of version 0.1 in the words of today.

    >>> current_words(["data", "inspect", "shop", "--json"])
    ['data', 'describe', 'shop', '--format', 'json']
    """
    line = list(words)
    for old, new in OLD_WORDS.items():
        parts = old.split()
        for place in reversed(range(len(line) if old.startswith("-") else 1)):
            if line[place : place + len(parts)] == parts:
                line[place : place + len(parts)] = new.split()
    return line


def _error_line(error: Exception) -> str:
    """Return an error in one line: ours as it is, the system's with the path that the user gave."""
    if isinstance(error, GtcrecError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        path = re.sub(r"(^|[/\\])\.([^/\\]+)\.\d+\.tmp\b", r"\1\2", str(error.filename))  # of a file not yet in place
        return f"{path}: {error.strerror}"
    return f"{type(error).__name__}: {error}; run with --debug for the traceback"


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"gtcrec {version('gtcrec')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass
