"""Options of the command line that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from gtcrec.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["DataPath", "Device", "Engine", "RayAddress", "RunFolder", "WorkerCount", "checked"]

Config = TypeVar("Config", bound="BaseModel")

RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
DataPath = Annotated[str | None, typer.Option("--data", help="Where the data are now, if they have moved.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N; if not given, as trained.")]
Engine = Annotated[Literal["local", "ray"], typer.Option("--engine", help="ray: several processes or machines.")]
WorkerCount = Annotated[int, typer.Option("--workers", min=1, help="With ray: processes that work together.")]
RayAddress = Annotated[
    str, typer.Option("--ray-address", envvar="RAY_ADDRESS", help="A running cluster's; else Ray is started here.")
]


def checked(kind: type[Config], **given: Any) -> Config:
    """Return the config of what options gave; raises `ConfigError` that names the first setting it refuses."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}") from error
