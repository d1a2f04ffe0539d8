"""What a search over a model's settings may try."""

from collections.abc import Mapping
from typing import Any

__all__ = ["Space"]

Space = Mapping[str, tuple[Any, ...]]
"""A setting's name, or `train.` and a training setting's, -> its candidate values, from the smallest effect up."""
