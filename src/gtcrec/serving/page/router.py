"""The addresses of the pages. All that a page shows follows from its address, so that it can be sent and kept."""

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse

from gtcrec.errors import ConfigError, GtcrecError
from gtcrec.serving.http.answers import Answering, UnknownError, Variant
from gtcrec.serving.http.config import ServerConfig
from gtcrec.serving.http.events import EventLog
from gtcrec.serving.http.live import LoadedRun
from gtcrec.serving.http.routes import variant_states
from gtcrec.serving.page.catalog import Catalog
from gtcrec.serving.page.item_map import color_columns, group_by, map_items, telling_column
from gtcrec.serving.page.lists import Catalogs, find_cards, one_list, user_lists
from gtcrec.serving.page.pictures import media_type
from gtcrec.serving.page.rendering import PageRoute, api_page, render, static_file, swagger_file
from gtcrec.serving.page.score_parts import measure
from gtcrec.serving.page.training_curves import HEIGHT, WIDTH, find_trainings, read_training

__all__ = ["page_router"]

Id = Annotated[str, Query(min_length=1, max_length=1024)]
OptionalId = Annotated[str, Query(max_length=1024)]
Length = Annotated[int, Query(ge=1, le=200)]
_USERS, _POPULAR, _FOUND, _SIMILAR, _COMPARED, _HISTORY = 8, 16, 24, 16, 15, 60


def page_router(answering: Answering, events: EventLog, config: ServerConfig) -> APIRouter:
    """Return the routes of the pages, of their pictures and of their style.

    Parameters
    ----------
    answering : Answering
    events : EventLog
    config : ServerConfig
    """
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    catalogs = Catalogs(config.images)
    _add_start(router, answering, catalogs)
    _add_user(router, answering, events, catalogs)
    _add_compare(router, answering, catalogs)
    _add_item(router, answering, catalogs)
    _add_map(router, answering, catalogs)
    _add_watching(router, answering, events)
    _add_files(router, answering, catalogs)
    return router


def _add_start(router: APIRouter, answering: Answering, catalogs: Catalogs) -> None:
    @router.get("/")
    def start() -> Response:
        run = answering.variants[0].live.current()
        catalog = catalogs.of(run)
        people = [(user, catalog.history(user)) for user in catalog.some_users(_USERS)]
        people_cards = [(user, len(items), [catalog.card(item) for item in items[:5]]) for user, items in people]
        popular = [catalog.card(item) for item in catalog.popular_items(_POPULAR)]
        return render("start.html", run=run, catalog=catalog, people=people_cards, popular=popular)

    @router.get("/search")
    def search(q: Annotated[str, Query(max_length=200)] = "") -> Response:
        catalog = catalogs.of(answering.variants[0].live.current())
        text = q.strip()
        users = catalog.find_users(text, _FOUND) if text else []
        items = [catalog.card(item) for item in catalog.find_items(text, _FOUND)] if text else []
        return render("search.html", text=text, users=users, items=items)


def _add_user(router: APIRouter, answering: Answering, events: EventLog, catalogs: Catalogs) -> None:
    @router.get("/user")
    async def user(
        id: Id,
        off: Annotated[list[str] | None, Query(max_length=20)] = None,
        where: Annotated[str, Query(max_length=10_000)] = "",
        n: Length = 20,
    ) -> Response:
        run = answering.variant_of(id).live.current()
        catalog = await asyncio.to_thread(catalogs.of, run)
        lists = await user_lists(answering, id, n, off or (), where.strip())
        history = catalog.history(id)
        since = events.user_items(id, basket=True)
        hidden = [item for item in events.user_items(id) if item not in set(since)]
        return render(
            "user.html",
            user=id,
            model=run.recommender.model,
            lists=lists,
            bar=lists.bar,
            off=list(lists.off),
            where=where.strip(),
            n=n,
            item_cards=find_cards(catalog, [*lists.whole.items, *(lists.changed or ())]),
            history=[catalog.card(item) for item in history[:_HISTORY]],
            n_history=len(history),
            since=[catalog.card(item) for item in since],
            hidden=[catalog.card(item) for item in hidden],
            example=catalog.example_filter,
            columns=[name for name in catalog.columns.column_names if name != "image"],
        )


def _add_compare(router: APIRouter, answering: Answering, catalogs: Catalogs) -> None:
    @router.get("/compare")
    async def compare(
        user: OptionalId = "", other: OptionalId = "", run: OptionalId = "", other_run: OptionalId = ""
    ) -> Response:
        sides: list[dict[str, Any]] = []
        if user:
            for person, name in ((user, run), (other or user, other_run)):
                variant = _variant(answering, name, person)
                shown = await one_list(answering, person, _COMPARED, variant)
                run_now = variant.live.current()
                catalog, folder = await asyncio.to_thread(catalogs.of, run_now), run_now.folder.name
                sides.append(
                    {
                        "list": shown,
                        "item_cards": find_cards(catalog, shown.items),
                        "bar": measure(shown.items),
                        "folder": folder,
                    }
                )
        items = [{one.item for one in side["list"].items} for side in sides]
        return render(
            "compare.html",
            asked={"user": user, "other": other, "run": run, "other_run": other_run},
            variants=[(one.name, one.live.current().folder.name) for one in answering.variants],
            sides=sides,
            shared=items[0] & items[1] if items else set(),
            length=_COMPARED,
        )


def _add_item(router: APIRouter, answering: Answering, catalogs: Catalogs) -> None:
    @router.get("/item")
    async def item(id: Id, view: OptionalId = "", user: OptionalId = "") -> Response:
        run = answering.variants[0].live.current()
        catalog, problem = await asyncio.to_thread(catalogs.of, run), ""
        if id not in run.lists.items:
            raise UnknownError(f"item {id!r} is not known")
        try:
            similar = (await answering.similar(id, _SIMILAR, view=view or None))["items"]
        except GtcrecError as error:  # a model without vectors, an item without this content
            similar, problem = [], str(error)
        people = await asyncio.to_thread(run.recommender.users_for, id, 8)
        return render(
            "item.html",
            card=catalog.card(id),
            facts=catalog.facts(id),
            user=user,
            view=view,
            views=run.recommender.modalities,
            similar=[(catalog.card(one["item"]), one["score"]) for one in similar],
            problem=problem,
            people=people["user_id"].to_pylist(),
        )


def _add_map(router: APIRouter, answering: Answering, catalogs: Catalogs) -> None:
    maps: WeakKeyDictionary[LoadedRun, tuple[list[str], Any]] = WeakKeyDictionary()
    one_at_a_time = asyncio.Lock()

    @router.get("/map")
    def item_map(color: OptionalId = "") -> Response:
        catalog = catalogs.of(answering.variants[0].live.current())
        columns = color_columns(catalog)
        chosen = color if color in columns else ""
        popular = [catalog.card(item) for item in catalog.popular_items(_POPULAR)]
        return render("map.html", columns=columns, color=chosen, popular=popular)

    @router.get("/map/points")
    async def points(color: OptionalId = "") -> Response:
        run = answering.variants[0].live.current()
        catalog = await asyncio.to_thread(catalogs.of, run)
        async with one_at_a_time:
            if run not in maps:
                maps[run] = await asyncio.to_thread(map_items, run.recommender, catalog)
        content = await asyncio.to_thread(_map_content, catalog, *maps[run], color)
        return Response(json.dumps(content), media_type="application/json")


def _add_watching(router: APIRouter, answering: Answering, events: EventLog) -> None:
    @router.get("/training")
    def training(run: OptionalId = "") -> Response:
        folders = find_trainings(answering.variants[0].live.path)
        trainings = [read_training(folder) for folder in folders]
        chosen = next((one for one in trainings if one.name == run), trainings[0] if trainings else None)
        return render("training.html", trainings=trainings, chosen=chosen, width=WIDTH, height=HEIGHT)

    @router.get("/experiment")
    def experiment() -> Response:
        states = variant_states(answering.variants, events)
        widest = max((state["interval"][1] for state in states if state["lists"]), default=1.0)
        return render("experiment.html", states=states, widest=widest or 1.0)


def _add_files(router: APIRouter, answering: Answering, catalogs: Catalogs) -> None:
    @router.get("/picture")
    def picture(id: Id) -> Response:
        for variant in answering.variants:
            path = catalogs.of(variant.live.current()).pictures.find(id)
            kind = media_type(path) if path else None
            if path and kind:
                return FileResponse(path, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})
        return Response("no picture", 404, media_type="text/plain")

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        return _file(static_file(name), seconds=31_536_000)

    @router.get("/docs")
    def api() -> Response:
        return api_page()

    @router.get("/docs/{name}")
    def swagger(name: str) -> Response:
        return _file(swagger_file(name), seconds=3_600)


def _file(found: tuple[bytes, str] | None, seconds: int) -> Response:
    """Return a file with its type, which browsers may keep for some seconds; 404 for none."""
    if found is None:
        return Response("no such file", 404, media_type="text/plain")
    return Response(found[0], headers={"Cache-Control": f"public, max-age={seconds}"}, media_type=found[1])


def _map_content(catalog: Catalog, items: list[str], places: Any, color: str) -> Mapping[str, Any]:
    """What the script of the map draws: points as x, y, group, id, title, whether there is a picture."""
    color = color if color in color_columns(catalog) else telling_column(catalog, items, places)
    coloring = group_by(catalog, color) if color else None
    group = dict(zip(catalog.item_ids, coloring.groups, strict=True)) if coloring else {}
    shown = [catalog.card(item) for item in items]
    points = [
        [round(float(x), 4), round(float(y), 4), group.get(card.id, -1), card.id, card.title, card.picture]
        for card, (x, y) in zip(shown, places, strict=True)
    ]
    names = coloring.names if coloring else ()
    return {"points": points, "color": color, "groups": names, "ordered": bool(coloring and coloring.ordered)}


def _variant(answering: Answering, name: str, user: str) -> Variant:
    """Return the variant of a name; that of the user if it is empty. Raises `ConfigError` for an unknown one."""
    if not name:
        return answering.variant_of(user)
    for variant in answering.variants:
        if variant.name == name:
            return variant
    raise ConfigError(f"run: expected one of {', '.join(one.name for one in answering.variants)}, found {name!r}")
