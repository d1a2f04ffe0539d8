"""Options of the command line that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["DataPath", "Device", "Engine", "RayAddress", "RunFolder", "WorkerCount"]

RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]
DataPath = Annotated[str | None, typer.Option("--data", help="Where the data are now, if they have moved.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N; if not given, as trained.")]
Engine = Annotated[Literal["local", "ray"], typer.Option("--engine", help="ray: several processes or machines.")]
WorkerCount = Annotated[int, typer.Option("--workers", min=1, help="With ray: processes that work together.")]
RayAddress = Annotated[
    str, typer.Option("--ray-address", envvar="RAY_ADDRESS", help="A running cluster's; else Ray is started here.")
]
