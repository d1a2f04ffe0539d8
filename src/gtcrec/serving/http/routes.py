"""The addresses of the API."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from gtcrec.errors import DataError, GtcrecError
from gtcrec.serving.http import schemas
from gtcrec.serving.http.answers import Answering, Question, Variant
from gtcrec.serving.http.config import ServerConfig
from gtcrec.serving.http.events import Event, EventLog, NewItem
from gtcrec.serving.http.experiments import compare_variants
from gtcrec.serving.http.metrics import Metrics

__all__ = ["api_router", "variant_states", "watching_router"]

_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Message, "description": text}
    for status, text in (
        (400, "The request is no HTTP or JSON that the server reads."),
        (401, "The key is missing or wrong."),
        (404, "The user or item is not known."),
        (409, "It came before, and otherwise."),
        (413, "The body is over the limit."),
        (422, "A parameter is out of range."),
        (429, "The client asks too often."),
        (503, "The disk does not keep up."),
    )
}
N = Annotated[int | None, Query(ge=1, description="Length of the list; 10 if neither n nor k is given.")]
K = Annotated[int | None, Query(ge=1, description="The same as n.")]
Where = Annotated[str | None, Query(max_length=10_000, description="A filter on the items table.")]


def api_router(answering: Answering, events: EventLog, metrics: Metrics, config: ServerConfig) -> APIRouter:
    """Return the routes under /v1."""
    router = APIRouter(prefix="/v1", responses=_FAULTS)
    _add_lists(router, answering, config)
    _add_events(router, answering, events, metrics, config)
    return router


def watching_router(answering: Answering, metrics: Metrics) -> APIRouter:
    """Return the routes of health and metrics."""
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "live"}

    @router.get("/health/ready")
    async def ready() -> dict[str, Any]:
        """Say that a model answers, and in which version; the server listens no sooner."""
        versions = {variant.name: variant.live.current().version for variant in answering.variants}
        return {"status": "ready", "versions": versions}

    @router.get("/metrics", response_class=Response)
    async def measurements() -> Response:
        """Return the measurements in Prometheus' text format."""
        versions = [(variant.name, variant.live.current().version) for variant in answering.variants]
        return Response(metrics.text(versions), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _add_lists(router: APIRouter, answering: Answering, config: ServerConfig) -> None:
    @router.get("/recommend/{user:path}", response_model=schemas.Answer)
    async def recommend(
        user: str,
        n: N = None,
        k: K = None,
        offset: Annotated[int, Query(ge=0, le=100_000, description="How many of the best items to pass over.")] = 0,
        where: Where = None,
        explain: Annotated[bool, Query(description="Say what each score is made of.")] = False,
    ) -> Response:
        """Return a user's best items, without those seen in training or named by the user's events."""
        length = _length(n, k, config)
        return _json(await answering.for_user(user, Question(length, offset, where, explain=explain)))

    @router.post("/recommend", response_model=schemas.Answers)
    async def recommend_by_body(asked: schemas.RecommendIn) -> Response:
        """Return the lists of users, or of one history, with filters of any length."""
        _check_lists(asked, config)
        settings = asked.model_dump(exclude={"users", "history", "items", "exclude", "n"})
        candidates = None if asked.items is None else tuple(asked.items)
        question = Question(
            _length(asked.n, None, config), items=candidates, exclude=tuple(asked.exclude or ()), **settings
        )
        if asked.history is not None:
            return _json({"answers": [await answering.for_history(asked.history, question)]})
        answers = await asyncio.gather(*(answering.for_user(user, question) for user in asked.users or ()))
        return _json({"answers": answers})

    @router.get("/similar/{item:path}", response_model=schemas.SimilarItems)
    async def similar(
        item: str,
        n: N = None,
        k: K = None,
        where: Where = None,
        view: Annotated[str | None, Query(max_length=1024, description="A modality to compare by alone.")] = None,
    ) -> Response:
        """Return the items most similar to one."""
        return _json(await answering.similar(item, _length(n, k, config), where, view))


def _check_lists(asked: schemas.RecommendIn, config: ServerConfig) -> None:
    if (asked.users is None) == (asked.history is None):
        raise DataError("expected either users or history")
    limits = {"users": config.max_batch} | dict.fromkeys(("history", "items", "exclude"), config.max_candidates)
    for name, limit in limits.items():
        if len(getattr(asked, name) or ()) > limit:
            raise DataError(f"{name}: at most {limit:,} ids, found {len(getattr(asked, name)):,}")


def _add_events(
    router: APIRouter, answering: Answering, events: EventLog, metrics: Metrics, config: ServerConfig
) -> None:
    @router.post("/events", response_model=schemas.EventIds)
    async def add_events(asked: schemas.EventsIn) -> Response:
        """Keep events; the answer comes when they are on the disk, and they count from then on."""
        _check_batch(asked.events, config)
        rows = [Event(**event.model_dump()) for event in asked.events]
        ids = await asyncio.wrap_future(events.submit(rows, asked.idempotency_key))
        metrics.count_events(len(ids))
        return _json({"ids": ids})

    @router.post("/items", response_model=schemas.ItemsAdded)
    def add_items(asked: schemas.ItemsIn) -> Response:
        """Add items by their content or columns; from then on lists may hold them, after a restart too."""
        _check_batch(asked.items, config)
        new = [NewItem(one.item, one.content, one.columns) for one in asked.items]
        versions, refused, unread = {}, {}, {}
        first: GtcrecError | None = None
        for variant in answering.variants:
            try:
                run, unread[variant.name] = variant.live.add_items(new)
                versions[variant.name] = run.version
            except GtcrecError as error:
                refused[variant.name], first = str(error), first or error
        if not versions and first:
            raise first
        events.append_items(new)
        return _json({"versions": versions, "refused": refused, "unread": unread})

    @router.get("/experiments", response_model=schemas.Experiment)
    def experiments() -> dict[str, Any]:
        """Say what each run showed and what was clicked, with intervals that hold however often one looks."""
        return {"variants": variant_states(answering.variants, events)}


def variant_states(variants: Sequence[Variant], events: EventLog) -> list[dict[str, Any]]:
    """Return what `VariantState` holds, of each variant, up to now."""
    events.flush()
    results = compare_variants(events.click_through(), [variant.name for variant in variants])
    states = []
    for variant in variants:
        run = variant.live.current()
        state = {"name": variant.name, "run": run.folder.name, "version": run.version, "share": variant.share}
        states.append(state | vars(results[variant.name]))
    return states


def _check_batch(entries: Sequence[Any], config: ServerConfig) -> None:
    if len(entries) > config.max_batch:
        raise DataError(f"expected at most {config.max_batch:,} entries, found {len(entries):,}")


def _length(n: int | None, k: int | None, config: ServerConfig) -> int:
    if n is not None and k is not None and n != k:
        raise DataError(f"n and k are one setting, found {n} and {k}")
    length = n or k or 10
    if length > config.max_n:
        raise DataError(f"n must be at most {config.max_n:,}, found {length:,}")
    return length


def _json(content: Any) -> Response:
    return Response(json.dumps(content, ensure_ascii=False, allow_nan=False), media_type="application/json")
