"""Names of the arrays that travel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ints", "Masks"]

Ints = NDArray[np.int64]
Floats = NDArray[Any]  # float32 for content and scores, float64 for metrics
Masks = NDArray[np.bool_]
