"""Pages from templates, with the headers that let them load nothing from elsewhere."""

import hashlib
from collections.abc import Callable, Coroutine
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.exceptions import HTTPException

from gtcrec.errors import GtcrecError
from gtcrec.serving.http.answers import UnknownError

__all__ = ["PageRoute", "api_page", "render", "static_file", "swagger_file"]

_FOLDER = resources.files("gtcrec.serving.page")
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address holds a user's id
}


class PageRoute(APIRoute):
    """A route whose errors are pages in words, and whose answers have the headers of pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's function with both around it."""
        answer = super().get_route_handler()

        async def answer_in_words(request: Request) -> Response:
            try:
                response = await answer(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                response = render("error.html", status=422, message=f"{first['loc'][-1]}: {first['msg']}")
            except HTTPException as error:
                response = render("error.html", status=error.status_code, message=str(error.detail))
            except GtcrecError as error:
                status = 404 if isinstance(error, UnknownError) else 422
                response = render("error.html", status=status, message=str(error))
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return answer_in_words


def render(template: str, status: int = 200, **values: Any) -> Response:
    """Return a page of this package's templates, filled in."""
    text = _environment().get_template(template).render(values)
    return Response(text, status, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")


def api_page() -> Response:
    """Return the page of the API. Swagger UI's style holds its pictures itself, as data."""
    page = render("api.html", shown=swagger_file("swagger-ui.css") is not None)
    page.headers["Content-Security-Policy"] = _POLICY.replace("img-src 'self'", "img-src 'self' data:")
    return page


@cache
def static_file(name: str) -> tuple[bytes, str] | None:
    """Return a file of this package and its type, None for a name that it does not have."""
    if name not in {file.name for file in _FOLDER.joinpath("static").iterdir()}:
        return None
    kind = _TYPES.get(name.rpartition(".")[2])
    return (_FOLDER.joinpath("static", name).read_bytes(), kind) if kind else None


@cache
def swagger_file(name: str) -> tuple[bytes, str] | None:
    """Return a file of Swagger UI and its type; None where its package is not installed, and for other names."""
    if name not in ("swagger-ui.css", "swagger-ui-bundle.js") or find_spec("fastapi_offline") is None:
        return None
    content = resources.files("fastapi_offline").joinpath("static", name).read_bytes()
    return content, _TYPES[name.rpartition(".")[2]]


@cache
def _static_address(name: str) -> str:
    """Return an address that changes with the file, so that browsers may keep it for ever."""
    content, _ = static_file(name) or (b"", "")
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def _address(path: str, **query: Any) -> str:
    """Return an address; a list gives its parameter several times, and what is empty gives none.

    >>> _address("/user", id="a b", off=["image"], where="")
    '/user?id=a+b&off=image'
    """
    filled = {name: value for name, value in query.items() if value not in ("", None, [], ())}
    return f"{path}?{urlencode(filled, doseq=True)}" if filled else path


@cache
def _environment() -> Environment:
    folder = _FOLDER.joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(static=_static_address, address=_address)
    environment.filters.update(count=lambda n: f"{n:,}", percent=lambda x: f"{100 * x:.1f} %", sign=_signed)
    return environment


def _signed(value: float, digits: int = 3) -> str:
    """Return a number with a true minus sign.

    >>> _signed(-0.5), _signed(12.3456)
    ('−0.500', '12.346')
    """
    return f"{value:.{digits}f}".replace("-", "−")
