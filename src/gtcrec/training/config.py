"""The settings of the training loop."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gtcrec.models.renamed import rename_settings

__all__ = ["Trackers", "TrainConfig"]

Trackers = Annotated[
    tuple[Literal["tensorboard", "mlflow", "trackio"], ...],
    BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given),
]
"""Trackers that record a training's epochs, by name; also as one text with commas between them."""


class TrainConfig(BaseModel):
    """Settings of the training loop; batch size and metric as in MMRec (Zhou 2023)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(1000, ge=1, description="at most so many passes over the training pairs")
    batch_size: int = Field(2048, ge=1, description="pairs a step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    lr_decay: Literal["none", "linear", "exponential"] = Field(
        "none", description="linear: the learning rate falls to 0 over `epochs`; exponential: by 4 % in 50 epochs"
    )
    patience: int = Field(50, ge=1, description="validations without a better one before training stops")
    valid_metric: str = Field("ndcg@20", description="chooses the best epoch, and a search's best trial")
    valid_every: int = Field(1, ge=1, description="epochs between validations")
    valid_users: int = Field(0, ge=0, description="validate on at most so many users, drawn once; 0: on all")
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    negative_items: Literal["all", "warm"] = Field(
        "all", description="warm: no negative is an item without a training pair, as new items are to be recommended"
    )
    refresh_every: int = Field(0, ge=0, description="steps between refreshes of what steps hold fixed; 0: an epoch")
    embedding_sharding: Literal["none", "row_wise"] = Field(
        "none", description="row_wise: each worker holds a part of the rows of the embeddings"
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the loss; weights stay float32")
    seed: int = Field(0, ge=0, description="of the weights, the batches and the negatives")
    trackers: Trackers = Field((), description="record each epoch; each needs the extra of its name")

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, settings: Any) -> Any:
        return rename_settings(settings, cls) if isinstance(settings, Mapping) else settings
