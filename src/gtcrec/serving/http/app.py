"""The application: one process that answers with the newest run, keeps events and measures itself."""

import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import gtcrec
from gtcrec.errors import GtcrecError, WriteError
from gtcrec.serving.http.answers import Answering, UnknownError, Variant
from gtcrec.serving.http.config import ServerConfig
from gtcrec.serving.http.events import EventLog, KeyInUseError, LogFullError
from gtcrec.serving.http.gate import Gate
from gtcrec.serving.http.live import LiveRun, LoadedRun
from gtcrec.serving.http.metrics import Metrics
from gtcrec.serving.http.routes import api_router, watching_router
from gtcrec.serving.http.shortcut import Shortcut
from gtcrec.serving.page.router import page_router

__all__ = ["create_app"]

_LOG = logging.getLogger(__name__)


def create_app(config: ServerConfig) -> FastAPI:
    """Return the application that serves a run, ready to answer.

    Parameters
    ----------
    config : ServerConfig

    Returns
    -------
    fastapi.FastAPI
        Its `state` has `variants`, `events` and `metrics`. Newer runs are looked for while it runs.

    Raises
    ------
    RunError
        If there is no finished run, or it is damaged.
    WriteError
        If the events cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from starlette.testclient import TestClient
    >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
    >>> app = create_app(ServerConfig(model.save(Path(tempfile.mkdtemp()) / "run")))
    >>> with TestClient(app, base_url="http://127.0.0.1") as client:
    ...     len(client.get("/v1/recommend/u0001?n=5").json()["items"])
    5
    """
    events = EventLog(config.events_path)
    left = 1 - sum(share for _, share in config.variants)
    sizes = {"ready_items": config.ready_items, "ready_users": config.ready_users}
    variants = [
        Variant(chr(ord("a") + place), share, LiveRun(path, config.device, events.items, config.images, **sizes))
        for place, (path, share) in enumerate([(config.run, left), *config.variants])
    ]
    metrics = Metrics()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lists")  # the library uses all cores by itself
    answering = Answering(variants, events, executor)
    app = FastAPI(
        title="gtcrec",
        version=gtcrec.__version__,
        description="Recommendations of a trained model.",
        lifespan=_lifespan(config, variants, events, metrics, executor),
        docs_url=None,  # its page loads scripts from elsewhere; ours is the router's of the pages
        redoc_url=None,
    )
    app.state.variants, app.state.events, app.state.metrics = variants, events, metrics
    app.add_middleware(Shortcut, answering=answering, max_n=config.max_n)
    app.add_middleware(Gate, config=config, metrics=metrics)  # the outer one: added last
    app.include_router(api_router(answering, events, metrics, config))
    app.include_router(watching_router(answering, metrics))
    _answer_errors(app)
    app.include_router(page_router(answering, events, config))
    return app


def _lifespan(
    config: ServerConfig, variants: list[Variant], events: EventLog, metrics: Metrics, executor: ThreadPoolExecutor
) -> Any:
    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        for variant in variants:

            def note(loaded: LoadedRun | None, name: str = variant.name) -> None:
                metrics.count_reload(name, taken=loaded is not None)

            if config.reload_seconds:
                variant.live.watch(config.reload_seconds, note)
        yield
        for variant in variants:
            variant.live.close()
        executor.shutdown()
        events.close()

    return run


def _answer_errors(app: FastAPI) -> None:
    """Let every error be one JSON object with one message, of an unexpected one without its text."""

    @app.exception_handler(GtcrecError)
    async def known(request: Request, error: GtcrecError) -> JSONResponse:
        if isinstance(error, WriteError):
            _LOG.error("%s", error)  # its text names a path of this machine
            return JSONResponse({"message": "the disk refuses to write"}, 503)
        return JSONResponse({"message": str(error)}, _STATUS.get(type(error), 422))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return JSONResponse({"message": f"{place}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"message": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"message": "the server failed; its log says why"}, 500)


_STATUS = {UnknownError: 404, KeyInUseError: 409, LogFullError: 503}
