"""The trackers that a training may tell of its epochs, by name."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

__all__ = ["Trackers"]

Trackers = Annotated[
    tuple[Literal["tensorboard", "mlflow", "trackio"], ...],
    BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given),
]
"""Names, also as one text with commas between them."""
