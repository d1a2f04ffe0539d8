"""How the process holds memory."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gtcrec.errors import ConfigError

__all__ = ["free_memory", "keep_freed_memory", "require_memory"]

_GIB = 2**30


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors free for those that follow; other C libraries are left as they are.

    By default it gives large pieces back at once, and each new tensor of a step is fresh pages that the system zeroes:
    up to half of a step's time. The process then keeps its peak memory until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)  # tensors from so many bytes on are the system's own
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def free_memory() -> float:
    """Return how many bytes this process may still take: the least that the machine, a container and ulimit leave.

    Infinity where the system does not say.
    """
    found = [float("inf")]
    with suppress(OSError, ValueError, IndexError):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        found.append(float(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        used = float((group / "memory.current").read_text())
        found.append(float((group / "memory.max").read_text()) - used)  # "max" is no number
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            found.append(limit - float(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return max(min(found), 0.0)


@contextmanager
def require_memory(what: str, needed: float, way_out: str) -> Iterator[None]:
    """Raise `ConfigError` unless `needed` bytes are free, and where memory is short inside the block.

    `way_out` says what would need less.
    """
    free = free_memory()
    if needed > free:
        raise ConfigError(
            f"{what}: needs at least {needed / _GIB:.2f} GiB of memory, {free / _GIB:.2f} GiB are free; {way_out}"
        )
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        said = str(error).partition("you tried")[2] or str(error)
        raise ConfigError(
            f"{what}: memory is short ({free / _GIB:.2f} GiB were free): {said.strip()}; {way_out}"
        ) from error
