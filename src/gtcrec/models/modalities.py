"""Names of modalities: as names of torch modules, and in settings."""

from collections.abc import Iterable, Mapping

from torch import nn

from gtcrec.errors import ConfigError, nearest

__all__ = ["linear_of", "modality_weights", "module_keys"]


def module_keys(names: Iterable[str]) -> dict[str, str]:
    """Return a key for each modality that torch takes as the name of a module, a parameter or a buffer.

    torch forbids dots and some words; the number keeps the keys apart.

    >>> module_keys(["clip.v2", "text"])
    {'clip.v2': '0_clip_v2', 'text': '1_text'}
    """
    return {name: f"{place}_{name.replace('.', '_')}" for place, name in enumerate(names)}


def linear_of(key: str, layers: nn.ModuleDict) -> nn.Linear:
    """Return the linear layer of a modality's key, for its weights."""
    layer = layers[key]
    assert isinstance(layer, nn.Linear)
    return layer


def modality_weights(model: str, given: Mapping[str, float], names: tuple[str, ...]) -> Mapping[str, float]:
    """Return the weight of each modality, all equal if none is given.

    Raises `ConfigError` naming the model when the given names are not exactly the data's.
    """
    if not given:
        return dict.fromkeys(names, 1.0)
    known = ", ".join(names) or "none"
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{model}: modality_weights names {name!r}{nearest(name, names)}; the data's modalities: {known}"
            )
    for name in names:
        if name not in given:
            raise ConfigError(
                f"{model}: modality_weights lacks {name!r}; wanted a weight for each of {known} (0 leaves one out)"
            )
    if not sum(given.values()) > 0:
        raise ConfigError(f"{model}: modality_weights must not all be 0, found {dict(given)}")
    return given
