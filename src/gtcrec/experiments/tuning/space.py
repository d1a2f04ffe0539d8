"""What a tuning study searches: each setting's values, checked, and the configuration that some of them make."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gtcrec import models
from gtcrec.errors import ConfigError, nearest
from gtcrec.experiments.config import RunConfig, load_config, read_yaml
from gtcrec.models.base import SearchSpace
from gtcrec.models.renamed import current_setting, rename_settings
from gtcrec.training.trainer import TrainConfig

__all__ = ["apply_settings", "rename_space", "resolve_space", "value_of"]

# Training settings that a space may not have: they are each trial's budget, or how its value is measured.
_EQUAL_FOR_ALL = (
    "epochs",
    "patience",
    "valid_metric",
    "valid_every",
    "valid_users",
    "checkpoint_every",
    "device",
    "embedding_sharding",
    "seed",
    "trackers",
)


def resolve_space(
    base: RunConfig, settings: Sequence[str] = (), file: Path | None = None, stored: SearchSpace | None = None
) -> SearchSpace:
    """Return the values of each setting to search: the one in `file`, a study's `stored` one, or the model's own.

    `base` has the defaults, each of which is put among its setting's values. `settings` ("key=value") are fixed, so
    they are left out. Raises `ConfigError` for a setting or value that the model does not have or that must be the same
    for all trials.
    """
    fixed = {_name_in_space(one.partition("=")[0], base.model) for one in settings}
    source = str(file) if file else f"the space of {base.model}"
    if file:
        space = rename_space(_read_space(file), base.model)
    else:
        space = models.get_spec(base.model).search_space if stored is None else stored
    for key in space:
        _check_setting(key, base.model, source)
    return {key: _distinct_values(base, key, values, source) for key, values in space.items() if key not in fixed}


def apply_settings(base: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the base configuration with other settings, through `load_config`, which knows them all by name."""
    pairs = [*_dotted_settings(base), *settings.items()]
    return load_config(model=base.model, assignments=[f"{key}={json.dumps(value)}" for key, value in pairs])


def rename_space(space: Mapping[str, Sequence[Any]], model: str) -> SearchSpace:
    """Return a space under today's names and values of settings. Raises `ConfigError` for one under both names."""
    renamed: dict[str, tuple[Any, ...]] = {}
    for key, values in space.items():
        section, dot, name = key.rpartition(".")
        config = TrainConfig if section == "train" else models.get_spec(model).config
        current = f"{section}{dot}{current_setting(name, config)}"
        if current in renamed:
            raise ConfigError(f"{current} is given twice: {key} is its old name")
        renamed[current] = tuple(value for one in values for value in rename_settings({name: one}, config).values())
    return renamed


def value_of(config: RunConfig, key: str) -> Any:
    """Return the value of a setting by its name in a space, in types that JSON has."""
    whole = config.model_dump(mode="json")
    section, _, name = key.rpartition(".")
    return whole[section or "settings"][name]


def _read_space(file: Path) -> SearchSpace:
    """A space from a YAML file."""
    value = read_yaml(file, "settings and their values")
    for key, values in value.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{file}: {key}: expected a list of values, found {values!r}")
    return {str(key): tuple(values) for key, values in value.items()}


def _check_setting(key: str, model: str, source: str) -> None:
    """Refuse a setting that the model does not have, or that a fair search leaves alone."""
    section, _, name = key.rpartition(".")
    if section == "train" and name in _EQUAL_FOR_ALL:
        raise ConfigError(f"{source}: {key} must be the same for all trials; give it with --set")
    fields = models.get_spec(model).config.model_fields
    known = [*fields, *(f"train.{name}" for name in TrainConfig.model_fields if name not in _EQUAL_FOR_ALL)]
    if key not in known:
        raise ConfigError(f"{source}: unknown setting {key!r}{nearest(key, known)}; {model} has: {', '.join(known)}")


def _distinct_values(base: RunConfig, key: str, values: Sequence[Any], source: str) -> tuple[Any, ...]:
    """The distinct values as the configuration has them, the default put in its place among them."""
    start = value_of(base, key)
    made = []
    for value in values:
        try:
            made.append(value_of(apply_settings(base, {key: value}), key))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    distinct = [value for place, value in enumerate(made) if value not in made[:place]]
    if start not in distinct:
        numbers = [isinstance(value, (int, float)) for value in (start, *distinct)]
        place = next((i for i, value in enumerate(distinct) if all(numbers) and value > start), len(distinct))
        distinct.insert(place, start)
    return tuple(distinct)


def _dotted_settings(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """A configuration as the keys and values that `load_config` takes."""
    for section, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            yield from ((f"{section}.{key}", inner) for key, inner in value.items())
        elif section != "model":
            yield section, value


def _name_in_space(key: str, model: str) -> str:
    """A setting's name in a space, which the command line may call otherwise."""
    config = models.get_spec(model).config
    name = current_setting(key.removeprefix("settings."), config)
    if name in config.model_fields:
        return name
    name = current_setting(name.removeprefix("train."), TrainConfig)
    return f"train.{name}" if name in TrainConfig.model_fields else key
