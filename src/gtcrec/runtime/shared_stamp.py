"""A sign that several processes see at once, without a lock and without a call to the system."""

import mmap
import os
from pathlib import Path

__all__ = ["SharedStamp"]

_BYTES = 8


class SharedStamp:
    """A number in a file that is in the memory of all who open it.

    A process renews it to say that something has changed. Another compares it with what it read last. No two values are
    alike but with a probability of 2^-64.

    Parameters
    ----------
    path : path
        The file; made if missing.

    Raises
    ------
    OSError
        When the system refuses.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "stamp"
    >>> one, other = SharedStamp(path), SharedStamp(path)
    >>> before = other.value
    >>> one.renew()
    >>> other.value == before, other.value == one.value
    (False, True)
    """

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("a+b") as file:
            file.truncate(_BYTES)
            self._memory = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("q")

    @property
    def value(self) -> int:
        """The number as the last process wrote it."""
        return self._memory[0]

    def renew(self) -> None:
        """Write another number."""
        self._memory[0] = int.from_bytes(os.urandom(_BYTES), signed=True)
