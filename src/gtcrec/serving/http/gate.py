"""What every request passes: the key, the host's name, the rate of a client, and the measurements."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gtcrec.serving.http.config import ServerConfig, is_loopback
from gtcrec.serving.http.metrics import Metrics

__all__ = ["Gate"]

_OPEN = ("/health/live", "/health/ready")  # no key: they say nothing of the data
_CLIENTS = 10_000  # whose rates are held


class Gate:
    """Middleware that refuses a request before its body is read, and measures it.

    Without a key only requests to a loopback name are let in: another site's page could else reach the server by a name
    of its own that leads to this machine. A browser may give the key as the password of a basic login.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._buckets: dict[str, tuple[float, float]] = {}  # client -> requests left, at a time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer 400, 401, 413 or 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal:
                await _refuse(send_measured, *refusal)
            else:
                await self._app(scope, self._limited(receive), send_measured)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(route, status, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._config.key:
            if scope["path"] not in _OPEN and not self._has_key(headers):
                return 401, "expected the key as X-API-Key", {"WWW-Authenticate": 'Basic realm="gtcrec"'}
        elif not is_loopback(_host_name(headers.get("host", ""))):
            return 400, "expected a loopback address as the host's name: this server has no key", {}
        if self._config.rate and not self._has_left(scope):
            return 429, f"more than {self._config.rate:g} requests a second", {"Retry-After": "1"}
        size = headers.get("content-length", "")
        if size.isdecimal() and int(size) > self._config.max_body:
            return 413, self._too_large, {}
        return None

    @property
    def _too_large(self) -> str:
        return f"the body must have at most {self._config.max_body:,} bytes"

    def _limited(self, receive: Receive) -> Receive:
        """Return a receiver that stops at the limit, for bodies that do not tell their length."""
        length = 0

        async def receive_limited() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > self._config.max_body:
                raise HTTPException(413, self._too_large)
            return message

        return receive_limited

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        given = headers.get("x-api-key", "")
        if not given and headers.get("authorization", "").lower().startswith("basic "):
            try:
                given = base64.b64decode(headers["authorization"][6:], validate=True).decode().partition(":")[2]
            except ValueError:
                return False
        return hmac.compare_digest(given.encode(), self._config.key.encode())

    def _has_left(self, scope: Scope) -> bool:
        """Take one request from what the client's address has left; it gains `rate` a second, up to one second's."""
        client, now = (scope.get("client") or ("",))[0], time.monotonic()
        most = max(1.0, self._config.rate)
        left, since = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self._config.rate)
        self._buckets[client] = left - (left >= 1), now
        if len(self._buckets) > _CLIENTS:
            del self._buckets[next(iter(self._buckets))]  # who was not seen for longest
        return left >= 1


def _host_name(host: str) -> str:
    """Return a host's name without its port.

    >>> [_host_name(host) for host in ("localhost:8000", "127.0.0.1", "[::1]:8000")]
    ['localhost', '127.0.0.1', '::1']
    """
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


async def _refuse(send: Any, status: int, message: str, more: Mapping[str, str]) -> None:
    body = json.dumps({"message": message}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
