"""`gtcrec serve`: answer over HTTP with a run, and with newer ones as they come."""

import importlib.util
import socket
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gtcrec.cli.options import Device
from gtcrec.errors import ConfigError

__all__ = ["serve"]

Served = Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a folder of runs whose newest is served.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="Its first line is what clients send as X-API-Key.")]
Variants = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="RUN:SHARE", help="Another run for this share of the users; repeatable."),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", help="Where image paths begin, before the data's folder; posted items may name its files."
    ),
]


def serve(
    folder: Served,
    host: Annotated[str, typer.Option("--host", help="Other addresses than loopback need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    key_file: KeyFile = None,
    events: Annotated[
        Path | None, typer.Option("--events", help="The SQLite file of events; RUN.events.db if not given.")
    ] = None,
    variant: Variants = None,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Requests a second of one client; 0: no limit.")] = 0.0,
    reload_seconds: Annotated[
        float, typer.Option("--reload-seconds", min=0, help="How often to look for a newer run; 0: never.")
    ] = 2.0,
    images: Images = None,
    device: Device = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes that answer, each with the model in its memory.")
    ] = 1,
) -> None:
    """Serve a run over HTTP until Ctrl-C: a page to look at it, lists, similar items, events, metrics."""
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if not importlib.util.find_spec(name)]:
        raise ConfigError(f'{missing[0]} is not installed; pip install "gtcrec[serve]"')
    from gtcrec.serving.http import ServerConfig

    variants, key = tuple(map(_split_share, variant or ())), _read_key(key_file)
    limits = {"rate": rate, "reload_seconds": reload_seconds}
    config = ServerConfig(folder, variants, host, port, key, events, images, device, **limits)
    with _listen(host, port) as listening:
        from gtcrec.cli.serving import workers as processes

        answer = processes.answer_alone if workers == 1 else partial(processes.answer_together, n=workers)
        answer(config, listening)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, before the run is loaded. Raises `ConfigError` when the system refuses."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def _read_key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a key of ASCII characters in the first line") from error
    if not lines or not lines[0].strip():
        raise ConfigError(f"{path}: expected a key in the first line, found none")
    return lines[0].strip()


def _split_share(text: str) -> tuple[Path, float]:
    """Return the run and the share of RUN:SHARE; the last colon divides them.

    >>> _split_share("runs/gtc-1:0.2")
    (PosixPath('runs/gtc-1'), 0.2)
    """
    run, _, share = text.rpartition(":")
    try:
        return Path(run), float(share if run else "")
    except ValueError:
        raise typer.BadParameter(f"--variant: expected RUN:SHARE such as runs/gtc-1:0.2, found {text!r}") from None
