"""What a run folder holds, read back: each file checked against its schema, an error naming the file."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gtcrec.errors import DataError, RunError, first_fault
from gtcrec.runtime.files import MANIFEST, check_manifest
from gtcrec.types import ReportContext

__all__ = [
    "DataRecord",
    "EpochLine",
    "EvaluationRecord",
    "ExampleItem",
    "ExampleUser",
    "ResultRecord",
    "RunRecord",
    "TimingLine",
    "read_run_record",
]


_READ = ("report.json", "data.json", "history.jsonl", "timings.jsonl", "config.yaml", "environment.json")
_MEASURED = ("examples.json", "per_user_valid.parquet", "per_user_test.parquet")  # where they are there


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EvaluationRecord(_Stored):
    """One evaluation as `report.json` stores it."""

    users: int
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    lists: dict[str, float] = {}
    slices: dict[str, dict[str, int | float | None]] = {}
    about: dict[str, Any] = {}

    @property
    def context(self) -> ReportContext:
        """On what it was measured, and how."""
        return ReportContext.from_dict(self.about)


class ResultRecord(_Stored):
    """`report.json`."""

    model: str
    best_epoch: int | None
    epochs: int
    stop: str
    parameters: int
    valid: EvaluationRecord
    test: EvaluationRecord | None = None


class DataRecord(_Stored):
    """`data.json`."""

    name: str
    fingerprint: str
    counts: dict[str, Any]
    notes: dict[str, Any] = {}


class EpochLine(_Stored):
    """A line of `history.jsonl`."""

    epoch: int
    losses: dict[str, float]
    valid: dict[str, float] | None = None
    best: bool = False


class TimingLine(_Stored):
    """A line of `timings.jsonl`; evaluation times only where the epoch was evaluated."""

    epoch: int
    train_seconds: float
    train_cpu_seconds: float
    eval_seconds: float | None = None
    eval_cpu_seconds: float | None = None


class ExampleItem(_Stored):
    """An item of `examples.json`; a relative image path starts at the run folder."""

    item: str | int
    title: str | None = None
    image: str | None = None
    score: float | None = None
    hit: bool = False


class ExampleUser(_Stored):
    """A user of `examples.json`: the items of the history, stored as `liked`, and the items recommended."""

    user: str | int
    history: list[ExampleItem] = Field(validation_alias=AliasChoices("history", "liked"))
    recommended: list[ExampleItem]


class _Examples(_Stored):
    users: list[ExampleUser] = []


T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """The files of a run folder, read and checked."""

    folder: Path
    result: ResultRecord
    data: DataRecord
    history: list[EpochLine]
    timings: list[TimingLine]
    config: dict[str, Any]
    environment: dict[str, Any]
    examples: _Examples

    @property
    def final(self) -> EvaluationRecord:
        """The test evaluation if there is one, else that on validation."""
        return self.result.test or self.result.valid

    def evaluation(self, part: str) -> EvaluationRecord:
        """Return the evaluation on "test" or "valid"; raises `RunError` where there is none."""
        evaluation = self.result.test if part == "test" else self.result.valid
        if evaluation is None:
            raise RunError(f"{self.folder}: not measured on test; run `gtcrec evaluate {self.folder}`")
        return evaluation

    @property
    def part(self) -> str:
        """What `final` was measured on: "test" or "validation"."""
        return "test" if self.result.test else "validation"

    @property
    def seconds_an_epoch(self) -> float | None:
        """Median wall-clock seconds of training an epoch, or None for a model that has no epochs."""
        return statistics.median(line.train_seconds for line in self.timings) if self.timings else None


def read_run_record(folder: Path) -> RunRecord:
    """Read the files of a run folder, each as its manifest says.

    Raises `RunError` naming the first file that is missing, damaged or edited, and when training has not ended.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: expected a run folder, found {'a file' if folder.exists() else 'nothing'}")
    _check_sums(folder)
    examples = folder / "examples.json"
    return RunRecord(
        folder,
        _parse_json(folder / "report.json", ResultRecord),
        _parse_json(folder / "data.json", DataRecord),
        _parse_json_lines(folder / "history.jsonl", EpochLine),
        _parse_json_lines(folder / "timings.jsonl", TimingLine),
        _parse_yaml_mapping(folder / "config.yaml"),
        _parse_json(folder / "environment.json", dict[str, Any]),
        _parse_json(examples, _Examples) if examples.exists() else _Examples(),
    )


def _check_sums(folder: Path) -> None:
    """Check what is read of a run; weights are left to those who use them."""
    if (folder / MANIFEST).exists():
        try:
            check_manifest(folder, [name for name in (*_READ, *_MEASURED) if (folder / name).exists() or name in _READ])
        except DataError as error:
            raise RunError(str(error)) from error
    elif (folder / "checkpoint.safetensors").exists():  # it has no results, or not all
        raise RunError(f"{folder}: training has not ended; run `gtcrec resume {folder}`")


def _parse_json(path: Path, kind: type[T]) -> T:
    return _validate_json(_read_text(path), kind, str(path))


def _parse_json_lines(path: Path, kind: type[T]) -> list[T]:
    lines = _read_text(path).splitlines()
    return [_validate_json(line, kind, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _parse_yaml_mapping(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise RunError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: damaged: expected keys and values, found {type(value).__name__}")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path}: missing; a run folder must have it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _validate_json(text: str, kind: type[T], where: str) -> T:
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise RunError(f"{where}: damaged: {first_fault(error)}") from error
