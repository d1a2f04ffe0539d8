"""The commands of `gtcrec data`: from files of any kind to a data folder, and back."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_origin

import typer
from typer.core import TyperCommand

from gtcrec.cli.options import (
    ConfigFile,
    Engine,
    Format,
    RayAddress,
    WorkerCount,
    checked,
    is_setting,
    prepare_parent,
    split_commas,
)
from gtcrec.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from gtcrec.data.build.pipeline import BuildConfig

__all__ = ["OLD_OPTIONS", "data_app"]

Config = TypeVar("Config", bound="BaseModel")

data_app = typer.Typer(help="Find, convert, build and describe data sets, and encode content.", no_args_is_help=True)

OLD_OPTIONS = {  # of version 0.1; the others have their key's name
    **{f"{role}-col": role for role in ("user", "item", "rating", "time", "label", "title")},
    "items-item-col": "items_item",
    "number": "numbers",
    "split": "split.strategy",
    "ratios": "split.ratios",
    "seed": "split.seed",
}
_PATHS = ("items", "interactions", "out", "image_root")  # keys of a build file beside those of `BuildConfig`


class _KeysCommand(TyperCommand):
    """A command with settings KEY=VALUE: its help lists the keys, and options of that name are taken as well."""

    def __init__(self, *args: Any, **options: Any) -> None:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        super().__init__(
            *args, **{**options, "context_settings": {**(options.get("context_settings") or {}), **settings}}
        )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the usual help, then the keys with their defaults; only here is the configuration imported."""
        from rich.markup import escape

        from gtcrec.cli.console import print_table, table

        super().format_help(ctx, formatter)
        rows = []
        for key, field in _key_fields(_config_class(str(self.name))).items():
            default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            rows.append([key, "" if default is None else escape(str(default)), escape(field.description or "")])
        print_table(table(["KEY", "default", ""], rows, left=(0, 1, 2)))


def _config_class(command: str) -> "type[BaseModel]":
    """Return the configuration whose fields are the keys of a command."""
    if command == "build":
        from gtcrec.data.build.pipeline import BuildConfig

        return BuildConfig
    if command == "convert":
        from gtcrec.data.sources.huggingface import HuggingFaceConfig

        return HuggingFaceConfig
    from gtcrec.data import EncodeConfig

    return EncodeConfig


def _key_fields(kind: "type[BaseModel]", prefix: str = "") -> "dict[str, FieldInfo]":
    """Return the field of each key; fields of a nested configuration have dotted keys."""
    from pydantic import BaseModel

    fields: dict[str, FieldInfo] = {}
    for name, field in kind.model_fields.items():
        nested = isinstance(field.default, BaseModel)
        fields |= _key_fields(type(field.default), f"{name}.") if nested else {prefix + name: field}
    return fields


def read_settings(
    words: Sequence[str], known: Sequence[str], old_options: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the settings among words, key -> text, and the other words.

    A setting is KEY=VALUE or, as in version 0.1, --key VALUE, where `old_options` has the keys of options of other
    names. Raises `ConfigError` for a key that is not known.
    """
    settings, others, rest = {}, [], iter(words)
    for word in rest:
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            key = name.replace("-", "_")
            text = text if equals else next(rest, "")
        elif is_setting(word):
            key, _, text = word.partition("=")
            name = key
        else:
            others.append(word)
            continue
        key = old_options.get(name, key)
        if key not in known:
            raise ConfigError(f"unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
        settings[key] = text
    return settings, others


def configure(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    """Return the configuration that settings make; dotted keys are nested, texts for lists split at commas.

    Raises `ConfigError` naming the first setting that is refused.
    """
    fields, values = _key_fields(kind), dict[str, Any]()
    for key, value in settings.items():
        if isinstance(value, str) and key in fields and get_origin(fields[key].annotation) is tuple:
            value = tuple(split_commas(value))
        section, dot, name = key.rpartition(".")
        place = values.setdefault(section, {}) if dot else values
        place[name] = value
    return checked(kind, **values)


@data_app.command("list")
def list_data(form: Format = "text") -> None:
    """List public data sets: source, licence, size, checksum."""
    from dataclasses import asdict

    from gtcrec.cli.console import print_json
    from gtcrec.data.sources.registry import PUBLIC_DATA

    if form == "json":
        print_json([asdict(one) for one in PUBLIC_DATA.values()])
        return
    for one in PUBLIC_DATA.values():
        typer.echo(f"{one.name}: {one.title}\n  page: {one.page}\n  licence: {one.licence}")
        for file in one.files:
            size = f"about {file.size / 1e6:,.1f} MB" if file.size else "size not known"
            typer.echo(f"  {file.url} ({size}, checksum: {file.checksum or 'none known'})")


@data_app.command()
def download(
    name: Annotated[str, typer.Argument(help="A name of `gtcrec data list`.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to put the files into.")],
) -> None:
    """Download a public data set, going on where an earlier try ended, and check it."""
    from gtcrec.cli.console import resumable, say
    from gtcrec.data.sources.download import get
    from gtcrec.data.sources.registry import find_public_data

    source = find_public_data(name)
    say(f"{source.title}; licence: {source.licence}; see {source.page}")
    with resumable("the same command goes on from here"):
        get(source.files, out, say)
    files = " ".join(str(out / file.name) for file in source.files) if source.kind != "microlens" else str(out)
    say(f"next: gtcrec data convert {source.kind} {files} --out DIR")


@data_app.command()
def describe(
    path: Annotated[str, typer.Argument(metavar="DATA", help="A data folder or a file of interactions.")],
    form: Format = "text",
) -> None:
    """Print what a data set holds, and what to beware of."""
    from gtcrec.cli.console import nested, print_json, print_table
    from gtcrec.data import describe, load

    facts = describe(load(path))
    if form == "json":
        print_json(facts)
    else:
        print_table(*nested(facts))


@data_app.command(cls=_KeysCommand)
def convert(
    kind: Annotated[
        Literal["amazon", "movielens", "microlens", "hf", "recbole"], typer.Argument(help="What the files are.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE [KEY=VALUE]", help="amazon: reviews and metadata; others: a folder or .zip."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Leave damaged lines out and count them.")
    ] = False,
) -> None:
    """Make the two tables that `gtcrec data build` takes of a public data set's raw files.

    The keys below are for hf, and recbole where its columns have other names.
    """
    from gtcrec.cli.console import say
    from gtcrec.data.sources.convert import convert
    from gtcrec.data.sources.huggingface import HuggingFaceConfig

    settings, sources = read_settings(words, list(HuggingFaceConfig.model_fields), OLD_OPTIONS)
    if not sources:
        raise typer.BadParameter("missing argument SOURCE")
    report = convert(kind, list(map(Path, sources)), out, skip_bad_lines, configure(HuggingFaceConfig, settings))
    for what, count in report["rows"].items():
        say(f"{count:,} {what}")
    if bad := report.get("bad lines"):
        say(f"{bad:,} bad lines left out, such as {report['examples'][0]}")
    for what, count in report["notes"].items():
        say(f"{what}: {count:,}")
    say(f"next: gtcrec data build --items {out}/items.parquet --interactions {out}/interactions.parquet --out DIR")


@data_app.command(cls=_KeysCommand)
def build(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, such as text=title,brand.")
    ] = None,
    items: Annotated[
        str, typer.Option("--items", metavar="FILE", help="The items table: .csv, .tsv, .jsonl (also .gz), .parquet.")
    ] = "",
    interactions: Annotated[
        str, typer.Option("--interactions", metavar="FILE", help="The interactions table, of the same kinds.")
    ] = "",
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="The data folder to make.")] = "",
    append: Annotated[
        bool, typer.Option("--append", help="Add to the folder: a day's interactions, its new and changed items.")
    ] = False,
    file: ConfigFile = None,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
) -> None:
    """Make a data folder of an items table and an interactions table, and say what was left out and why.

    The file of --config may have the keys below, and items, interactions, out and image_root, the folder that image
    paths are relative to (the items table's if not given). With --append one of the two tables is enough, and settings
    are those of the folder; given ones must be equal.
    """
    from gtcrec.cli.console import counted, resumable, say, write_out
    from gtcrec.data.build import append as appending
    from gtcrec.data.build.pipeline import build
    from gtcrec.data.build.report import write_report
    from gtcrec.runtime.block_jobs import choose_executor

    options = {"items": items, "interactions": interactions, "out": out}
    paths, config = _read_build(file, words or (), options, append)
    prepare_parent(paths["out"])
    executor = choose_executor(engine, workers, ray_address, config.device)
    with resumable("the same command goes on with what is complete"), counted("batches") as on_block:
        given: dict[str, Any] = {**paths, "executor": executor, "on_stage": say, "on_block": on_block}
        report = appending.append(**given, device=config.device) if append else build(**given, config=config)
    write_out(write_report(report))
    say(f"built: {paths['out']}")


def _read_build(
    file: Path | None, words: Sequence[str], options: Mapping[str, str], append: bool
) -> "tuple[dict[str, Path], BuildConfig]":
    """Return the paths and the configuration of a build: of its file, then KEY=VALUE, then options.

    To append, the configuration is that of the folder. Raises `ConfigError` for a setting that differs from it.
    """
    from gtcrec.data.build.append import read_build_config
    from gtcrec.data.build.pipeline import BuildConfig

    known = [*_key_fields(BuildConfig), *_PATHS]
    settings, others = read_settings(words, known, OLD_OPTIONS)
    if others:
        raise typer.BadParameter(f"expected KEY=VALUE, found {others[0]!r}")
    values = {**_read_build_file(file), **settings, **{key: value for key, value in options.items() if value}}
    for key in ("out",) if append else options:
        if not values.get(key):
            raise typer.BadParameter(f"missing option --{key}")
    paths = {key: Path(values.pop(key)) for key in _PATHS if key in values}
    config = configure(BuildConfig, values)
    return paths, _same_config(read_build_config(paths["out"]), config, values) if append else config


def _same_config(stored: "BuildConfig", asked: "BuildConfig", values: Mapping[str, Any]) -> "BuildConfig":
    """Return how a folder was built, on the device that is asked for; every other setting must be equal."""
    for key in values:
        was, now = stored, asked
        for name in key.split("."):
            was, now = getattr(was, name), getattr(now, name)
        if key != "device" and was != now:
            raise ConfigError(f"{key}: --append goes on as the folder was built, with {was!r}, found {now!r}")
    return stored.model_copy(update={"device": asked.device} if "device" in values else {})


def _read_build_file(file: Path | None) -> dict[str, Any]:
    """Return the values of a YAML file, those of nested mappings with dotted keys."""
    if file is None:
        return {}
    from gtcrec.experiments.config import read_yaml

    flat: dict[str, Any] = {}
    for key, value in read_yaml(file).items():
        flat.update({f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value})
    return flat


@data_app.command(cls=_KeysCommand)
def encode(
    words: Annotated[
        list[str],
        typer.Argument(metavar="ITEMS [KEY=VALUE]", help="The items table; settings such as text=title,brand."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to make, FOLDER/NAME_feat.npy.")],
    reuse: Annotated[
        Path | None, typer.Option("--reuse", help="An earlier _feat.npy, whose rows for equal contents are taken over.")
    ] = None,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
) -> None:
    """Turn columns of an items table, all of one kind, into a feature matrix, a row an item."""
    from gtcrec.cli.console import counted, resumable, say
    from gtcrec.data.features.extract import EncodeConfig, encode
    from gtcrec.runtime.block_jobs import choose_executor

    settings, tables = read_settings(words, list(EncodeConfig.model_fields), {})
    if len(tables) != 1:
        raise typer.BadParameter(f"expected one table of items, found {', '.join(tables) or 'none'}")
    if sum(bool(settings.get(kind)) for kind in ("text", "image", "file", "tags", "numbers")) != 1:
        raise typer.BadParameter("expected one of the keys text, image, file, tags and numbers")
    config = configure(EncodeConfig, settings)
    if config.function:
        sys.path.insert(0, str(Path.cwd()))  # where a user's module lies
    executor = choose_executor(engine, workers, ray_address, config.device)
    with resumable("the same command goes on from here"), counted("batches") as on_block:
        result = encode(tables[0], out, config, executor=executor, on_block=on_block, reuse=reuse)
    again = f" ({result.reused:,} as before)" if result.reused else ""
    say(f"{result.present:,} of {result.rows:,} items have a vector of {result.width} numbers{again}: {out}")
    if result.failures:
        count, first, listed = len(result.failures), result.failures[0], out.with_suffix(".json")
        say(f"{count:,} could not be read, such as row {first['row']} ({first['reason']}); all are in {listed}")


@data_app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 1200,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal bytes.")] = 0,
) -> None:
    """Write a catalog whose users' interests are known, with drawn images and product texts."""
    from gtcrec.data import write_catalog

    typer.echo(write_catalog(out, users, items, seed=seed))


@data_app.command()
def export(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data folder or a file of interactions.")],
    to: Annotated[Literal["mmrec", "recbole"], typer.Option("--to", help="Whose format.")],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder; its name becomes the data set's.")],
    split: Annotated[
        str, typer.Option(help="auto, label, random, leave_one_out, user_time, global_time or cold_items.")
    ] = "auto",
    ratios: Annotated[str, typer.Option(help="Of training, validation and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
) -> None:
    """Write a data set, divided, as a folder that MMRec or RecBole reads."""
    from gtcrec.cli.console import say
    from gtcrec.data import SplitConfig, load
    from gtcrec.data.formats.export import write_mmrec, write_recbole

    config = configure(SplitConfig, {"strategy": split, "ratios": ratios, "seed": seed})
    say(f"written: {(write_mmrec if to == 'mmrec' else write_recbole)(load(data), out, config)}")
