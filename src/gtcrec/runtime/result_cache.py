"""Results kept within a process by what they were computed of, so that trials and seeds do not compute them again."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ResultCache"]

Arrays = tuple[NDArray[Any], ...]


class ResultCache:
    """Arrays by the sha256 sum of their inputs, up to `max_bytes` of them; those that were used last stay.

    >>> cache = ResultCache(max_bytes=100)
    >>> cache.get(lambda: (np.arange(3),), np.ones(2), "a setting")[0].tolist()
    [0, 1, 2]
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Arrays] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, compute: Callable[[], Arrays], *inputs: Any) -> Arrays:
        """Return what `compute` does of `inputs`, which are all that it depends on: arrays, and plain values.

        The arrays are the caller's own: changing them changes nothing that is kept.
        """
        key = _digest(inputs)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is None:
            found = compute()
            self._keep(key, found)
        return tuple(array.copy() for array in found)

    def _keep(self, key: bytes, arrays: Arrays) -> None:
        if _size(arrays) > self.max_bytes:
            return
        with self._lock:
            self._kept[key] = arrays
            while sum(map(_size, self._kept.values())) > self.max_bytes:
                self._kept.popitem(last=False)


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)


def _digest(inputs: tuple[Any, ...]) -> bytes:
    total = hashlib.sha256()
    for one in inputs:
        if isinstance(one, np.ndarray):
            total.update(f"{one.dtype} {one.shape};".encode())
            total.update(np.ascontiguousarray(one).data)
        else:
            total.update(f"{type(one).__name__} {one!r};".encode())
    return total.digest()
