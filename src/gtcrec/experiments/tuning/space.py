"""What a tuning study searches: each setting's values, checked, and the configuration that some of them make."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gtcrec import models
from gtcrec.errors import ConfigError, nearest
from gtcrec.experiments.config import RunConfig, parse_yaml, resolve
from gtcrec.models.base import Space
from gtcrec.training.trainer import TrainConfig

__all__ = ["configured", "searched", "value_of"]

# Training settings that a space may not have: they are each trial's budget, or how its value is measured.
_SAME = (
    "epochs",
    "patience",
    "valid_metric",
    "valid_every",
    "valid_users",
    "checkpoint_every",
    "device",
    "tables",
    "seed",
)


def searched(base: RunConfig, given: Sequence[str] = (), file: Path | None = None) -> Space:
    """Return the values of each setting to search: the model's own space, or the one in `file`.

    `base` has the defaults, each of which is put among its setting's values; settings that `given` ("key=value")
    names are left out. Raises `ConfigError` for a setting or value that the model does not have or that must be the
    same for all trials.
    """
    fixed = {_name(one.partition("=")[0], base.model) for one in given}
    where = str(file) if file else f"the space of {base.model}"
    wanted = _read(file) if file else models.find(base.model).space
    for key in wanted:
        _check(key, base.model, where)
    return {key: _values(base, key, values, where) for key, values in wanted.items() if key not in fixed}


def configured(base: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the base configuration with other settings, through `resolve`, which knows them all by name."""
    pairs = [*_given(base), *settings.items()]
    return resolve(model=base.model, given=[f"{key}={json.dumps(value)}" for key, value in pairs])


def value_of(config: RunConfig, key: str) -> Any:
    """Return the value of a setting by its name in a space, in types that JSON has."""
    whole = config.model_dump(mode="json")
    section, _, name = key.rpartition(".")
    return whole[section or "settings"][name]


def _read(file: Path) -> Space:
    """A space from a YAML file."""
    try:
        value = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: wanted settings and their values, found {type(value).__name__}")
    for key, values in value.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{file}: {key}: wanted a list of values, found {values!r}")
    return {str(key): tuple(values) for key, values in value.items()}


def _check(key: str, model: str, where: str) -> None:
    """Refuse a setting that the model does not have, or that a fair search leaves alone."""
    section, _, name = key.rpartition(".")
    if section == "train" and name in _SAME:
        raise ConfigError(f"{where}: {key} must be the same for all trials; give it with --set")
    fields = models.find(model).config.model_fields
    known = [*fields, *(f"train.{name}" for name in TrainConfig.model_fields if name not in _SAME)]
    if key not in known:
        raise ConfigError(f"{where}: unknown setting {key!r}{nearest(key, known)}; {model} has: {', '.join(known)}")


def _values(base: RunConfig, key: str, values: Sequence[Any], where: str) -> tuple[Any, ...]:
    """The distinct values as the configuration has them, the default put in its place among them."""
    start = value_of(base, key)
    made = []
    for value in values:
        try:
            made.append(value_of(configured(base, {key: value}), key))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    distinct = [value for place, value in enumerate(made) if value not in made[:place]]
    if start not in distinct:
        numbers = [isinstance(value, (int, float)) for value in (start, *distinct)]
        place = next((i for i, value in enumerate(distinct) if all(numbers) and value > start), len(distinct))
        distinct.insert(place, start)
    return tuple(distinct)


def _given(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """A configuration as the keys and values that `resolve` takes."""
    for section, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            yield from ((f"{section}.{key}", inner) for key, inner in value.items())
        elif section != "model":
            yield section, value


def _name(key: str, model: str) -> str:
    """A setting's name in a space: `given` may call it otherwise."""
    rest = key.removeprefix("settings.")
    train = rest in TrainConfig.model_fields and rest not in models.find(model).config.model_fields
    return f"train.{rest}" if train else rest
