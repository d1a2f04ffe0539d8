"""The commands of `gtcrec data`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gtcrec.cli.build import build
from gtcrec.cli.formats import export, get, import_raw, list_public
from gtcrec.cli.options import Engine, RayAddress, WorkerCount

__all__ = ["data_app"]

data_app = typer.Typer(help="Look at data, make some, and turn texts and images into features.", no_args_is_help=True)
data_app.command("build")(build)
data_app.command("import")(import_raw)
data_app.command("export")(export)
data_app.command("list")(list_public)
data_app.command("get")(get)


@data_app.command("inspect")
def inspect(
    path: Annotated[str, typer.Argument(help="A data folder or a file of interactions.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a data set holds, and what to beware of."""
    from gtcrec.cli.console import nested, print_json, print_table
    from gtcrec.data import describe, load

    facts = describe(load(path))
    if as_json:
        print_json(facts)
    else:
        print_table(*nested(facts))


@data_app.command("make-synthetic")
def make_synthetic(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 1200,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal bytes.")] = 0,
) -> None:
    """Write a catalogue with planted tastes, drawn images and product texts."""
    from gtcrec.data import write_catalogue

    sys.stdout.write(f"{write_catalogue(out, users, items, seed=seed)}\n")


@data_app.command("encode")
def encode(
    items: Annotated[Path, typer.Argument(metavar="ITEMS", help="The items table: .csv, .tsv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option("--out", help="The file to make, FOLDER/NAME_feat.npy.")],
    text: Annotated[str, typer.Option("--text", metavar="COL[,COL]", help="Columns of text to encode together.")] = "",
    image: Annotated[
        str | None, typer.Option("--image", metavar="COL", help="Column of image files, paths beside the table.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="COL", help="Column of other files, such as audio; see --function.")
    ] = None,
    tags: Annotated[str, typer.Option("--tags", metavar="COL[,COL]", help="Columns of tags or categories.")] = "",
    numbers: Annotated[str, typer.Option("--numbers", metavar="COL[,COL]", help="Columns of numbers.")] = "",
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="A model's folder or name on the hub; else all-MiniLM-L6-v2 for text, colours and layout for images.",
        ),
    ] = "",
    function: Annotated[
        str, typer.Option("--function", metavar="MODULE:NAME", help="Your own encoder, batch -> array.")
    ] = "",
    separator: Annotated[str, typer.Option("--separator", help="Between the tags of a cell.")] = "|",
    width: Annotated[int, typer.Option("--width", min=1, help="Columns at most, of tags.")] = 128,
    reuse: Annotated[
        Path | None, typer.Option("--reuse", help="An earlier _feat.npy, whose rows for equal contents are taken over.")
    ] = None,
    dtype: Annotated[Literal["float32", "float16"], typer.Option("--dtype", help="Numbers in the file.")] = "float32",
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Items encoded at once, which a kill loses at most.")
    ] = 32,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
) -> None:
    """Turn columns of an items table, all of one kind, into a feature matrix, a row an item."""
    if sum(map(bool, (text, image, file, tags, numbers))) != 1:
        raise typer.BadParameter("wanted one of --text, --image, --file, --tags and --numbers")
    from gtcrec.cli.console import counted, resumable, say
    from gtcrec.data.features.extract import EncodeConfig, encode
    from gtcrec.runtime.block_jobs import choose_executor

    def columns(names: str) -> tuple[str, ...]:
        return tuple(filter(None, names.split(",")))

    config = EncodeConfig(
        text=columns(text), image=image, file=file, tags=columns(tags), numbers=columns(numbers), encoder=encoder,
        function=function, separator=separator, width=width, dtype=dtype, batch=batch, device=device,
    )  # fmt: skip
    if function:
        sys.path.insert(0, str(Path.cwd()))  # where a user's module lies
    executor = choose_executor(engine, workers, ray_address, device)
    with resumable("the same command goes on from here"), counted("batches") as on_block:
        found = encode(items, out, config, executor=executor, on_block=on_block, reuse=reuse)
    again = f" ({found.reused:,} as before)" if found.reused else ""
    say(f"{found.present:,} of {found.rows:,} items have a vector of {found.width} numbers{again}: {out}")
    if found.failures:
        count, first, listed = len(found.failures), found.failures[0], out.with_suffix(".json")
        say(f"{count:,} could not be read, such as row {first['row']} ({first['reason']}); all are in {listed}")
