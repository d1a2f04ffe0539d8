"""`gtcrec items add`: items that came after training, into a run or a saved recommender."""

from pathlib import Path
from typing import Annotated

import typer

from gtcrec.cli.options import RunFolder

__all__ = ["items_app"]

items_app = typer.Typer(help="Add items to a trained model.", no_args_is_help=True)


@items_app.callback()
def _items() -> None:
    """Keep `add` a word of its own."""


@items_app.command()
def add(
    folder: RunFolder,
    items: Annotated[Path, typer.Argument(metavar="ITEMS", help="A table: .csv, .tsv, .jsonl (also .gz), .parquet.")],
) -> None:
    """Encode the new items of a table and add them to a run, whose lists may hold them from then on.

    Its columns are those of the items table that the data were built of. Items that the run knows stay as they are.
    """
    from gtcrec.cli.console import say
    from gtcrec.serving.new_items import add_items_to_folder

    found = add_items_to_folder(folder, items)
    for name, columns in found.missing_columns.items():
        say(f"warning: {items} has no column {', '.join(map(repr, columns))}, of {name}", style="yellow")
    for one in found.failures[:3]:
        say(f"{one['modality']} of item {str(one['item'])!r} could not be read: {one['reason']}")
    if len(found.failures) > 3:
        say(f"{len(found.failures) - 3:,} more contents could not be read")
    content = ", ".join(f"{count:,} with {name}" for name, count in found.encoded.items()) or "none with content"
    known = f"; {found.known:,} were known already" if found.known else ""
    say(f"{folder}: {found.added:,} items added ({content}){known}")
