"""A benchmark: models trained on data sets with several seeds, as a file asks for, and which runs that needs.

`read_file` reads the file, `plan` says which run folders it wants and refuses what cannot be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gtcrec import models
from gtcrec.errors import ConfigError, GtcrecError, nearest
from gtcrec.evaluation.metrics import RANKING_METRICS, parse
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.experiments.config import RunConfig, parse_yaml, resolve
from gtcrec.experiments.planned_run import PlannedRun, check_folder

__all__ = ["CUTS", "BenchmarkConfig", "DataEntry", "ModelEntry", "Plan", "plan", "read_file"]

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

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            value = dict.fromkeys(value)
        if not isinstance(value, dict):
            return value
        return {key: {field: one} if isinstance(one, str) else one or {} for key, one in value.items()}

    return BeforeValidator(whole)


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
class Plan:
    """The file, and the runs of each of its data sets; `trained` are those that this call is to make."""

    config: BenchmarkConfig
    out: Path
    runs: Mapping[str, tuple[PlannedRun, ...]]
    trained: tuple[PlannedRun, ...]


def read_file(path: Path) -> BenchmarkConfig:
    """Read FILE.yaml. Raises `ConfigError` naming the file and the key that is wrong or unknown."""
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: wanted keys and values, found {type(found).__name__}")
    try:
        config = BenchmarkConfig.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        if first["type"] == "extra_forbidden":
            kind = {1: BenchmarkConfig, 3: DataEntry if first["loc"][0] == "data" else ModelEntry}[len(first["loc"])]
            near = nearest(str(first["loc"][-1]), kind.model_fields)
            raise ConfigError(f"{path}: unknown key {key!r}{near}; known: {', '.join(kind.model_fields)}") from error
        raise ConfigError(f"{path}: {key}: {first['msg']}, found {first.get('input')!r}") from error
    _check(config, path)
    return config


def plan(config: BenchmarkConfig, out: Path, only: Sequence[str] = ()) -> Plan:
    """Return the runs that the file wants under `out`, as folders out/DATA/NAME-SEED.

    A model that is not trained by gradient depends on no seed and has one run. `only` names models, data sets or
    DATA/MODEL to train; none: all. Raises `ConfigError` for what a run's configuration refuses, `RunError` for a
    folder that holds another run.
    """
    chosen = _chosen(config, only)
    runs: dict[str, tuple[PlannedRun, ...]] = {}
    for data in config.data:
        own = []
        for name, entry in config.models.items():
            base = _resolved(config, data, name)
            seeds = config.seeds if hasattr(models.find(entry.model or name).model, "loss") else config.seeds[:1]
            own += [_with_seed(base, seed, name, out / data) for seed in seeds]
        runs[data] = tuple(own)
    for wanted in (one for own in runs.values() for one in own):
        check_folder(wanted)
    trained = [one for data, own in runs.items() for one in own if (data, one.variant) in chosen]
    return Plan(config, out, runs, tuple(trained))


def _check(config: BenchmarkConfig, path: Path) -> None:
    for metric in config.metrics:
        parse(metric, RANKING_METRICS)
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"{path}: seeds: wanted distinct numbers, found {list(config.seeds)}")
    if config.base not in config.models:
        near = nearest(config.base, config.models)
        raise ConfigError(
            f"{path}: base: wanted one of the models, {', '.join(config.models)}; found {config.base!r}{near}"
        )
    for name, entry in config.models.items():
        try:
            models.find(entry.model or name)
        except ConfigError as error:
            raise ConfigError(f"{path}: models.{name}: {error}") from error
        for data in entry.config if isinstance(entry.config, Mapping) else ():
            if data not in config.data:
                near = nearest(data, config.data)
                raise ConfigError(f"{path}: models.{name}.config: no data set {data!r}{near}")


def _chosen(config: BenchmarkConfig, only: Sequence[str]) -> set[tuple[str, str]]:
    """The (data, model) that `only` names."""
    every = [(data, name) for data in config.data for name in config.models]
    words = {(data, name): {data, name, f"{data}/{name}"} for data, name in every}
    known = set().union(*words.values())
    for word in only:
        if word not in known:
            raise ConfigError(
                f"--only: wanted a model, a data set or DATA/MODEL, found {word!r}{nearest(word, sorted(known))}"
            )
    return {pair for pair in every if not only or words[pair] & set(only)}


def _resolved(config: BenchmarkConfig, data: str, name: str) -> RunConfig:
    """A run's configuration but for its seed: a config file first, then what the benchmark's file says."""
    entry, source = config.models[name], config.data[data]
    model = entry.model or name
    own = entry.config if isinstance(entry.config, str) else entry.config.get(data, "")
    file = (own or config.config).replace("{data}", data).replace("{model}", name)
    usual = EvaluateConfig().metrics
    measured = [*config.evaluate.get("metrics", usual), *config.metrics, *(f"recall@{k}" for k in CUTS)]
    sections = [
        ("data", source.read),
        ("split", source.split),
        ("train", {**config.train, **source.train, **entry.train}),
        ("evaluate", {**config.evaluate, "metrics": list(dict.fromkeys(measured))}),
        ("settings", entry.settings),
    ]
    given = [f"{section}.{key}={json.dumps(value)}" for section, keys in sections for key, value in keys.items()]
    if entry.preset:
        given.append(f"preset={entry.preset}")
    try:
        if "seed" in {**config.train, **source.train, **entry.train}:
            raise ConfigError("train.seed: the seeds stand under `seeds`")
        if file:
            _need_model(Path(file), model)
        return resolve(source.path, model, Path(file) if file else None, given)
    except GtcrecError as error:
        raise ConfigError(f"{name} on {data}: {error}") from error


def _need_model(file: Path, model: str) -> None:
    """Raise `ConfigError` unless a config file is one of this model."""
    try:
        found = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    theirs = found.get("model") if isinstance(found, dict) else None
    if theirs != model:
        raise ConfigError(f"{file}: wanted a config file with model: {model}, found {theirs!r}")


def _with_seed(base: RunConfig, seed: int, name: str, folder: Path) -> PlannedRun:
    train = base.train.model_copy(update={"seed": seed})
    return PlannedRun(name, seed, base.model_copy(update={"train": train}), folder / f"{name}-{seed}")
