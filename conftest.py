"""What the examples in docstrings may use without importing it."""

import numpy as np
import pytest

import gtcrec


@pytest.fixture(autouse=True)
def example_names(doctest_namespace):
    doctest_namespace.update(gtcrec=gtcrec, np=np)
