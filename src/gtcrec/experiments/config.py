"""A run's whole configuration: what it consists of, and how a file and the command line make one.

Layers, each over the one before: the defaults, the model's preset, a YAML file, `key=value` settings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gtcrec import models
from gtcrec.data import ReadConfig, SplitConfig, load
from gtcrec.data.features.item_encoders import ItemEncoders, read_folder_encoders
from gtcrec.errors import ConfigError, config_error, nearest
from gtcrec.evaluation.metrics import RANKING_METRICS, parse
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.experiments.trackers import require_trackers
from gtcrec.models.base import ModelSpec
from gtcrec.models.renamed import current_setting, has_setting, rename_settings
from gtcrec.runtime.yaml_reader import parse_yaml, read_yaml
from gtcrec.training.trainer import TrainConfig
from gtcrec.types import Dataset

__all__ = ["DataConfig", "RunConfig", "dump_yaml", "load_config", "parse_yaml", "plain_value", "read_yaml"]


class DataConfig(ReadConfig):
    """Where the catalogue lies and how it is read."""

    path: str = Field(description="a data folder or a file of interactions")

    def load(self) -> Dataset:
        """Read the data. Raises as `gtcrec.data.load`."""
        return load(self.path, self)

    def load_encoders(self, dataset: Dataset) -> ItemEncoders:
        """Read what encodes new items as the content of `dataset`, which `load` returned, was encoded.

        Raises `DataError` for a file that cannot be read.
        """
        path = Path(self.path)
        return read_folder_encoders(path if path.is_dir() else path.parent, dataset.features.names)


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

    @property
    def spec(self) -> ModelSpec:
        """The spec of the model."""
        return models.get_spec(self.model)


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
    Raises `ConfigError` for an unknown key with the nearest known one, and for a tracker that is not installed.
    """
    layers: dict[str, Any] = _read_layers(file) if file else {}
    name = _as_name(model or layers.get("model", "gtc"), f"{file}: model")
    spec = models.get_spec(name)
    sections: dict[str, type[BaseModel]] = {"settings": spec.config, "train": TrainConfig}
    if layers.get("model", name) != name:  # another model's settings would not fit
        layers = {key: value for key, value in layers.items() if key not in ("settings", "preset")}
    layers |= {section: rename_settings(_section(layers, section, file), one) for section, one in sections.items()}
    if stored and layers["settings"]:
        layers["settings"] = models.complete_settings(name, layers["settings"])
    texts = [_parse_assignment(text, sections) for text in assignments]
    for key, value in [*texts, *((key, plain_value(value)) for key, value in (values or {}).items())]:
        section, setting = _find_section(key, value, name, sections)
        if section:
            layers[section] = {**_section(layers, section, file), **setting}
        else:
            layers |= setting
    preset = _as_name(layers.get("preset", "default"), "preset")
    settings = models.make_config(name, layers["settings"], preset)
    training = spec.presets[preset][1]
    data = _section(layers, "data", file) | ({"path": path} if path else {})
    if "path" not in data:
        raise ConfigError("no data named: expected a data folder or a file of interactions")
    whole = {
        **layers,
        "model": name,
        "data": data,
        "settings": settings.model_dump(mode="json"),
        "train": {**training, **layers["train"]},
    }
    return _validated(whole, str(file) if file else "configuration", stored)


def dump_yaml(config: RunConfig) -> str:
    """Return the configuration as YAML that `load_config` reads back to the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_layers(file: Path) -> dict[str, Any]:
    """Return the sections of a configuration file."""
    layers = read_yaml(file)
    for key in layers:
        if key not in RunConfig.model_fields:
            raise ConfigError(f"{file}: unknown key {key!r}{nearest(str(key), RunConfig.model_fields)}")
    return layers


def plain_value(value: Any) -> Any:
    """Return numpy scalars, arrays and paths, also inside lists and mappings, as the values that a setting holds.

    >>> plain_value({"sizes": [np.int64(8), np.arange(2)], "out": Path("a")})
    {'sizes': [8, [0, 1]], 'out': 'a'}
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain_value(key): plain_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _as_name(found: object, where: str) -> str:
    if not isinstance(found, str):
        raise ConfigError(f"{where}: expected a name, found {found!r}")
    return found


def _section(layers: Mapping[str, Any], section: str, file: Path | None) -> dict[str, Any]:
    """Return the settings of a section, none where it is empty."""
    found = layers.get(section)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{file or 'configuration'}: {section}: expected keys and values, found {str(found)[:100]!r}")
    return found


def _parse_assignment(text: str, sections: Mapping[str, type[BaseModel]]) -> tuple[str, Any]:
    """Return key and value of one "key=value". What a setting of text gets is taken as it stands, but for quotes."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, found {text!r}")
    is_plain = not value.startswith(("'", '"')) and value not in ("null", "~", "")
    return key, value if is_plain and _holds_text(key, sections) else parse_yaml(value, text)


def _holds_text(key: str, sections: Mapping[str, type[BaseModel]]) -> bool:
    """Whether a setting, or each of its values but None, is text."""
    section, dot, rest = key.partition(".")
    parts = [sections.get(section) or _field_type(RunConfig, section)] if dot else [*sections.values(), RunConfig]
    kind = next((found for part in parts if (found := _field_type(part, rest if dot else key)) is not None), None)
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return all(one in (str, NoneType) or _is_text_literal(one) for one in members)


def _is_text_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal and all(isinstance(one, str) for one in get_args(kind))


def _field_type(config: Any, name: str) -> Any:
    fields = getattr(config, "model_fields", {})
    field = fields.get(current_setting(name, config)) if fields else None
    return field.annotation if field else None


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


def _validated(whole: Mapping[str, Any], where: str, stored: bool) -> RunConfig:
    try:
        config = RunConfig.model_validate(whole)
    except ValidationError as error:
        raise config_error(error, where, RunConfig) from error
    parse(config.train.valid_metric, RANKING_METRICS)
    if not stored:  # a finished run can be read without them
        require_trackers(config.train.trackers)
    return config
