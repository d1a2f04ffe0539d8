"""On CUDA the same as on the CPU, within the tolerance of float32 sums in another order."""

import pytest

pytestmark = pytest.mark.gpu

TRAINED = ("bpr", "lightgcn", "freedom", "gtc")
