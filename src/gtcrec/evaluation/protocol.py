"""What a measurement is: masks, users, candidates, metrics, and the presets of the field."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gtcrec.errors import ConfigError
from gtcrec.evaluation.metrics import CATALOG_METRICS, RANKING_METRICS, parse

__all__ = ["PROTOCOLS", "EvaluateConfig", "Protocol", "masked_parts"]


@dataclass(frozen=True)
class Protocol:
    """The choices that change published numbers: what is masked, who takes part, which MAP is printed.

    `masked_at_test` names the parts whose pairs are never recommended when testing (on validation it is
    always the training pairs alone); `cold_users` says whether users without training pairs take part;
    `printed_as_map` is our name of the metric that the field's tool of that name prints as MAP.
    """

    name: str
    masked_at_test: tuple[str, ...]
    cold_users: bool
    printed_as_map: str
    ranking: str = "all items"
    ties: str = "ascending item"


PROTOCOLS: Mapping[str, Protocol] = {
    "mmrec": Protocol("mmrec", masked_at_test=("train",), cold_users=False, printed_as_map="map_cut"),
    "recbole": Protocol("recbole", masked_at_test=("train", "valid"), cold_users=True, printed_as_map="map_cut"),
    "strict": Protocol("strict", masked_at_test=("train", "valid"), cold_users=True, printed_as_map="map"),
}


class EvaluateConfig(BaseModel):
    """What is measured and how; `block` is the number of users scored at once, 0 = by memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["mmrec", "recbole", "strict"] = Field(
        "mmrec", description="mmrec masks training items at test, recbole and strict validation items too"
    )
    candidates: Literal["all", "cold", "warm"] = Field(
        "all", description="the items that are ranked; cold: those without a training pair, warm: the others"
    )
    metrics: tuple[str, ...] = Field(
        tuple(f"{kind}@{k}" for kind in ("recall", "ndcg", "precision", "map", "map_cut") for k in (5, 10, 20, 50)),
        description="of each user's list",
    )
    lists: tuple[str, ...] = Field(
        tuple(f"{kind}@{k}" for kind in CATALOG_METRICS for k in (10, 20)), description="of all lists together"
    )
    resamples: int = Field(2000, ge=1, description="bootstrap samples of the intervals")
    block: int = Field(0, ge=0, description="users scored at once; 0: by memory")

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ConfigError("metrics must name at least one metric, found none")
        return tuple(name for name in names if parse(name, RANKING_METRICS))

    @field_validator("lists")
    @classmethod
    def _check_catalog_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if parse(name, CATALOG_METRICS))


def masked_parts(config: EvaluateConfig, on: str) -> tuple[str, ...]:
    """Return the parts of a split whose pairs are never recommended on validation or test."""
    return PROTOCOLS[config.protocol].masked_at_test if on == "test" else ("train",)
