"""A benchmark: models trained on data sets with several seeds, as a file asks for, and which runs that needs.

`read_file` reads the file, `plan` says which runs it needs and refuses what cannot be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gtcrec import models
from gtcrec.errors import ConfigError, GtcrecError, config_error, nearest
from gtcrec.evaluation.metrics import RANKING_METRICS, parse
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.experiments.config import RunConfig, load_config, read_yaml
from gtcrec.experiments.planned_run import PlannedRun, Variant, check_folder

__all__ = ["CUTS", "BenchmarkConfig", "BenchmarkPlan", "DataEntry", "ModelEntry", "plan", "read_file"]

CUTS = (5, 10, 20, 50)
_FILE_NAME = r"^[^\W_][\w.+-]*$"  # names become folders


class DataEntry(BaseModel):
    """A data set: where it lies, how it is read and split, and settings of training on it; a path alone will do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    read: Mapping[str, Any] = Field(default_factory=dict, description="as under `data` of a run's config.yaml")
    split: Mapping[str, Any] = Field(default_factory=dict)
    train: Mapping[str, Any] = Field(default_factory=dict)


class ModelEntry(BaseModel):
    """A line of the table; nothing at all means the model of this name as it is by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", description="a name that `gtcrec models` lists; if not given, the line's own")
    preset: str = ""
    config: str | Mapping[str, str] = Field("", description="instead of the file's; or one for each data set by name")
    settings: Mapping[str, Any] = Field(default_factory=dict)
    train: Mapping[str, Any] = Field(default_factory=dict)


def _entries(field: str) -> BeforeValidator:
    """Let a text stand for an entry with that `field`, and a list of names for entries without anything."""

    def expand(value: Any) -> Any:
        if isinstance(value, list):
            value = dict.fromkeys(value)
        if not isinstance(value, dict):
            return value
        return {key: {field: one} if isinstance(one, str) else one or {} for key, one in value.items()}

    return BeforeValidator(expand)


_Name = Annotated[str, Field(pattern=_FILE_NAME)]


class BenchmarkConfig(BaseModel):
    """What FILE.yaml holds; `train` and `evaluate` are for all runs, `base` is whom all are tested against.

    `config` is the config file of every model that names no other; in either, {data} and {model} stand for the names of
    data set and line. Of a run whose `keep` is "results" no weights are left once it has been tested.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Annotated[Mapping[_Name, DataEntry], _entries("path"), Field(min_length=1)]
    models: Annotated[Mapping[_Name, ModelEntry], _entries("model"), Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(
        f"{kind}@{k}" for kind in ("recall", "ndcg") for k in CUTS
    )
    base: str
    out: str = ""
    config: str = ""
    keep: Literal["all", "results"] = "all"
    train: Mapping[str, Any] = Field(default_factory=dict)
    evaluate: Mapping[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkPlan:
    """The file, and the runs of each of its data sets; `trained` are those that this call is to make."""

    config: BenchmarkConfig
    out: Path
    runs: Mapping[str, tuple[PlannedRun, ...]]
    trained: tuple[PlannedRun, ...]


def read_file(path: Path) -> BenchmarkConfig:
    """Read FILE.yaml. Raises `ConfigError` naming the file and the key that is wrong or unknown."""
    found = read_yaml(path)
    try:
        config = BenchmarkConfig.model_validate(found)
    except ValidationError as error:
        raise config_error(error, path, BenchmarkConfig) from error
    _check_names(config, path)
    return config


def plan(config: BenchmarkConfig, out: Path, only: Sequence[str] = ()) -> BenchmarkPlan:
    """Return the runs that the file needs under `out`, as folders out/DATA/NAME-SEED.

    A model that is not trained by gradient depends on no seed and has one run. `only` names models, data sets or
    DATA/MODEL to train; none: all. Raises `ConfigError` for what a run's configuration refuses, `RunError` for a
    folder that holds another run.
    """
    selected = _select(config, only)
    runs: dict[str, tuple[PlannedRun, ...]] = {}
    for data in config.data:
        planned: list[PlannedRun] = []
        for name, entry in config.models.items():
            variant = Variant(name, "", _resolve_run(config, data, name))
            seeds = config.seeds if models.get_spec(entry.model or name).is_trained else config.seeds[:1]
            planned += [variant.run(out / data, seed) for seed in seeds]
        runs[data] = tuple(planned)
    for run in (one for members in runs.values() for one in members):
        check_folder(run)
    trained = [one for data, members in runs.items() for one in members if (data, one.variant) in selected]
    return BenchmarkPlan(config, out, runs, tuple(trained))


def _check_names(config: BenchmarkConfig, path: Path) -> None:
    for metric in config.metrics:
        parse(metric, RANKING_METRICS)
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"{path}: seeds: expected distinct numbers, found {list(config.seeds)}")
    if config.base not in config.models:
        near = nearest(config.base, config.models)
        raise ConfigError(
            f"{path}: base: expected one of the models, {', '.join(config.models)}; found {config.base!r}{near}"
        )
    for name, entry in config.models.items():
        try:
            models.get_spec(entry.model or name)
        except ConfigError as error:
            raise ConfigError(f"{path}: models.{name}: {error}") from error
        for data in entry.config if isinstance(entry.config, Mapping) else ():
            if data not in config.data:
                near = nearest(data, config.data)
                raise ConfigError(f"{path}: models.{name}.config: no data set {data!r}{near}")


def _select(config: BenchmarkConfig, only: Sequence[str]) -> set[tuple[str, str]]:
    """Return the (data, model) that `only` names."""
    every = [(data, name) for data in config.data for name in config.models]
    words = {(data, name): {data, name, f"{data}/{name}"} for data, name in every}
    known = set().union(*words.values())
    for word in only:
        if word not in known:
            raise ConfigError(
                f"--only: expected a model, a data set or DATA/MODEL, found {word!r}{nearest(word, sorted(known))}"
            )
    return {pair for pair in every if not only or words[pair] & set(only)}


def _resolve_run(config: BenchmarkConfig, data: str, name: str) -> RunConfig:
    """A run's configuration but for its seed: a config file first, then what the benchmark's file says."""
    entry, source = config.models[name], config.data[data]
    model = entry.model or name
    chosen = entry.config if isinstance(entry.config, str) else entry.config.get(data, "")
    file = (chosen or config.config).replace("{data}", data).replace("{model}", name)
    measured = [
        *config.evaluate.get("metrics", EvaluateConfig().metrics),
        *config.metrics,
        *(f"recall@{k}" for k in CUTS),
    ]
    sections = [
        ("data", source.read),
        ("split", source.split),
        ("train", {**config.train, **source.train, **entry.train}),
        ("evaluate", {**config.evaluate, "metrics": list(dict.fromkeys(measured))}),
        ("settings", entry.settings),
    ]
    settings = [f"{section}.{key}={json.dumps(value)}" for section, keys in sections for key, value in keys.items()]
    if entry.preset:
        settings.append(f"preset={entry.preset}")
    try:
        if "seed" in {**config.train, **source.train, **entry.train}:
            raise ConfigError("train.seed: the seeds stand under `seeds`")
        if file:
            _require_model(Path(file), model)
        return load_config(source.path, model, Path(file) if file else None, settings)
    except GtcrecError as error:
        raise ConfigError(f"{name} on {data}: {error}") from error


def _require_model(file: Path, model: str) -> None:
    """Raise `ConfigError` unless a config file is one of this model."""
    stored = read_yaml(file).get("model")
    if stored != model:
        raise ConfigError(f"{file}: expected a config file with model: {model}, found {stored!r}")
