"""`gtcrec models` and `gtcrec runs`: what there is, listed and shown."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gtcrec.cli.options import Format, RunFolder
from gtcrec.errors import RunError

__all__ = ["models_app", "runs_app"]

models_app = typer.Typer(help="List the models, or show one with its settings.", invoke_without_command=True)
runs_app = typer.Typer(help="List the runs of a folder, show one, or write its page.", no_args_is_help=True)


@models_app.callback()
def _models(context: typer.Context, form: Format = "text") -> None:
    if context.invoked_subcommand is None:
        list_models(form)


@models_app.command("list")
def list_models(form: Format = "text") -> None:
    """List the models, a line each."""
    from gtcrec.cli.console import print_json, print_table, table

    summaries = _model_summaries()
    if form == "json":
        print_json({name: {"about": about, **_model_facts(name)} for name, about in summaries.items()})
    else:
        print_table(table(["model", ""], list(map(list, summaries.items())), left=(0, 1)))


@models_app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="A name of `gtcrec models list`.")], form: Format = "text"
) -> None:
    """Show a model: what it is, its paper, presets, settings, and what `gtcrec tune` tries."""
    from rich.markup import escape

    from gtcrec.cli.console import print_json, print_table, table

    facts = {**_model_facts(name), "about": _model_summaries()[name]}
    if form == "json":
        print_json(facts)
        return
    words = {"model": name, "": facts["about"], "paper": facts["paper"], "presets": ", ".join(facts["presets"])}
    descriptions, ranges, space = facts["descriptions"], facts["ranges"], facts["search_space"]
    rows = [
        [key, json.dumps(value), ranges[key], ", ".join(map(json.dumps, space.get(key, ()))), descriptions[key]]
        for key, value in facts["settings"].items()
    ]
    others = {key: values for key, values in space.items() if key not in descriptions}  # of the training
    rows += [[key, "", "", ", ".join(map(json.dumps, values)), ""] for key, values in others.items()]
    print_table(
        table(["", ""], [[key, escape(value)] for key, value in words.items() if value], left=(0, 1)),
        table(["setting", "default", "range", "tried", ""], [list(map(escape, row)) for row in rows], left=range(5)),
    )


def _model_summaries() -> dict[str, str]:
    """Name -> one line about the model."""
    from gtcrec.models import list_models

    return list_models()


def _model_facts(name: str) -> dict[str, Any]:
    """Return a model's paper, presets, settings with their defaults, descriptions and ranges, and search space."""
    from gtcrec.models import get_spec, make_config
    from gtcrec.reporting.setting_ranges import setting_ranges

    spec = get_spec(name)
    return {
        "paper": spec.paper,
        "presets": list(spec.presets),
        "settings": make_config(name, {}).model_dump(mode="json"),
        "descriptions": {key: field.description or "" for key, field in spec.config.model_fields.items()},
        "ranges": setting_ranges(spec.config),
        "search_space": {key: list(values) for key, values in spec.search_space.items()},
    }


@runs_app.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, in folders of folders too.")] = Path("runs"),
    metric: Annotated[str, typer.Option("--metric", help="Default: the one that training chose by.")] = "",
    form: Format = "text",
) -> None:
    """List the runs in a folder: model, data, whether training has ended, and the headline metric."""
    from rich.markup import escape

    from gtcrec.cli.console import number, print_json, print_table, table

    if not folder.is_dir():
        raise RunError(f"{folder}: expected a folder of runs, found {'a file' if folder.exists() else 'nothing'}")
    rows = [_summarize_run(file.parent, metric) for file in sorted(folder.rglob("config.yaml")) if _is_run(file.parent)]
    if form == "json":
        print_json(rows)
    elif not rows:
        raise RunError(f"{folder}: expected runs, found none")
    else:
        cells = [[escape(number(value)) for value in row.values()] for row in rows]
        print_table(table(list(rows[0]), cells, left=range(5)))


@runs_app.command("show")
def show_run(folder: RunFolder, form: Format = "text") -> None:
    """Show a run: its model, data, best epoch, metrics and configuration."""
    from gtcrec.cli.console import nested, print_json, print_table
    from gtcrec.reporting.run_comparison import evaluation_table
    from gtcrec.reporting.run_record import read_run_record

    if _is_run(folder) and not (folder / "report.json").exists():
        raise RunError(f"{folder}: training has not ended; go on with `gtcrec resume {folder}`")
    record = read_run_record(folder)
    result = record.result.model_dump(exclude={"valid", "test"})
    facts = {"folder": str(folder), "data": record.data.name, **result}
    parts = {"validation": record.result.valid, "test": record.result.test}
    if form == "json":
        measured = {name: part.model_dump() for name, part in parts.items() if part}
        print_json({**facts, "counts": record.data.counts, **measured, "config": record.config})
        return
    metrics = [evaluation_table(part, f"{name}, {part.users:,} users") for name, part in parts.items() if part]
    print_table(*nested({**facts, **record.data.counts}), *metrics)
    typer.echo("\n" + (folder / "config.yaml").read_text(encoding="utf-8"), nl=False)


@runs_app.command("report")
def report_run(folder: RunFolder) -> None:
    """Write the page of a run, report.html, again and print its path."""
    from gtcrec.experiments.run_folder import rewrite_page

    typer.echo(rewrite_page(folder))


@runs_app.command("check")
def check_run(
    folder: RunFolder,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without training.")] = False,
    form: Format = "text",
) -> None:
    """Check every file of a run, finished or not, say what is wrong with which, and with --repair mend it."""
    from dataclasses import asdict

    from gtcrec.cli.console import print_json, say
    from gtcrec.experiments.run_check import check_run, repair_run

    before = check_run(folder)
    left = repair_run(folder) if repair else before
    if form == "json":
        print_json({"found": [asdict(one) for one in before], "left": [asdict(one) for one in left]})
    else:
        for one in before:
            typer.echo(f"{one.file}: {one.problem}" + ("" if one in left else "; mended"))
        for one in left:
            say(f"{one.file}: {one.remedy}")
        if not before:
            typer.echo(f"{folder}: every file is as it was written")
    if any(one.harmful for one in left):
        raise typer.Exit(1)


def _is_run(folder: Path) -> bool:
    """Return whether a folder holds a run, not one that is still being made."""
    return not folder.name.startswith(".") and all((folder / name).is_file() for name in ("config.yaml", "data.json"))


def _summarize_run(folder: Path, metric: str) -> dict[str, Any]:
    """Return the line of a run; one whose files cannot be read is called damaged."""
    import yaml

    from gtcrec.reporting.run_record import read_run_record

    row: dict[str, Any] = {"run": str(folder), "model": "", "data": "", "state": "unfinished"}
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        shown = metric or config["train"]["valid_metric"]
        row |= {"model": config["model"], "data": data["name"], "metric": shown, "valid": None, "test": None}
        if (folder / "report.json").is_file():
            result = read_run_record(folder).result
            means = {"valid": result.valid.means.get(shown), "test": result.test and result.test.means.get(shown)}
            row |= {"state": "finished", **means}
    except (RunError, OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        row = {"metric": "", "valid": None, "test": None, **row, "state": "damaged"}
    return {key: row[key] for key in ("run", "model", "data", "state", "metric", "valid", "test")}
