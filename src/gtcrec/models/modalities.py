"""Names of modalities: as names of torch modules, and in settings."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from gtcrec.errors import ConfigError, nearest
from gtcrec.types import ItemFeatures

__all__ = ["linear_of", "modality_weights", "module_keys", "register_content"]


def module_keys(names: Iterable[str]) -> dict[str, str]:
    """Return a key for each modality that torch takes as the name of a module, a parameter or a buffer.

    torch forbids dots and some words; the number keeps the keys apart.

    >>> module_keys(["clip.v2", "text"])
    {'clip.v2': '0_clip_v2', 'text': '1_text'}
    """
    return {name: f"{place}_{name.replace('.', '_')}" for place, name in enumerate(names)}


def register_content(module: nn.Module, features: ItemFeatures, trainable: bool = False) -> dict[str, str]:
    """Give a module the content of all modalities and return their keys.

    Of a modality's key, `x_KEY` is float32 [n_items, d], `present_KEY` bool [n_items]. They are buffers that are not
    saved. With `trainable` each `x_KEY` is a parameter that starts as the content, a copy, and is saved with the
    weights: what a model's setting `train_content` asks for. Code that reads `x_KEY` is the same for both.

    The published code of BM3, FREEDOM, MGCN and SMORE trains content. Here it is off by default: weights, gradients
    and Adam's two moments take four times the content's memory, and each step updates all items' content. Of contents
    of 4,096 and 384, 7,050 items have 31.6 million numbers; all else of FREEDOM has 2. New items have no trained
    content. A model rebuilt around other content, as `modality_importance` does it, keeps the trained one.
    """
    keys = module_keys(features.names)
    for name, key in keys.items():
        x = torch.from_numpy(features.values[name])
        if trainable:
            module.register_parameter(f"x_{key}", nn.Parameter(x.clone()))
        else:
            module.register_buffer(f"x_{key}", x, persistent=False)
        module.register_buffer(f"present_{key}", torch.from_numpy(features.present[name]), persistent=False)
    return keys


def linear_of(key: str, layers: nn.ModuleDict) -> nn.Linear:
    """Return the linear layer of a modality's key, for its weights."""
    layer = layers[key]
    assert isinstance(layer, nn.Linear)
    return layer


def modality_weights(model: str, weights: Mapping[str, float], names: tuple[str, ...]) -> Mapping[str, float]:
    """Return the weight of each modality, all equal if there are none.

    Raises `ConfigError` naming the model when the names are not exactly the data's.
    """
    if not weights:
        return dict.fromkeys(names, 1.0)
    known = ", ".join(names) or "none"
    for name in weights:
        if name not in names:
            raise ConfigError(
                f"{model}: modality_weights names {name!r}{nearest(name, names)}; the data's modalities: {known}"
            )
    for name in names:
        if name not in weights:
            raise ConfigError(
                f"{model}: modality_weights lacks {name!r}; expected a weight for each of {known} (0 leaves one out)"
            )
    if not sum(weights.values()) > 0:
        raise ConfigError(f"{model}: modality_weights must not all be 0, found {dict(weights)}")
    return weights
