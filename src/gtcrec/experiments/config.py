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
from gtcrec.errors import ConfigError, config_error, nearest
from gtcrec.evaluation.metrics import RANKING_METRICS, parse
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.models.renamed import has_setting, rename_settings
from gtcrec.training.trainer import TrainConfig
from gtcrec.types import Dataset

__all__ = ["DataConfig", "RunConfig", "dump_yaml", "load_config", "parse_yaml", "read_yaml"]


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


def load_config(
    path: str | None = None,
    model: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    stored: bool = False,
) -> RunConfig:
    """Return the full configuration.

    `file` is YAML in the shape of a run folder's `config.yaml`. `assignments` are "key=value", `values` the same as key
    and value: a dotted key ("train.epochs"), "preset", or a bare key of the model's settings or of `train`.
    `stored` says that `file` is a run's: settings that it lacks came later, and leave the model as it was.
    Raises `ConfigError` for an unknown key with the nearest known one.
    """
    layers: dict[str, Any] = _read_layers(file) if file else {}
    name = model or layers.get("model", "gtc")
    spec = models.get_spec(name)
    sections: dict[str, type[BaseModel]] = {"settings": spec.config, "train": TrainConfig}
    if layers.get("model", name) != name:  # another model's settings would not fit
        layers = {key: value for key, value in layers.items() if key not in ("settings", "preset")}
    for section, config in sections.items():
        if isinstance(layers.get(section), dict):
            layers[section] = rename_settings(layers[section], config)
    if stored and isinstance(layers.get("settings"), dict):
        layers["settings"] = models.complete_settings(name, layers["settings"])
    for key, value in [*map(_parse_assignment, assignments), *(values or {}).items()]:
        section, setting = _find_section(key, value, name, sections)
        if section:
            layers[section] = {**(layers.get(section) or {}), **setting}
        else:
            layers |= setting
    preset = layers.get("preset", "default")
    settings = models.make_config(name, layers.get("settings") or {}, preset)
    training = spec.presets[preset][1]
    data = {**(layers.get("data") or {}), **({"path": path} if path else {})}
    if "path" not in data:
        raise ConfigError("no data named: expected a data folder or a file of interactions")
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
    """Return the configuration as YAML that `load_config` reads back to the same one."""
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


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file. Raises `ConfigError` naming the file."""
    try:
        value = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: expected keys and values, found {type(value).__name__}")
    return value


def _read_layers(file: Path) -> dict[str, Any]:
    """Return the sections of a configuration file."""
    layers = read_yaml(file)
    for key in layers:
        if key not in RunConfig.model_fields:
            raise ConfigError(f"{file}: unknown key {key!r}{nearest(str(key), RunConfig.model_fields)}")
    return layers


def _parse_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of one "key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, found {text!r}")
    return key, parse_yaml(value, text)


def _find_section(
    key: str, value: Any, model: str, sections: Mapping[str, type[BaseModel]]
) -> tuple[str, dict[str, Any]]:
    """Return (section or "", {key: value}) of one setting; `sections` are those whose old names are accepted."""
    section, dot, rest = key.partition(".")
    if dot and section in sections:
        return section, rename_settings({rest: value}, sections[section])
    if dot and section in ("data", "split", "evaluate"):
        return section, {rest: value}
    if key == "preset":
        return "", {key: value}
    for section, config in sections.items():
        if has_setting(key, config):
            return section, rename_settings({key: value}, config)
    fields = sections["settings"].model_fields
    known = [*fields, *TrainConfig.model_fields, "preset", "data.", "split.", "train.", "evaluate."]
    raise ConfigError(f"unknown key {key!r}{nearest(key, known)}; {model} has: {', '.join(fields) or 'no settings'}")


def _validated(whole: Mapping[str, Any], where: str) -> RunConfig:
    try:
        config = RunConfig.model_validate(whole)
    except ValidationError as error:
        raise config_error(error, where, RunConfig) from error
    parse(config.train.valid_metric, RANKING_METRICS)
    return config
