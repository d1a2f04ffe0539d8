"""A run's whole configuration: what it consists of, and how a file and the command line make one.

Layers, each over the one before: the defaults, the model's preset, a YAML file, `key=value` settings.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gtcrec import models
from gtcrec.data import ReadConfig, SplitConfig, load
from gtcrec.errors import ConfigError, nearest
from gtcrec.evaluation.metrics import RANKING_METRICS, parse
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.training.trainer import TrainConfig
from gtcrec.types import Dataset

__all__ = ["DataConfig", "RunConfig", "dump_yaml", "parse_yaml", "resolve"]


class DataConfig(ReadConfig):
    """Where the catalogue lies and how it is read."""

    path: str = Field(description="a data folder or a file of interactions")

    def load(self) -> Dataset:
        """Read the data. Raises as `gtcrec.data.load`."""
        return load(self.path, self)


class RunConfig(BaseModel):
    """Everything that decides a run's outcome, complete: no default is left to be filled in later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataConfig
    split: SplitConfig = SplitConfig()
    model: str = "gtc"
    preset: str = "default"
    settings: Mapping[str, Any] = Field(default_factory=dict, description="the model's own config")
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def resolve(
    path: str | None = None, model: str | None = None, file: Path | None = None, given: Sequence[str] = ()
) -> RunConfig:
    """Return the full configuration.

    `file` is YAML in the shape of a run folder's `config.yaml`. `given` are "key=value": a dotted key
    ("train.epochs=20", "split.seed=3"), "preset=NAME", or a bare key of the model's settings or of `train`.
    Raises `ConfigError` for an unknown key with the nearest known one.
    """
    layers: dict[str, Any] = _read(file) if file else {}
    name = model or layers.get("model", "gtc")
    fields = models.find(name).config.model_fields
    if layers.get("model", name) != name:  # another model's settings would not fit
        layers = {key: value for key, value in layers.items() if key not in ("settings", "preset")}
    for one in given:
        section, key, value = _place(one, name, fields)
        if section:
            layers[section] = {**(layers.get(section) or {}), key: value}
        else:
            layers[key] = value
    preset = layers.get("preset", "default")
    settings = models.settings(name, layers.get("settings") or {}, preset)
    training = models.find(name).presets[preset][1]
    data = {**(layers.get("data") or {}), **({"path": path} if path else {})}
    if "path" not in data:
        raise ConfigError("no data named: wanted a data folder or a file of interactions")
    whole = {
        **layers,
        "model": name,
        "data": data,
        "settings": settings.model_dump(mode="json"),
        "train": {**training, **(layers.get("train") or {})},
    }
    return _validated(whole, str(file) if file else "configuration")


def parse_yaml(text: str, where: str) -> Any:
    """Return the YAML value of `text`; 1e-4 is a number and only true and false are truth values.

    Raises `ConfigError` naming `where`.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def dump_yaml(config: RunConfig) -> str:
    """Return the configuration as YAML that `resolve` reads back to the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: PyYAML's own rules take `off` for false and 1e-4 for text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf)|\.(?:nan|NaN))$"),
    list("-+0123456789."),
)


def _read(file: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: wanted keys and values, found {type(value).__name__}")
    for key in value:
        if key not in RunConfig.model_fields:
            raise ConfigError(f"{file}: unknown key {key!r}{nearest(str(key), RunConfig.model_fields)}")
    return value


def _place(given: str, model: str, fields: Mapping[str, Any]) -> tuple[str, str, Any]:
    """Return (section or "", key, value) of one "key=value"."""
    key, equals, text = given.partition("=")
    if not equals or not key:
        raise ConfigError(f"wanted key=value, found {given!r}")
    value = parse_yaml(text, given)
    section, dot, rest = key.partition(".")
    if dot and section in ("data", "split", "settings", "train", "evaluate"):
        return section, rest, value
    if key == "preset":
        return "", key, value
    if key in fields:
        return "settings", key, value
    if key in TrainConfig.model_fields:
        return "train", key, value
    known = [*fields, *TrainConfig.model_fields, "preset", "data.", "split.", "train.", "evaluate."]
    raise ConfigError(f"unknown key {key!r}{nearest(key, known)}; {model} has: {', '.join(fields) or 'no settings'}")


def _validated(whole: Mapping[str, Any], where: str) -> RunConfig:
    try:
        config = RunConfig.model_validate(whole)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            section = RunConfig.model_fields[str(first["loc"][0])].annotation
            known = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else ()
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(first['loc'][-1]), known)}") from error
        raise ConfigError(f"{where}: {key}: {first['msg']}, found {first['input']!r}") from error
    parse(config.train.valid_metric, RANKING_METRICS)
    return config
