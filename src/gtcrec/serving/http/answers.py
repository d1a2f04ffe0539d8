"""Answers to requests: which run answers, what the events of the user change, and the list itself."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

from gtcrec.errors import DataError, RunError
from gtcrec.serving.http.events import EventLog
from gtcrec.serving.http.experiments import assign
from gtcrec.serving.http.live import LiveRun, LoadedRun
from gtcrec.serving.http.ready_lists import RankedItems, rows_of

__all__ = ["Answering", "Question", "UnknownError", "Variant"]


class UnknownError(DataError):
    """A user or item of the address is not known."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A run that answers its share of the users; `name` is a letter."""

    name: str
    share: float
    live: LiveRun


@dataclass(frozen=True)
class Question:
    """What a list is asked to be; as the parameters of `Recommender.recommend`, and of `explain` if it is explained."""

    n: int = 10
    offset: int = 0
    where: str | None = None
    items: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = True
    diversity: float = 0.0
    explain: bool = False
    nearest: int = 5

    @property
    def is_plain(self) -> bool:
        """Whether a ready list can answer it."""
        return self.where is None and self.items is None and self.exclude_seen and not self.diversity

    def options(self) -> dict[str, Any]:
        """The settings that differ from those of `Recommender.recommend`."""
        chosen: dict[str, Any] = {
            "where": self.where,
            "items": self.items and list(self.items),
            "offset": self.offset or None,
        }
        chosen |= {"diversity": self.diversity or None, "exclude_seen": None if self.exclude_seen else False}
        return {"k": self.n} | {name: value for name, value in chosen.items() if value is not None}


class Answering:
    """Answers questions with the runs of an experiment, the events counted in.

    Parameters
    ----------
    variants : sequence of Variant
        The first answers whoever has no id.
    events : EventLog
    executor : concurrent.futures.Executor
        Where lists are computed.
    """

    def __init__(self, variants: Sequence[Variant], events: EventLog, executor: Executor) -> None:
        self.variants, self._events, self._executor = tuple(variants), events, executor
        self._shares = [variant.share for variant in variants]

    def variant_of(self, user: str) -> Variant:
        """Return the variant that answers a user, always the same."""
        return self.variants[assign(user, self._shares) if len(self.variants) > 1 else 0]

    async def for_user(self, user: str, question: Question, look: Variant | None = None) -> dict[str, Any]:
        """Return the answer for a user by id: of the training, or by the items of their events.

        With `look` that variant answers instead of the user's own, and no experiment counts the list.
        Raises `UnknownError` for a user that neither knows, and as `Recommender.recommend`.
        """
        variant = look or self.variant_of(user)
        run = variant.live.current()
        if user in run.lists.users:
            ranked = await self._for_trained_user(run, user, question)
        else:
            ranked = await self._for_new_user(run, user, question)
        answer = _answer(variant, run, user, ranked, question.offset)
        if question.explain:
            if user not in run.lists.users:
                raise DataError(f"user {user!r} came after training: their lists have no explanation yet")
            names = [item for item, _ in ranked]
            parts = await self._compute(lambda: run.recommender.explain(user, names, question.nearest)) if names else []
            for row, part in zip(answer["items"], parts, strict=True):
                row["explanation"] = asdict(part)
        if look is None:
            self._events.count_shown(variant.name, user)
        return answer

    def ready_answer(self, user: str, n: int) -> str | None:
        """Return the JSON of what `for_user` answers to a plain question, if a ready list has it; else None."""
        variant = self.variant_of(user)
        run = variant.live.current()
        without = self._events.user_items(user)
        rows = run.lists.text(user, n, [item for item in without if item in run.lists.items] if without else ())
        if rows is None:
            return None
        self._events.count_shown(variant.name, user)
        return f'{json.dumps({"user": user, **_head(variant, run)}, ensure_ascii=False)[:-1]}, "items": {rows}}}'

    async def for_history(self, history: Sequence[str], question: Question) -> dict[str, Any]:
        """Return the answer for somebody without an id, by the items of a history; no experiment counts it."""
        if question.explain:
            raise DataError("explain needs a user of the training, found a history")
        variant = self.variants[0]
        run = variant.live.current()
        ranked = await self._recommend(run, {"history": list(history)}, question.exclude, question)
        return _answer(variant, run, None, ranked, question.offset)

    async def similar(self, item: str, n: int, where: str | None = None, view: str | None = None) -> dict[str, Any]:
        """Return the items most similar to one, in a modality if `view` names one.

        Raises `UnknownError` for an item that the run does not know.
        """
        variant = self.variants[0]
        run = variant.live.current()
        if item not in run.lists.items:
            raise UnknownError(f"item {item!r} is not known")
        options = {name: value for name, value in (("where", where), ("view", view)) if value is not None}
        table = await self._compute(lambda: run.recommender.similar_items(item, k=n, **options))
        columns = (table[name].to_pylist() for name in ("similar_item_id", "rank", "score"))
        rows = [{"item": one, "rank": rank, "score": score} for one, rank, score in zip(*columns, strict=True)]
        return {"item": item, **_head(variant, run), "items": rows}

    async def _for_trained_user(self, run: LoadedRun, user: str, question: Question) -> RankedItems:
        without = self._without(run, user, question)
        if question.is_plain:
            ranked = run.lists.cut(user, question.n, question.offset, without)
            if ranked is None:
                await run.lists.prepare(user, self._executor)
                ranked = run.lists.cut(user, question.n, question.offset, without)
            if ranked is not None:
                return ranked
        return await self._recommend(run, {"users": [user]}, without, question)

    async def _for_new_user(self, run: LoadedRun, user: str, question: Question) -> RankedItems:
        basket = [item for item in self._events.user_items(user, basket=True) if item in run.lists.items]
        if not basket:
            raise UnknownError(f"user {user!r} is not known")
        without = [item for item in self._without(run, user, question) if item not in set(basket)]
        try:
            return await self._recommend(run, {"history": basket}, without, question)
        except RunError as error:
            raise UnknownError(f"user {user!r} came after training: {error}") from error

    async def _recommend(
        self, run: LoadedRun, who: dict[str, Any], without: Sequence[str], question: Question
    ) -> RankedItems:
        options = question.options() | ({"exclude": list(without)} if without else {})
        table = await self._compute(lambda: run.recommender.recommend(**who, **options))
        return next(iter(rows_of(table).values()), [])

    def _without(self, run: LoadedRun, user: str, question: Question) -> list[str]:
        """Items of the user's events, unless the seen may be listed, and those that the question leaves out."""
        for item in question.exclude:
            if item not in run.lists.items:
                raise DataError(f"exclude: item {item!r} is not known")
        known = self._events.user_items(user) if question.exclude_seen else []
        return [*dict.fromkeys([*(item for item in known if item in run.lists.items), *question.exclude])]

    async def _compute(self, task: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, task)


def _head(variant: Variant, run: LoadedRun) -> dict[str, Any]:
    return {"variant": variant.name, "version": run.version, "impression": f"{variant.name}-{os.urandom(12).hex()}"}


def _answer(variant: Variant, run: LoadedRun, user: str | None, ranked: RankedItems, offset: int) -> dict[str, Any]:
    rows = [{"item": item, "rank": rank, "score": score} for rank, (item, score) in enumerate(ranked, offset + 1)]
    return {"user": user, **_head(variant, run), "items": rows}
