"""How the process holds memory."""

import ctypes

__all__ = ["keep_freed_memory"]


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
