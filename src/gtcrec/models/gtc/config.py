"""GTC's settings: their defaults, what a search may try, and the presets."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from gtcrec.errors import ConfigError
from gtcrec.models.base import (
    EMBEDDING_DIM,
    LEAST_SQUARES_REG,
    UNOBSERVED_WEIGHT,
    ModelConfig,
    NumWalks,
    Presets,
    SearchSpace,
    check_sampled,
)
from gtcrec.ops import diffusion, losses

__all__ = ["PRESETS", "SPACE", "GTCConfig", "check_combinations", "check_shardable", "noise_levels"]


_PARTS = ("linear", "embedding", "history", "interest")


class GTCConfig(ModelConfig):
    """Settings of GTC; where a default is the paper's, section 5 of it says so, the rest is chosen on validation."""

    earlier_settings: ClassVar[Mapping[str, Any]] = {"blend": "none"}

    removed_settings: ClassVar[Mapping[str, Any]] = {
        "schedule": "linear",
        "prediction": "noise",
        "min_snr": 0,
        "guidance": 1,
        "ema": 0,
        "filter_steps": 1,
        "content_bias": False,
    }

    embedding_dim: int = Field(64, ge=1, description="length of each view's vectors")
    num_layers: int = Field(3, ge=0, description="hops over the user-item graph")
    init: Literal["random", "als"] = Field(
        "random", description="of the embeddings; als: the factors of alternating least squares over all pairs"
    )
    unobserved_weight: float = Field(
        4.0, gt=0, description="of all pairs' squared scores, as a multiple of the observed pairs' (init=als)"
    )
    als_reg: float = Field(0.05, gt=0, description="of the squared factors (init=als)")
    num_item_neighbors: int = Field(10, ge=0, description="content neighbours per item; 0: no item graph")
    item_graph_weight: float = Field(1.0, gt=0, description="of what an item takes from its content neighbours")
    id_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a step's items without their id embedding, as new items are; 0: none"
    )
    new_item_weight: float = Field(
        1.0, gt=0, description="of the identity that content gives new items; more lists more of them (init=als)"
    )
    neighbor_search: Literal["exact", "approximate"] = Field(
        "exact", description="approximate: for 10^5 items and more"
    )
    num_user_neighbors: int = Field(0, ge=0, description="co-liked users per user; 0: no user graph")
    filter: Literal["off", "noise_only", "trained"] = Field("trained", description="noise_only: an untrained denoiser")
    condition: Literal["user_history", "item_id", "item_audience"] = Field(
        "user_history",
        description="what guides the filter: the contents of the user's history, or the item's embedding or users",
    )
    num_prototypes: int = Field(8, ge=1, description="interest prototypes; 1: the filter does not depend on the user")
    content_dim: int = Field(
        128, ge=1, description="directions of content that the filter sees (condition=user_history)"
    )
    hidden_dim: int = Field(64, ge=2, description="width of the denoiser")
    diffusion_steps: int = Field(600, ge=2, description="noise levels T (paper)")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="smallest beta (paper)")
    beta_end: float = Field(0.01, gt=0, lt=1, description="largest beta (paper)")
    noise_level: float = Field(0.25, ge=0, lt=1, description="noise level of the filter, as a share of T")
    alignment: Literal["none", "pairwise", "n", "n_squared", "chain"] = Field(
        "n", description="what ties the views of an item together"
    )
    alignment_batch_size: int = Field(512, ge=0, description="items in the alignment of a step; 0: the whole catalogue")
    modality_preference: Literal["content", "learned"] = Field(
        "content", description="user's side of content: that of the user's items; learned: plus a learned vector"
    )
    attention_refinement: bool = Field(
        False, description="add attention over the filtered content to the identity view"
    )
    leave_one_out: bool = Field(
        True, description="in training, leave a positive item's own content out of its user's history"
    )
    content_weight: float = Field(0.3, gt=0, description="of each content view in the score, before training")
    num_content_layers: int = Field(
        1, ge=0, description="hops of content over the graph (condition=item_id, item_audience)"
    )
    content_refresh: Literal["step", "epoch"] = Field(
        "epoch", description="when content goes over the graph: each step, with its gradient, or once before an epoch"
    )
    propagation: Literal["full", "sampled"] = Field(
        "full", description="sampled: a step looks at walks from its own users and items, whatever the catalogue's size"
    )
    num_walks: NumWalks = 2
    denoising_batch_size: int = Field(1024, ge=0, description="positive pairs in the denoising loss of a step; 0: all")
    diffusion_weight: float = Field(0.7, ge=0, description="of the denoising loss (paper)")
    pair_diffusion_weight: float = Field(0.0, ge=0, description="of the denoising loss that sees the user's embedding")
    rerank_top_n: int = Field(0, ge=0, description="best items of a user to filter once more, pair by pair; 0: none")
    alignment_weight: float = Field(0.01, ge=0, description="of the alignment loss")
    reg: float = Field(1e-4, ge=0, description="of the L2 term on the embeddings")
    train_embedding: bool = Field(True, description="false: the embedding part stays at its start")
    blend: Literal["none", "fixed", "validation"] = Field(
        "none",
        description="parts of the score beside the embedding: a linear one and a masked diffusion of histories, with "
        "fixed weights or weights that validation chooses; none: the embedding part alone",
    )
    linear_weight: float = Field(1.0, ge=0, description="of the linear part in a blend; 0: it is left out")
    embedding_weight: float = Field(1.0, ge=0, description="of the embedding part in a blend; 0: it is left out")
    history_weight: float = Field(2.0, ge=0, description="of the history diffusion in a blend; 0: it is left out")
    interest_weight: float = Field(
        0.25, ge=0, description="of the content diffusion in a blend, where data have content; 0: it is left out"
    )
    part_patience: int = Field(
        10, ge=1, description="validations without a better one before a part of a blend is trained no more"
    )
    linear_content_weight: float = Field(
        40.0, gt=0, description="beta of the linear part: the pull to the weights of content"
    )
    linear_content_reg: float = Field(1.0, gt=0, description="gamma of the linear part: of squared weights of content")
    linear_user_exponent: float = Field(0.5, ge=0, description="a of the linear part: n items weigh n^-a")
    linear_candidates: int = Field(200, ge=1, description="items that each item is regressed on in the linear part")
    history_content_dim: int = Field(
        64, ge=1, description="directions of each modality that the history diffusion sees"
    )
    history_hidden_dim: int = Field(256, ge=1, description="width of the history diffusion's network")
    history_dropout: float = Field(0.2, ge=0, lt=1, description="of the history diffusion's hidden layer")
    history_rate: float = Field(
        0.15, gt=0, description="of the history diffusion's learning rate, as a share of train.learning_rate"
    )
    history_users: int = Field(
        256,
        ge=1,
        description="users of a step whose histories are partly hidden, pairs for the content diffusion",
    )
    history_items: int = Field(
        20_000, ge=1, description="items of a step's cross-entropy; of larger catalogues so many are drawn"
    )
    interest_rate: float = Field(
        5.0, gt=0, description="of the content diffusion's learning rate, as a multiple of train.learning_rate"
    )

    @property
    def filter_level(self) -> int:
        """The noise level of the filter, 0 to T - 1."""
        return round(self.noise_level * (self.diffusion_steps - 1))

    @model_validator(mode="after")
    def _check_modality_preference(self) -> "GTCConfig":
        if self.condition == "user_history" and self.modality_preference == "learned":
            raise ValueError(
                "modality_preference=learned needs condition=item_id or item_audience, found condition=user_history"
            )
        return self

    @model_validator(mode="after")
    def _check_blend(self) -> "GTCConfig":
        if self.blend != "none" and not any(getattr(self, f"{part}_weight") for part in _PARTS):
            raise ValueError(f"blend={self.blend} needs a part, found the weights of {', '.join(_PARTS)} 0")
        if self.blend != "none" and self.rerank_top_n:
            raise ValueError(f"rerank_top_n needs blend=none, found blend={self.blend}")
        return self

    @model_validator(mode="after")
    def _check_reranking(self) -> "GTCConfig":
        if self.rerank_top_n and not (self.pair_diffusion_weight and self.filter == "trained"):
            raise ValueError(
                "rerank_top_n needs filter=trained and pair_diffusion_weight > 0, which trains what it asks"
            )
        noise_levels(self)  # says which betas leave no signal or no noise
        return self

    @model_validator(mode="after")
    def _check_sampled_propagation(self) -> "GTCConfig":
        check_sampled(self, content_refresh="epoch", modality_preference="content", id_dropout=0)
        if self.propagation == "sampled" and not self.alignment_batch_size and self.alignment != "none":
            raise ValueError("propagation=sampled needs alignment_batch_size > 0, found 0: the whole catalogue")
        return self


SPACE: SearchSpace = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    "embedding_dim": EMBEDDING_DIM,
    "unobserved_weight": UNOBSERVED_WEIGHT,
    "als_reg": LEAST_SQUARES_REG,
    "num_layers": (0, 1, 2),
    "item_graph_weight": (0.1, 0.3, 1.0),
    "linear_content_weight": (10.0, 20.0, 40.0, 80.0, 160.0),
    "linear_content_reg": (0.3, 1.0, 3.0),
    "linear_user_exponent": (0.25, 0.5, 0.75, 1.0),
    "history_dropout": (0.0, 0.2, 0.5),
    "alignment_weight": (1e-3, 1e-2, 0.05),
    "reg": (1e-5, 1e-4, 1e-3, 1e-2),
}

_START = {"init": "als", "embedding_dim": 128, "num_layers": 1, "item_graph_weight": 0.3}
_BLENDED = _START | {"blend": "validation", "filter": "off"}

PRESETS: Presets = {
    "default": (_BLENDED, {"learning_rate": 2e-3, "patience": 15}),
    # Closed forms only: nothing is trained but the weights of two parts.
    "linear": (
        _BLENDED
        | {"num_layers": 0, "num_item_neighbors": 0, "alignment": "none"}
        | {"train_embedding": False, "history_weight": 0.0}
        | {"interest_weight": 0.0},
        {},
    ),
    # The embedding part alone: one inner product, which an index and other systems take.
    "embedding": (_START, {"learning_rate": 2e-3}),
    # For catalogues that a step must not look through.
    "sampled": (_START | {"propagation": "sampled", "num_walks": 8}, {"learning_rate": 2e-3}),
    # Every setting as declared: all that is known of users and items is learned step by step.
    "plain": ({}, {}),
    # The paper's words: each item filtered for its audience, the denoiser trained and conditioned on the user.
    "paper": (
        {
            "condition": "item_audience",
            "num_prototypes": 1,
            "pair_diffusion_weight": 0.7,
            "num_user_neighbors": 40,
            "alignment_weight": 0.4,
        },
        {},
    ),
    # The arithmetic of the published code: its settings, the filter for the item's identity alone, full-catalogue TC.
    "released": (
        {
            "condition": "item_id",
            "num_layers": 2,
            "num_user_neighbors": 40,
            "num_prototypes": 1,
            "alignment_batch_size": 0,
            "denoising_batch_size": 0,
            "modality_preference": "learned",
            "content_refresh": "step",
            "leave_one_out": False,
            "attention_refinement": True,
            "num_content_layers": 2,
            "alignment_weight": 0.4,
            "reg": 1e-3,
        },
        {"learning_rate": 1e-4, "batch_size": 2048},
    ),
}


def noise_levels(config: GTCConfig) -> diffusion.Schedule:
    """Return the noise levels that the settings ask for, method equation 4."""
    return diffusion.linear_schedule(config.diffusion_steps, config.beta_start, config.beta_end)


def check_shardable(config: GTCConfig) -> None:
    """Raise `ConfigError` for settings that need all rows of a table in one place."""
    needs = {
        "propagation": "sampled",
        "init": "random",
        "condition": "user_history",
        "attention_refinement": False,
        "rerank_top_n": 0,
        "blend": "none",
        "train_embedding": True,
    }
    for key, expected in needs.items():
        if getattr(config, key) != expected:
            found = getattr(config, key)
            raise ConfigError(f"gtc: train.embedding_sharding=row_wise needs {key}={expected}, found {key}={found}")


def check_combinations(config: GTCConfig, n_items: int, modalities: int) -> None:
    """Raise `ConfigError` if a step's alignment could be refused for its size."""
    n = min(config.alignment_batch_size or n_items, n_items)
    if config.alignment != "n_squared" or n**modalities <= losses.MOST_COMBINATIONS:
        return
    most = round(losses.MOST_COMBINATIONS ** (1 / modalities))
    most -= most**modalities > losses.MOST_COMBINATIONS
    raise ConfigError(
        f"gtc: alignment=n_squared of {modalities + 1} views needs alignment_batch_size from 1 to {most}, "
        f"found {config.alignment_batch_size}, which is {n} items and {n}^{modalities} combinations of the other views"
    )
