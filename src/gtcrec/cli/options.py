"""Arguments and options that several commands share: a word means the same wherever it stands."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from gtcrec.errors import config_error
from gtcrec.runtime.threads import available_cores, free_cores, read_cpu_times

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "HEADLINE_METRICS",
    "ConfigFile",
    "DataAndModel",
    "DataPath",
    "Device",
    "Engine",
    "Format",
    "Metrics",
    "OldData",
    "OldModel",
    "OldSettings",
    "RayAddress",
    "RunFolder",
    "StudyFormat",
    "TableFormat",
    "Threads",
    "WorkerCount",
    "checked",
    "is_setting",
    "prepare_parent",
    "read_data_and_model",
    "split_commas",
    "use_threads",
]

Config = TypeVar("Config", bound="BaseModel")

_STARTED = read_cpu_times()

HEADLINE_METRICS = ("recall@20", "ndcg@20", "ndcg@5")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
DataAndModel = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DATA [MODEL] [KEY=VALUE]",
        help="A data folder or a file of interactions; a name of `gtcrec models`, gtc if not given; settings such as "
        "epochs=50.",
    ),
]
OldData = Annotated[str | None, typer.Option("--data", hidden=True)]
OldModel = Annotated[str | None, typer.Option("--model", hidden=True)]
OldSettings = Annotated[list[str] | None, typer.Option("--set", hidden=True)]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML file of settings, which KEY=VALUE overrides.")
]
DataPath = Annotated[str | None, typer.Option("--data", help="Where the data are now, if they have moved.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N; if not given, as configured.")]
Engine = Annotated[Literal["local", "ray"], typer.Option("--engine", help="ray: several processes or machines.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Of this process; if not given, OMP_NUM_THREADS, or one for each free core."),
]
WorkerCount = Annotated[int, typer.Option("--workers", min=1, help="With ray: processes that work together.")]
RayAddress = Annotated[
    str, typer.Option("--ray-address", envvar="RAY_ADDRESS", help="A running cluster's; else Ray is started here.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help=f"A metric to show; repeatable. Default: {', '.join(HEADLINE_METRICS)}."),
]
TableFormat = Annotated[Literal["text", "markdown", "latex"], typer.Option("--format", help="Of what is printed.")]
StudyFormat = Annotated[
    Literal["text", "json", "markdown", "latex"], typer.Option("--format", help="Of what is printed.")
]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="Of what is printed.")]


def is_setting(word: str) -> bool:
    """Return whether a word of the command line is a setting, KEY=VALUE; a path with "=" may start with "./".

    >>> is_setting("train.epochs=5"), is_setting("./year=2024/items.csv")
    (True, False)
    """
    return re.match(r"[A-Za-z_][\w.:]*=", word) is not None


def read_data_and_model(
    words: Sequence[str] | None, old_data: str | None, old_model: str | None, old_settings: Sequence[str] | None
) -> tuple[str | None, str | None, list[str]]:
    """Return the data, the model and the settings of `DATA [MODEL] [KEY=VALUE]...`.

    The options of version 0.1, --data, --model and --set, fill the places that the words leave.
    """
    settings = [*(old_settings or ()), *filter(is_setting, words or ())]
    data, model = old_data, old_model
    for name in (word for word in words or () if not is_setting(word)):
        if data is None:
            data = name
        elif model is None:
            model = name
        else:
            raise typer.BadParameter(f"expected DATA [MODEL] [KEY=VALUE]..., found {name!r} after {data} {model}")
    return data, model, settings


def split_commas(text: str) -> list[str]:
    """Return the words between commas, without blanks around and empty ones; quotes hold a word with commas together.

    >>> split_commas('tea, "Lock, Stock 3",mug')
    ['tea', 'Lock, Stock 3', 'mug']
    """
    try:
        words = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise typer.BadParameter(f"cannot be split at commas: {text!r}: {error}") from error
    return [word.strip() for word in words if word.strip()]


def use_threads(given: int | None, announce: bool = True) -> None:
    """Set how many threads torch works with, as `--threads` says it is chosen, and say so."""
    import torch

    from gtcrec.cli.console import say

    variable, cores = os.environ.get("OMP_NUM_THREADS", ""), available_cores()
    if given:
        count, why = given, "as --threads says"
    elif variable.isdigit() and int(variable):
        count, why = int(variable), "as OMP_NUM_THREADS says"
    else:
        count = free_cores(_STARTED)
        why = f"{count} of {cores} cores free"
    torch.set_num_threads(count)
    if announce:
        say(f"threads: {count} ({why})")


def prepare_parent(out: Path | None) -> None:
    """Make the folder that a result will be written into, before the work: a path that cannot be made fails early."""
    from gtcrec.runtime.files import make_folder

    if out is not None:
        make_folder(out.parent)


def checked(kind: type[Config], **given: Any) -> Config:
    """Return the config of what options gave; raises `ConfigError` that names the first setting it refuses."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise config_error(error, kind=kind) from error
