"""What a search over a model's settings may try."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from torch import nn

__all__ = ["Entry", "Space"]

Space = Mapping[str, tuple[Any, ...]]
"""A setting's name, or `train.` and a training setting's, -> its candidate values, from the smallest effect up."""


@dataclass(frozen=True)
class Entry:
    """A model, its config, one line about it, its presets, name -> (settings, training settings), and what to tune."""

    model: type[nn.Module]
    config: type[BaseModel]
    about: str
    presets: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = field(
        default_factory=lambda: {"default": ({}, {})}
    )
    space: Space = field(default_factory=dict)
    sharded: bool = False  # whether its tables can be spread over workers, of which its constructor is then told
