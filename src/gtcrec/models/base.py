"""What a model says of itself: its spec, and the base of its settings. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gtcrec.models.renamed import rename_settings

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CONTENT_SCALING",
    "EMBEDDING_DIM",
    "LEAST_SQUARES_REG",
    "UNOBSERVED_WEIGHT",
    "ContentModelConfig",
    "ModelConfig",
    "ModelSpec",
    "NumWalks",
    "Presets",
    "Propagation",
    "RegForm",
    "SearchSpace",
    "check_sampled",
]

RegForm = Literal["half_squares", "norms"]
"""Form of an L2 term: a batch's half squared norm per row, or the norms of its matrices over the number of rows."""

Propagation = Annotated[
    Literal["full", "sampled"],
    Field(description="sampled: a step looks at walks from its own users and items, and Adam at the rows they reach"),
]
NumWalks = Annotated[
    int,
    Field(ge=1, description="from each user and item of a step, and a quarter as many content neighbours, if sampled"),
]
"""How embeddings go over the graph in a step, and how many walks stand for the graph (`sampled_propagation`)."""

SearchSpace = Mapping[str, tuple[Any, ...]]
"""A setting's name, or `train.` and a training setting's, -> its candidate values, from the smallest effect up."""

# Values that a search gives to all models that have the setting, so that none is tuned more finely than another.
EMBEDDING_DIM = (64, 128)
CONTENT_SCALING = ("raw", "standardized")
UNOBSERVED_WEIGHT = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # as a multiple of the observed pairs'
LEAST_SQUARES_REG = (0.003, 0.01, 0.02, 0.03, 0.05, 0.1)

Presets = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
"""A preset's name -> the model's settings and the training settings that differ from the defaults."""


class ModelConfig(BaseModel):
    """Base of a model's settings: frozen; names of version 0.1 are accepted, unknown ones refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    removed_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that the model had once, and the one value of each that stored configurations may still have."""

    earlier_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that came later and change the model by default: what a stored configuration without them means."""

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, settings: Any) -> Any:
        return rename_settings(settings, cls) if isinstance(settings, Mapping) else settings


class ContentModelConfig(ModelConfig):
    """Base of the settings of a model that takes content as it is given; `build_model` scales it."""

    content_scaling: Literal["raw", "standardized"] = Field(
        "raw", description="standardized: each column of content has mean 0 and variance 1 over the items that have it"
    )


def check_sampled(config: Any, **expected: Any) -> None:
    """Raise `ValueError` for propagation=sampled with another setting than is expected there."""
    for key, value in expected.items():
        if config.propagation == "sampled" and getattr(config, key) != value:
            raise ValueError(f"propagation=sampled needs {key}={value}, found {key}={getattr(config, key)}")


@dataclass(frozen=True)
class ModelSpec:
    """A model as the registry, the tuner and the contract tests know it: `SPEC` at the foot of its file.

    Parameters
    ----------
    name
        What `--model` and `get_spec` call it.
    model
        The `nn.Module`, made by `model(config, train, features)`: settings, training `Interactions` of shape
        [n_users, n_items], `ItemFeatures` of n_items. It has `scorer()`, and `loss(batch, rng)` if it is trained by
        gradient.
    config
        Its settings: a frozen pydantic model that refuses unknown names, such as a `ModelConfig`.
    summary
        One line about it. Of the models in this package the registry has it, where it is read without torch.
    presets
        Named settings; "default" is one of them.
    search_space
        Candidate values of the settings that a search tries.
    uses_content
        Whether items' content reaches the scores; if not, a saved model holds none.
    supports_sharding
        Whether the constructor takes `workers`, a `ProcessGroup` over which its embeddings are spread.
    supports_deferred_init
        Whether the constructor takes `init_weights`: with false it solves for no weights, since saved ones are loaded
        next.
    personalized
        Whether the scores depend on the user.
    paper
        Citation of the method, or "".
    small
        Settings that make it small and quick, for contract tests and examples.
    choose_model
        The class that a model with some settings is of, where that is not always `model`.
    """

    name: str
    model: "type[nn.Module]"
    config: type[BaseModel]
    summary: str = ""
    presets: Presets = field(default_factory=lambda: {"default": ({}, {})})
    search_space: SearchSpace = field(default_factory=dict)
    uses_content: bool = True
    supports_sharding: bool = False
    supports_deferred_init: bool = False
    personalized: bool = True
    paper: str = ""
    small: Mapping[str, Any] = field(default_factory=dict)
    choose_model: "Callable[[Any], type[nn.Module]] | None" = None

    @property
    def is_trained(self) -> bool:
        """Whether the model is trained by gradient."""
        return hasattr(self.model, "loss")

    @property
    def solves_items(self) -> bool:
        """Whether the weights may be solved for item by item, as `gtcrec.types.SolvesItems` says."""
        return hasattr(self.model, "solve_items")
