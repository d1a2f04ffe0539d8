"""The lists that pages show: a user's own, and beside it the one that is left without a part or under a filter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from gtcrec.errors import ConfigError
from gtcrec.serving.http.answers import Answering, Question, Variant
from gtcrec.serving.http.live import LoadedRun
from gtcrec.serving.page.catalog import Catalog
from gtcrec.serving.page.score_parts import (
    Bar,
    ScoredItem,
    leave_out,
    mark_moves,
    measure,
    part_names,
    scored_items,
)

__all__ = ["POOL", "Catalogs", "ShownList", "UserLists", "find_cards", "one_list", "user_lists"]

POOL = 500  # best items by the whole score, which are ordered anew without a part of it


@dataclass(frozen=True)
class ShownList:
    """A user's list; `impression` is "" where no experiment counts it, `known` says that training had the user."""

    user: str
    variant: str
    version: str
    impression: str
    items: tuple[ScoredItem, ...]
    parts: tuple[str, ...]
    known: bool


@dataclass(frozen=True)
class UserLists:
    """The model's list and, if something is left out or filtered, what is listed then.

    `off` are the parts that are left out, `gone` the items that the changed list lacks, `problem` is a filter's.
    """

    whole: ShownList
    off: tuple[str, ...]
    changed: tuple[ScoredItem, ...] | None
    gone: tuple[str, ...]
    bar: Bar
    problem: str


class Catalogs:
    """The catalog of each run, made when a page first needs it and dropped with the run."""

    def __init__(self, images: Path | None) -> None:
        self._images = images
        self._lock = Lock()  # pages ask from several threads
        self._made: WeakKeyDictionary[LoadedRun, Catalog] = WeakKeyDictionary()

    def of(self, run: LoadedRun) -> Catalog:
        """Return the catalog of a run."""
        with self._lock:
            if run not in self._made:
                self._made[run] = Catalog(run, self._images)
            return self._made[run]


async def one_list(answering: Answering, user: str, n: int, look: Variant | None = None) -> ShownList:
    """Return a user's list, of their own variant unless another one is looked at. Raises as `Answering.for_user`."""
    shown = look or answering.variant_of(user)
    known = user in shown.live.current().lists.users
    answer = await answering.for_user(user, Question(n, explain=known, nearest=1), look)
    return ShownList(
        user,
        answer["variant"],
        answer["version"],
        "" if look else answer["impression"],
        tuple(scored_items(answer["items"])),
        tuple(part_names(answer["items"])),
        known,
    )


async def user_lists(answering: Answering, user: str, n: int, off: Sequence[str], where: str) -> UserLists:
    """Return a user's list, and beside it the one without the parts `off` of its scores under the filter `where`.

    Experiments count the list alone, not the two side by side: nobody is shown that to choose from.
    """
    look = answering.variant_of(user) if off or where else None
    whole = await one_list(answering, user, n, look)
    off = tuple(name for name in off if name in whole.parts) if len(whole.parts) > 1 else ()
    if not off and not where:
        return UserLists(whole, off, None, (), measure(whole.items), "")
    try:
        question = Question(POOL if off else n, where=where or None, explain=whole.known, nearest=0)
        wide = await answering.for_user(user, question, look)
    except ConfigError as error:
        return UserLists(whole, off, None, (), measure(whole.items), str(error))
    changed = mark_moves(leave_out(scored_items(wide["items"]), off)[:n], whole.items)
    listed = {one.item for one in changed}
    gone = tuple(one.item for one in whole.items if one.item not in listed)
    return UserLists(whole, off, tuple(changed), gone, measure([*whole.items, *changed]), "")


def find_cards(catalog: Catalog, items: Sequence[Any]) -> dict[str, Any]:
    """Return the cards of scored items, and of those of the history that are near them, by id."""
    names = {one.item for one in items} | {near for one in items for near, _ in one.near[:1]}
    return {name: catalog.card(name) for name in names}
