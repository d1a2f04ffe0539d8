"""`gtcrec data build`: from raw tables to a data folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gtcrec.cli.options import Engine, RayAddress, WorkerCount, checked

__all__ = ["build"]

Column = Annotated[str | None, typer.Option(metavar="COL", help="Found by its usual names if not given.")]


def build(
    items: Annotated[Path, typer.Option("--items", help="The items table: .csv, .tsv, .jsonl (also .gz), .parquet.")],
    interactions: Annotated[Path, typer.Option("--interactions", help="The interactions table, of the same kinds.")],
    out: Annotated[Path, typer.Option("--out", help="The data folder to make.")],
    user_col: Column = None,
    item_col: Column = None,
    items_item_col: Annotated[
        str | None, typer.Option(metavar="COL", help="The item in the items table; as --item-col if not given.")
    ] = None,
    rating_col: Column = None,
    time_col: Column = None,
    label_col: Annotated[
        str | None, typer.Option(metavar="COL", help="The part of a row, 0, 1 or 2; x_label if there is one.")
    ] = None,
    title_col: Annotated[str | None, typer.Option(metavar="COL", help="Items' titles; title if not given.")] = None,
    text: Annotated[str, typer.Option(metavar="COL[,COL]", help="Texts, encoded together.")] = "",
    image: Annotated[
        str | None, typer.Option(metavar="COL", help="Paths of images, or a pattern such as images/{item_id}.jpg.")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="What image paths are relative to; the items table's folder if not given.")
    ] = None,
    tags: Annotated[str, typer.Option(metavar="COL[,COL]", help="Several tags a cell.")] = "",
    tag_separator: Annotated[str, typer.Option(help="Between the tags of a cell.")] = "|",
    category: Annotated[str, typer.Option(metavar="COL[,COL]", help="One category a cell.")] = "",
    numbers: Annotated[str, typer.Option("--numbers", "--number", metavar="COL[,COL]", help="Numbers.")] = "",
    keep: Annotated[str, typer.Option(metavar="COL[,COL]", help="Other columns to keep, as text.")] = "",
    min_rating: Annotated[float | None, typer.Option(help="Rows rated lower are left out.")] = None,
    core: Annotated[int, typer.Option(min=0, help="Interactions that each user and item must have; 0: any.")] = 5,
    duplicates: Annotated[
        Literal["refuse", "first"], typer.Option(help="Of an id in the items table: an error, or the first row counts.")
    ] = "refuse",
    split: Annotated[
        str, typer.Option(help="auto, label, random, leave_one_out, user_time, global_time or cold_items.")
    ] = "auto",
    ratios: Annotated[str, typer.Option(help="Of training, validation and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    encoding: Annotated[str, typer.Option(help="Of text files, such as latin-1 or utf-16.")] = "utf-8",
    text_encoder: Annotated[str, typer.Option(help="A model's folder or name; all-MiniLM-L6-v2 if not given.")] = "",
    image_encoder: Annotated[str, typer.Option(help="A model's folder or name; colours and layout if not given.")] = "",
    device: Annotated[str, typer.Option(help="Of the encoders: cpu, cuda or cuda:N.")] = "cpu",
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
) -> None:
    """Make a data folder of an items table and an interactions table, and say what was left out and why."""
    from gtcrec.cli.console import counted, resumable, say
    from gtcrec.data.build.pipeline import BuildConfig
    from gtcrec.data.build.pipeline import build as build_data
    from gtcrec.data.build.report import write_report
    from gtcrec.runtime.block_jobs import choose_executor

    config = checked(
        BuildConfig,
        user=user_col, item=item_col, items_item=items_item_col, rating=rating_col, time=time_col, label=label_col,
        title=title_col, text=_names(text), image=image, tags=_names(tags), tag_separator=tag_separator,
        category=_names(category), numbers=_names(numbers), keep=_names(keep), text_encoder=text_encoder,
        image_encoder=image_encoder, device=device, min_rating=min_rating, core=core, duplicates=duplicates,
        encoding=encoding, split={"strategy": split, "ratios": _names(ratios), "seed": seed},
    )  # fmt: skip
    executor = choose_executor(engine, workers, ray_address, device)
    with resumable("the same command goes on with what is complete"), counted("batches") as on_block:
        report = build_data(items, interactions, out, config, image_root, executor, say, on_block)
    typer.echo(write_report(report), nl=False)
    say(f"built: {out}")


def _names(given: str) -> tuple[str, ...]:
    return tuple(filter(None, (one.strip() for one in given.split(","))))
