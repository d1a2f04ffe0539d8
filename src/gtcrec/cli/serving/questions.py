"""`gtcrec similar` and `gtcrec users`: what is like an item, and whom it may please."""

from typing import TYPE_CHECKING, Annotated

import typer

from gtcrec.cli.options import DataPath, Device, RunFolder
from gtcrec.cli.serving.lists import ListFormat, ListLength, Out, SafeCsv, Where, check_output, write_lists

if TYPE_CHECKING:
    from gtcrec.serving.recommender import Recommender

__all__ = ["similar", "users"]

Items = Annotated[list[str], typer.Argument(metavar="ITEM...", help="Items of the data.")]
View = Annotated[
    str | None, typer.Option("--view", metavar="MODALITY", help="Compare this content alone, such as image.")
]


def similar(
    folder: RunFolder,
    items: Items,
    k: ListLength = 10,
    view: View = None,
    where: Where = None,
    form: ListFormat = "text",
    out: Out = None,
    safe_csv: SafeCsv = False,
    data: DataPath = None,
    device: Device = None,
) -> None:
    """Print the items most similar to items, to the model or in one content."""
    check_output(form, out)
    model = _load(folder, data, device)
    write_lists(model.similar_items(items, k, view, where), model.titles_of, "similar to", form, out, safe_csv)


def users(
    folder: RunFolder,
    items: Items,
    k: ListLength = 10,
    with_seen: Annotated[bool, typer.Option("--with-seen", help="Also users who have the item in training.")] = False,
    form: ListFormat = "text",
    out: Out = None,
    safe_csv: SafeCsv = False,
    data: DataPath = None,
    device: Device = None,
) -> None:
    """Print the users whose scores of items are the largest: whom to tell of them."""
    check_output(form, out)
    model = _load(folder, data, device)
    write_lists(model.users_for(items, k, not with_seen), lambda ids: [], "item", form, out, safe_csv)


def _load(folder: RunFolder, data: str | None, device: str | None) -> "Recommender":
    from gtcrec.serving.recommender import Recommender

    return Recommender.load(folder, data=data, device=device)
