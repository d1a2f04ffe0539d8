"""GTC's settings: their defaults, what a search may try, and the presets."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gtcrec.models.base import Space
from gtcrec.ops import diffusion

__all__ = ["PRESETS", "SPACE", "GTCConfig", "noise_levels"]


class GTCConfig(BaseModel):
    """Settings of GTC; where a default is the paper's, section 5 of it says so, the rest is chosen on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of each view's vectors")
    layers: int = Field(3, ge=0, description="hops over the user-item graph")
    start: Literal["random", "als"] = Field(
        "random", description="of the embeddings; als: the factors of alternating least squares over all pairs"
    )
    als_unobserved: float = Field(
        4.0, gt=0, description="weight of all pairs' squared scores, as a multiple of the liked pairs' (start=als)"
    )
    als_reg: float = Field(0.05, gt=0, description="of the squared factors (start=als)")
    item_neighbours: int = Field(10, ge=0, description="content neighbours per item; 0: no item graph")
    item_graph_weight: float = Field(1.0, gt=0, description="of what an item takes from its content neighbours")
    identity_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of a step's items without their identity, as new items are; 0: none"
    )
    new_item_weight: float = Field(
        1.0, gt=0, description="of the identity that content gives new items; more lists more of them (start=als)"
    )
    item_search: Literal["exact", "approximate"] = Field("exact", description="approximate: for 10^5 items and more")
    user_neighbours: int = Field(0, ge=0, description="co-liked users per user; 0: no user graph")
    filter: Literal["off", "noise_only", "trained"] = Field("trained", description="noise_only: an untrained denoiser")
    condition: Literal["liked", "identity", "audience"] = Field(
        "liked", description="what guides the filter: the set of contents that the user liked, or the item's own"
    )
    prototypes: int = Field(8, ge=1, description="interest prototypes; 1: the filter does not depend on the user")
    width: int = Field(128, ge=1, description="directions of content that the filter sees (liked)")
    hidden: int = Field(64, ge=2, description="width of the denoiser")
    diffusion_steps: int = Field(600, ge=2, description="noise levels T (paper)")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="smallest beta (paper)")
    beta_end: float = Field(0.01, gt=0, lt=1, description="largest beta (paper)")
    schedule: Literal["linear", "cosine"] = Field("linear", description="of the noise levels; cosine needs no betas")
    prediction: diffusion.Prediction = Field("noise", description="what the denoiser predicts")
    min_snr: float = Field(0.0, ge=0, description="gamma of the denoising loss's min-SNR weights; 0: none")
    guidance: float = Field(1.0, ge=0, description="how strongly the condition guides the denoiser; 1: as it says")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the average of the denoiser that predicts; 0: none")
    level: float = Field(0.25, ge=0, lt=1, description="noise level of the filter, as a share of T")
    filter_steps: int = Field(1, ge=1, description="DDIM steps of the filter")
    alignment: Literal["none", "pairwise", "n", "n_squared", "chain"] = Field(
        "n", description="what ties the views of an item together"
    )
    aligned_items: int = Field(512, ge=0, description="items in the alignment of a step; 0: the whole catalogue")
    taste: Literal["content", "own"] = Field(
        "content", description="user's side of content; own: plus a learned vector"
    )
    content_bias: bool = Field(
        False, description="learn what content everyone likes, which new items have instead of their popularity (liked)"
    )
    refine: bool = Field(False, description="add attention over the filtered content to the identity view")
    echo: bool = Field(False, description="in training, let a liked item's own content count in its user's taste")
    content_weight: float = Field(0.3, gt=0, description="of each content view in the score, before training")
    content_layers: int = Field(1, ge=0, description="hops of content over the graph (identity, audience)")
    content_refresh: Literal["step", "epoch"] = Field(
        "epoch", description="when content goes over the graph: each step, with its gradient, or once before an epoch"
    )
    propagation: Literal["full", "sampled"] = Field(
        "full", description="sampled: a step looks at walks from its own users and items, whatever the catalogue's size"
    )
    walks: int = Field(
        2, ge=1, description="from each user and item of a step, and a quarter as many content neighbours, if sampled"
    )
    denoised_pairs: int = Field(1024, ge=0, description="liked pairs in the denoising loss of a step; 0: all")
    diffusion_weight: float = Field(0.7, ge=0, description="of the denoising loss (paper)")
    pair_weight: float = Field(0.0, ge=0, description="of the denoising loss that is told the user's embedding")
    rerank: int = Field(0, ge=0, description="best items of a user to filter once more, pair by pair; 0: none")
    alignment_weight: float = Field(0.01, ge=0, description="of the alignment loss")
    reg: float = Field(1e-4, ge=0, description="of the L2 term on the embeddings")

    @property
    def filter_level(self) -> int:
        """The noise level of the filter, 0 to T - 1."""
        return round(self.level * (self.diffusion_steps - 1))

    @model_validator(mode="after")
    def _what_is_liked_is_no_learned_taste(self) -> "GTCConfig":
        if self.condition == "liked" and self.taste == "own":
            raise ValueError("taste=own needs condition=identity or audience, found condition=liked")
        if self.condition != "liked" and self.content_bias:
            raise ValueError(f"content_bias needs condition=liked, found condition={self.condition}")
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "GTCConfig":
        if self.rerank and not (self.pair_weight and self.filter == "trained"):
            raise ValueError("rerank needs filter=trained and pair_weight > 0, which trains what it asks")
        if self.ema and self.filter != "trained":
            raise ValueError(f"ema needs filter=trained, whose weights move, found filter={self.filter}")
        if self.filter_steps > self.filter_level + 1:
            raise ValueError(
                f"filter_steps must be at most {self.filter_level + 1}, the noise levels up to level={self.level}, "
                f"found {self.filter_steps}"
            )
        noise_levels(self)  # says which betas leave no signal or no noise
        return self

    @model_validator(mode="after")
    def _a_sampled_step_sees_no_whole(self) -> "GTCConfig":
        if self.propagation == "sampled":
            wanted = {"content_refresh": "epoch", "taste": "content", "identity_dropout": 0}
            for key, value in wanted.items():
                if getattr(self, key) != value:
                    raise ValueError(f"propagation=sampled needs {key}={value}, found {key}={getattr(self, key)}")
            if not self.aligned_items and self.alignment != "none":
                raise ValueError("propagation=sampled needs aligned_items > 0, found 0: the whole catalogue")
        return self


SPACE: Space = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    "als_unobserved": (2.0, 4.0, 8.0),
    "als_reg": (0.01, 0.02, 0.03, 0.05, 0.1),
    "layers": (0, 1, 2),
    "item_graph_weight": (0.1, 0.3, 1.0),
    "content_weight": (0.1, 0.3, 1.0),
    "alignment_weight": (1e-3, 1e-2, 0.05),
    "reg": (1e-5, 1e-4, 1e-3, 1e-2),
}

_DEFAULT = {"start": "als", "dim": 128, "layers": 1, "item_graph_weight": 0.3}

PRESETS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "default": (_DEFAULT, {"learning_rate": 2e-3}),
    # For catalogues that a step must not look through.
    "sampled": (_DEFAULT | {"propagation": "sampled", "walks": 8}, {"learning_rate": 2e-3}),
    # Every setting as declared: all that is known of users and items is learned step by step.
    "plain": ({}, {}),
    # The paper's words: each item filtered for its audience, the denoiser trained, the user told it pair by pair.
    "paper": (
        {
            "condition": "audience",
            "prototypes": 1,
            "pair_weight": 0.7,
            "user_neighbours": 40,
            "alignment_weight": 0.4,
        },
        {},
    ),
    # The arithmetic of the published code: its settings, the filter for the item's identity alone, full-catalogue TC.
    "released": (
        {
            "condition": "identity",
            "layers": 2,
            "user_neighbours": 40,
            "prototypes": 1,
            "filter_steps": 1,
            "aligned_items": 0,
            "denoised_pairs": 0,
            "taste": "own",
            "content_refresh": "step",
            "echo": True,
            "refine": True,
            "content_layers": 2,
            "alignment_weight": 0.4,
            "reg": 1e-3,
        },
        {"learning_rate": 1e-4, "batch_size": 2048},
    ),
}


def noise_levels(config: GTCConfig) -> diffusion.Schedule:
    """Return the noise levels that the settings ask for."""
    if config.schedule == "cosine":
        return diffusion.cosine_schedule(config.diffusion_steps)
    return diffusion.linear_schedule(config.diffusion_steps, config.beta_start, config.beta_end)
