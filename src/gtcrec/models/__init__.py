"""The one table of models, and how a name and settings become a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from gtcrec.errors import ConfigError, nearest
from gtcrec.models.bpr import BPR, BPRConfig
from gtcrec.models.contentknn import ContentKNN, ContentKNNConfig
from gtcrec.models.ease import EASE, EASEConfig
from gtcrec.models.freedom import FREEDOM, FREEDOMConfig
from gtcrec.models.gtc import GTC, PRESETS, GTCConfig
from gtcrec.models.itemknn import ItemKNN, ItemKNNConfig
from gtcrec.models.lightgcn import LightGCN, LightGCNConfig
from gtcrec.models.popular import Popular, PopularConfig
from gtcrec.models.rp3beta import RP3beta, RP3betaConfig
from gtcrec.models.userknn import UserKNN, UserKNNConfig
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["MODELS", "Entry", "build", "find", "settings"]


@dataclass(frozen=True)
class Entry:
    """A model, its config, one line about it, and its presets: name -> (settings, training settings)."""

    model: type[nn.Module]
    config: type[BaseModel]
    about: str
    presets: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = field(
        default_factory=lambda: {"default": ({}, {})}
    )


MODELS: Mapping[str, Entry] = {
    "popular": Entry(Popular, PopularConfig, "the most liked items, the same for everyone"),
    "itemknn": Entry(ItemKNN, ItemKNNConfig, "items liked by the users of the user's items"),
    "userknn": Entry(UserKNN, UserKNNConfig, "items liked by the users who resemble the user"),
    "rp3beta": Entry(RP3beta, RP3betaConfig, "where short walks from the user end, with popularity discounted"),
    "ease": Entry(EASE, EASEConfig, "a linear item-item model in closed form"),
    "contentknn": Entry(ContentKNN, ContentKNNConfig, "items whose content is near that of the user's items"),
    "bpr": Entry(BPR, BPRConfig, "matrix factorisation trained on pairs"),
    "lightgcn": Entry(LightGCN, LightGCNConfig, "embeddings averaged over the user-item graph"),
    "freedom": Entry(FREEDOM, FREEDOMConfig, "LightGCN on a pruned graph plus a frozen item graph of content"),
    "gtc": Entry(GTC, GTCConfig, "user-aware diffusion filtering of content and total correlation of views", PRESETS),
}


def find(name: str) -> Entry:
    """Return the entry of a model; raises `ConfigError` with the nearest name."""
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, MODELS)}; known: {', '.join(MODELS)}")
    return MODELS[name]


def settings(name: str, given: Mapping[str, Any], preset: str = "default") -> BaseModel:
    """Return the model's full config from the settings that differ from the preset.

    Raises `ConfigError` naming an unknown key with the nearest known one, or the value out of range.
    """
    entry = find(name)
    if preset not in entry.presets:
        raise ConfigError(
            f"{name} has no preset {preset!r}{nearest(preset, entry.presets)}; known: {', '.join(entry.presets)}"
        )
    known = entry.config.model_fields
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{name} has no setting {key!r}{nearest(key, known)}; known: {', '.join(known) or 'none'}"
            )
    try:
        return entry.config(**{**entry.presets[preset][0], **given})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several settings together: the message says which
            raise ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}: {key}: {first['msg']}, found {first['input']!r}") from error


def build(name: str, train: Interactions, features: ItemFeatures, config: BaseModel, seed: int) -> nn.Module:
    """Return a fresh model; its weights depend on `seed` alone, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return find(name).model(config, train, features)
