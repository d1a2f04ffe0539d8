"""`gtcrec data import`, `export`, `list` and `get`: other libraries' folders and public data sets."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gtcrec.cli.options import checked

__all__ = ["export", "get", "import_raw", "list_public"]

Column = Annotated[str | None, typer.Option(metavar="COL", help="hf, recbole: found by its usual names if not given.")]


def import_raw(
    kind: Annotated[
        Literal["amazon", "movielens", "microlens", "hf", "recbole"], typer.Argument(help="What the files are.")
    ],
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="amazon: reviews and metadata; others: a folder or .zip.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Leave damaged lines out and count them.")
    ] = False,
    interactions: Annotated[str, typer.Option(metavar="PATTERN", help="hf: files of interactions.")] = "**/*.parquet",
    items: Annotated[str, typer.Option(metavar="PATTERN", help="hf: files of items; the same if not given.")] = "",
    user_col: Column = None,
    item_col: Column = None,
    rating_col: Column = None,
    time_col: Column = None,
    items_item_col: Column = None,
) -> None:
    """Make the two tables that `gtcrec data build` takes of a public data set's raw files."""
    from gtcrec.cli.console import say
    from gtcrec.data.sources.convert import convert
    from gtcrec.data.sources.huggingface import HuggingConfig

    config = HuggingConfig(
        interactions=interactions, items=items, user=user_col, item=item_col, rating=rating_col, time=time_col,
        items_item=items_item_col,
    )  # fmt: skip
    report = convert(kind, sources, out, skip_bad_lines, config)
    for what, count in report["rows"].items():
        say(f"{count:,} {what}")
    if bad := report.get("bad lines"):
        say(f"{bad:,} bad lines left out, such as {report['examples'][0]}")
    for what, count in report["notes"].items():
        say(f"{what}: {count:,}")
    say(f"next: gtcrec data build --items {out}/items.parquet --interactions {out}/interactions.parquet --out DIR")


def export(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data folder or a file of interactions.")],
    to: Annotated[Literal["mmrec", "recbole"], typer.Option("--to", help="Whose format.")],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder; its name becomes the data set's.")],
    split: Annotated[
        str, typer.Option(help="auto, label, random, leave_one_out, user_time, global_time or cold_items.")
    ] = "auto",
    ratios: Annotated[str, typer.Option(help="Of training, validation and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
) -> None:
    """Write a data set, divided, as a folder that MMRec or RecBole reads."""
    from gtcrec.cli.console import say
    from gtcrec.data import load
    from gtcrec.data.formats.export import write_mmrec, write_recbole
    from gtcrec.data.splits import SplitConfig

    config = checked(SplitConfig, strategy=split, ratios=tuple(one.strip() for one in ratios.split(",")), seed=seed)
    say(f"written: {(write_mmrec if to == 'mmrec' else write_recbole)(load(data), out, config)}")


def list_public(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List public data sets: source, licence, size, checksum."""
    from dataclasses import asdict

    from gtcrec.cli.console import print_json
    from gtcrec.data.sources.registry import CATALOGUE

    if as_json:
        print_json([asdict(one) for one in CATALOGUE.values()])
        return
    for one in CATALOGUE.values():
        typer.echo(f"{one.name}: {one.title}\n  page: {one.page}\n  licence: {one.licence}")
        for file in one.files:
            size = f"about {file.size / 1e6:,.1f} MB" if file.size else "size not known"
            typer.echo(f"  {file.url} ({size}, checksum: {file.checksum or 'none known'})")


def get(
    name: Annotated[str, typer.Argument(help="A name of `gtcrec data list`.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to put the files into.")],
) -> None:
    """Download a public data set, going on where an earlier try ended, and check it."""
    from gtcrec.cli.console import resumable, say
    from gtcrec.data.sources.download import get as get_files
    from gtcrec.data.sources.registry import find_public

    found = find_public(name)
    say(f"{found.title}; licence: {found.licence}; see {found.page}")
    with resumable("the same command goes on from here"):
        get_files(found.files, out, say)
    sources = " ".join(str(out / file.name) for file in found.files) if found.kind != "microlens" else str(out)
    say(f"next: gtcrec data import {found.kind} {sources} --out DIR")
