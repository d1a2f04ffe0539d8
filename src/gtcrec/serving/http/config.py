"""The settings of a server."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from gtcrec.errors import ConfigError

__all__ = ["ServerConfig", "is_loopback"]


@dataclass(frozen=True)
class ServerConfig:
    """What is served, where, and within which limits.

    Parameters
    ----------
    run : pathlib.Path
        A finished run or saved model, or a folder of these, whose newest is served.
    variants : tuple of (path, share)
        Other runs, each with its share of the users; the rest are answered by `run`.
    host, port : str, int
        Where to listen. An address that other machines reach needs a `key`.
    key : str
        What clients send as `X-API-Key`; none is asked for if empty.
    events : pathlib.Path, optional
        The SQLite file of the events; `RUN.events.db` beside the run if not given.
    images : pathlib.Path, optional
        Where the paths in the column `image` of the items table begin; the folder of the run's data is the second
        place. Columns of posted items may name its files alone.
    device : str, optional
        "cpu", "cuda" or "cuda:N".
    max_body : int
        Bytes of a request.
    max_n, max_batch, max_candidates : int
        Length of a list, users or events of one request, and ids of its other lists.
    rate : float
        Requests a second of one client; 0 is no limit.
    reload_seconds : float
        How often to look for a newer run; 0 is never.
    ready_users, ready_items : int
        Users whose best items are kept ready, and how many items of each.

    Raises
    ------
    ConfigError
        For a value out of range, or an open address without a key.

    Examples
    --------
    >>> ServerConfig(Path("runs/gtc-0")).events_path
    PosixPath('runs/gtc-0.events.db')
    >>> ServerConfig(Path("runs/gtc-0"), host="0.0.0.0")
    Traceback (most recent call last):
    gtcrec.errors.ConfigError: 0.0.0.0 can be reached by other machines: expected a key of at least 16 characters
    """

    run: Path
    variants: tuple[tuple[Path, float], ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    key: str = field(default="", repr=False)
    events: Path | None = None
    images: Path | None = None
    device: str | None = None
    max_body: int = 1 << 20
    max_n: int = 1_000
    max_batch: int = 1_000
    max_candidates: int = 10_000
    rate: float = 0.0
    reload_seconds: float = 2.0
    ready_users: int = 20_000
    ready_items: int = 100

    def __post_init__(self) -> None:
        for name in ("max_body", "max_n", "max_batch", "max_candidates", "ready_users", "ready_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("rate", "reload_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0, found {getattr(self, name)}")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port must lie in [0, 65535], found {self.port}")
        for _, share in self.variants:
            if not 0 < share < 1:
                raise ConfigError(f"the share of a variant must lie between 0 and 1, found {share}")
        if sum(share for _, share in self.variants) >= 1:
            raise ConfigError("the shares of the variants must add up to less than 1: the run has the rest")
        if len(self.variants) > 25:
            raise ConfigError(f"expected at most 25 variants, found {len(self.variants)}")
        self._check_key()

    def _check_key(self) -> None:
        if self.key and not re.fullmatch(r"[!-~]{16,}", self.key):
            raise ConfigError("the key must have at least 16 characters, printable ASCII without spaces")
        if not self.key and not is_loopback(self.host):
            raise ConfigError(f"{self.host} can be reached by other machines: expected a key of at least 16 characters")

    @property
    def events_path(self) -> Path:
        """The SQLite file of the events."""
        return self.events or self.run.with_name(f"{self.run.name or 'runs'}.events.db")


@lru_cache(maxsize=256)  # every request asks it of the same few names
def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address or a host's name.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
