"""`gtcrec export`: a trained model for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gtcrec.cli.options import DataPath, Device, RunFolder
from gtcrec.cli.serving.lists import ListLength, Where

__all__ = ["export"]

Kinds = Annotated[
    list[str],
    typer.Argument(metavar="KIND", help="Of vectors, index (faiss), lists, onnx and card (a model card)."),
]
Form = Annotated[
    Literal["npy", "parquet", "trec", "csv"] | None,
    typer.Option("--format", help="vectors: npy or parquet; lists: trec or csv. If not given, npy and trec."),
]


def export(
    folder: RunFolder,
    kinds: Kinds,
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder.")],
    form: Form = None,
    k: ListLength = 10,
    where: Where = None,
    license: Annotated[str, typer.Option("--license", help="What the model card states, such as mit.")] = "",
    data: DataPath = None,
    device: Device = None,
) -> None:
    """Write a trained model for other programs: vectors, an index, lists, ONNX, a model card."""
    vector_format, list_format = _read_format(form, kinds)
    from gtcrec.cli.console import say
    from gtcrec.serving.export import ExportOptions, export_model
    from gtcrec.serving.list_request import ListRequest

    options = ExportOptions(vector_format, list_format, ListRequest(k, where=where), license)
    for name in export_model(folder, out, kinds, options, data=data, device=device):
        say(f"{out / name}")


def _read_format(form: str | None, kinds: list[str]) -> tuple[Literal["npy", "parquet"], Literal["trec", "csv"]]:
    """Return the format of vectors and that of lists. Raises `typer.BadParameter` for one that no kind has."""
    if form in ("npy", "parquet") and "vectors" not in kinds:
        raise typer.BadParameter(f"--format {form} is for vectors")
    if form in ("trec", "csv") and "lists" not in kinds:
        raise typer.BadParameter(f"--format {form} is for lists")
    return ("parquet" if form == "parquet" else "npy"), ("csv" if form == "csv" else "trec")
