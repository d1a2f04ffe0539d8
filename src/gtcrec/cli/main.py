"""The command line: results on stdout, messages on stderr; exit codes 0 (done), 1 (error), 2 (usage).

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gtcrec.cli.analyze import HEADLINE_METRICS, ablate, explain, knockout
from gtcrec.cli.benchmark import benchmark, compare_lists
from gtcrec.cli.data import data_app
from gtcrec.cli.missing import missing
from gtcrec.cli.options import DataPath, Device, Engine, RayAddress, RunFolder, WorkerCount
from gtcrec.cli.tune import tune
from gtcrec.errors import GtcrecError, RunError

if TYPE_CHECKING:
    from gtcrec.evaluation.comparison import PairedDifference
    from gtcrec.experiments.run import Run
    from gtcrec.reporting.run_record import RunRecord
    from gtcrec.runtime.block_jobs import Executor

__all__ = ["app", "execute", "main"]

app = typer.Typer(
    name="gtcrec",
    help="Multi-modal recommendation: train, evaluate, recommend, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")

DEMO_MODELS = ("popular", "bpr", "lightgcn", "gtc")
DEMO_SETTINGS = (
    "batch_size=512",
    "learning_rate=0.003",
    "valid_every=2",
)  # 11,000 pairs make few steps an epoch
Failures = Annotated[int, typer.Option("--max-failures", min=0, help="With ray: how often to restart lost workers.")]


def main() -> None:
    """Run the command line and leave with its exit code.

    GNU OpenMP reads, as torch is loaded, how long threads spin before they sleep while they wait for one another. Its
    default makes an epoch of GTC on `tiktok` 35 times as long on two cores of which another process has one. With this
    count it is 4 times as long, and where both cores are free no longer than before. Who sets either is obeyed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error becomes one line on stderr."""
    debug = "--debug" in arguments  # wherever it stands: people add it to the end of the line that failed
    try:
        app([word for word in arguments if word != "--debug"], prog_name="gtcrec")
        sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:  # the reader, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        from gtcrec.cli.console import say

        if debug:
            traceback.print_exc()
        if isinstance(error, GtcrecError):
            say(f"error: {error}", style="red")
        else:
            say(f"error: {type(error).__name__}: {error}; run with --debug for the traceback", style="red")
        return 1
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"gtcrec {version('gtcrec')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command()
def train(
    data: Annotated[str, typer.Option("--data", help="A data folder or a file of interactions.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")],
    model: Annotated[
        str | None, typer.Option("--model", help="A name that `gtcrec models` lists; gtc if not given.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same as --set seed=N.")] = None,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
    max_failures: Failures = 3,
) -> None:
    """Train a model; Ctrl-C leaves a run that `gtcrec resume` goes on with."""
    from gtcrec.cli import train as cli_train
    from gtcrec.experiments.config import resolve

    seeds = [] if seed is None else [f"seed={seed}"]
    wanted = resolve(data, model, config, [*(settings or []), *seeds])
    cli_train.start(wanted, out, cli_train.cluster(engine, workers, ray_address, max_failures))


@app.command()
def resume(
    folder: RunFolder,
    data: DataPath = None,
    device: Device = None,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
    max_failures: Failures = 3,
) -> None:
    """Go on with an interrupted training, exactly where its last checkpoint stands; with any number of workers."""
    from gtcrec.cli import train as cli_train

    cli_train.go_on(folder, data, device, cli_train.cluster(engine, workers, ray_address, max_failures))


@app.command()
def evaluate(
    folder: RunFolder,
    data: DataPath = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a trained model on the test interactions: the one final call."""
    from gtcrec.cli.console import evaluation, print_json, print_table, say
    from gtcrec.experiments.run import Run
    from gtcrec.reporting.run_record import read

    Run.load(folder, data, device).evaluate()
    found = read(folder).result.test
    if found is None:
        raise RunError(f"{folder / 'report.json'}: wanted the test evaluation, found none")
    if as_json:
        print_json(found.model_dump())
    else:
        print_table(evaluation(found, f"test, {found.users:,} users, mean and 95 % interval"))
    say(f"report: {folder / 'report.html'}")


@app.command()
def recommend(
    folder: RunFolder,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", metavar="ID", help="A user's id in the data.")
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every user of the data.")] = False,
    liked: Annotated[
        list[str] | None,
        typer.Option("--liked", metavar="IDS", help="Someone who is not in the data: item ids, separated by commas."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists.")] = 10,
    form: Annotated[
        Literal["table", "json", "csv", "parquet"], typer.Option("--format", help="parquet needs --out.")
    ] = "table",
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file, not to stdout.")] = None,
    data: DataPath = None,
    device: Device = None,
    block_users: Annotated[
        int, typer.Option("--block-users", min=1, help="Of all users to parquet: users of a row group.")
    ] = 8192,
    engine: Engine = "local",
    workers: WorkerCount = 1,
    ray_address: RayAddress = "",
) -> None:
    """Print the best items for users, in the ids of the data; items seen in training are left out."""
    if [bool(user), all_users, bool(liked)].count(True) != 1:
        raise typer.BadParameter("wanted one of --user ID, once or more, --all-users, and --liked IDS")
    if form == "parquet" and out is None:
        raise typer.BadParameter("--format parquet needs --out FILE")
    in_bulk = all_users and form == "parquet"
    if engine == "ray" and not in_bulk:
        raise typer.BadParameter("--engine ray is for --all-users --format parquet")
    from gtcrec.cli.recommend import write_lists
    from gtcrec.experiments.run import Run
    from gtcrec.runtime.block_jobs import choose_executor

    run = Run.load(folder, data, device)
    if in_bulk and out is not None:
        _recommend_all(run, out, k, block_users, choose_executor(engine, workers, ray_address, run.config.train.device))
        return
    if liked:
        found = run.recommend_liked([one.split(",") for one in liked], k)
    else:
        found = run.recommend_table(run.dataset.users.index(run.dataset.users.ids if all_users else user or []), k)
    write_lists(found, run.dataset, form, out)


def _recommend_all(run: "Run", out: Path, k: int, block_users: int, executor: "Executor") -> None:
    from gtcrec.cli.console import counted, resumable, say
    from gtcrec.serving.batch import write_all_lists

    with resumable("the same command goes on from here"), counted("blocks of users") as on_block:
        rows = write_all_lists(run, out, k, block_users, executor, on_block)
    say(f"{rows:,} rows: {out}")


@app.command()
def compare(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR DIR...", help="Run folders; the first is the base.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help=f"Default: {', '.join(HEADLINE_METRICS)}.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page.")] = None,
    form: Annotated[Literal["table", "markdown", "latex", "json"], typer.Option("--format")] = "table",
    lists: Annotated[
        list[Path] | None, typer.Option("--lists", metavar="FILE", help="Others' lists: a TREC run or MMRec's top-k.")
    ] = None,
    data: DataPath = None,
) -> None:
    """Set runs side by side, with paired tests of each against the first (Holm-corrected)."""
    folders = folders or []
    if lists:
        if html:
            raise typer.BadParameter("--html shows run folders alone, without --lists")
        compare_lists(folders, lists, data, metric, form)
        return
    if len(folders) < 2:
        raise typer.BadParameter("wanted at least two run folders")
    from gtcrec.reporting.html import render_comparison

    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    runs = list(zip(names, folders, strict=True))
    tests = _compare(runs, metric, form)
    if html:
        from gtcrec.cli.console import say

        say(f"page: {render_comparison(runs, tests, html)}")


app.command()(ablate)
app.command()(benchmark)
app.command()(knockout)
app.command()(explain)
app.command()(missing)
app.command()(tune)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models with their presets and settings."""
    from gtcrec.cli.console import print_json, print_table, table
    from gtcrec.models.registry import MODELS, settings

    facts: dict[str, dict[str, Any]] = {
        name: {
            "about": entry.about,
            "presets": list(entry.presets),
            "settings": settings(name, {}).model_dump(mode="json"),
        }
        for name, entry in MODELS.items()
    }
    if as_json:
        print_json(facts)
        return
    rows = [[name, one["about"], ", ".join(one["presets"])] for name, one in facts.items()]
    details = [
        table([name, ""], [[key, str(value)] for key, value in one["settings"].items()])
        for name, one in facts.items()
        if one["settings"]
    ]
    print_table(table(["model", "", "presets"], rows, left=(0, 1, 2)), *details)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="At most so many epochs a model.")] = 20,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw a catalogue with planted tastes, train four models on it and compare them on test."""
    from gtcrec.cli.console import say
    from gtcrec.cli.train import train_here
    from gtcrec.data import write_catalogue
    from gtcrec.experiments.config import resolve
    from gtcrec.experiments.run import Run
    from gtcrec.reporting.html import render_comparison
    from gtcrec.reporting.run_record import read

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: wanted a new or empty folder, found one in use; give another with --out")
    data = write_catalogue(out / "catalogue", seed=seed)
    for model in DEMO_MODELS:
        say(f"{model}: training on {data}", style="bold")
        given = [*DEMO_SETTINGS, f"train.epochs={epochs}", f"seed={seed}"]
        run = Run.create(resolve(str(data), model, None, given), out / model)
        train_here(run)
        run.evaluate()
    runs = [(model, out / model) for model in ("gtc", *DEMO_MODELS[:-1])]
    page = render_comparison(runs, _compare(runs, None, "table"), out / "comparison.html")
    say("\n".join(["reports:", *(f"  {folder / 'report.html'}" for _, folder in runs), f"  {page}"]))
    score = {name: read(folder).final.means["ndcg@20"] for name, folder in runs}
    beaten = [name for name in ("popular", "bpr") if score["gtc"] > score[name]]
    if len(beaten) < 2:
        better = " and ".join(name for name in ("popular", "bpr") if name not in beaten)
        raise GtcrecError(f"gtc is not better than {better} on test ndcg@20: {_listed(score)}")
    say(f"gtc is better than popular and bpr on test ndcg@20: {_listed(score)}", style="green")


def _listed(score: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in score.items())


def _compare(runs: list[tuple[str, Path]], metrics: list[str] | None, form: str) -> "list[PairedDifference]":
    """Print the comparison of runs and return the paired tests."""
    from gtcrec.cli.console import comparison, differences, print_json, print_table
    from gtcrec.reporting.run_comparison import common_means, compare_to_first, mark, part_of
    from gtcrec.reporting.run_record import read
    from gtcrec.reporting.tables import runs_text

    records = [(name, read(folder)) for name, folder in runs]
    values = common_means(records)
    shared = list(values[0][1])
    wanted = metrics or [m for m in HEADLINE_METRICS if m in shared] or shared
    tests = compare_to_first(records, wanted)
    rows = mark(values, wanted, tests)
    part = part_of([record for _, record in records])
    if form == "json":
        print_json(_comparison_facts(records, values, wanted, part, tests))
    elif form == "table":
        title = f"{part}, means over users (* differs from {runs[0][0]}, Holm-corrected p < 0.05)"
        print_table(comparison(rows, wanted, title), differences(tests))
    else:
        sys.stdout.write(runs_text(rows, wanted, form) + "\n")
    return tests


def _comparison_facts(
    records: "list[tuple[str, RunRecord]]",
    values: list[tuple[str, dict[str, float]]],
    metrics: list[str],
    part: str,
    tests: "list[PairedDifference]",
) -> dict[str, Any]:
    folders = {name: str(record.folder) for name, record in records}
    rows = [{"name": name, "folder": folders[name], "means": {m: means[m] for m in metrics}} for name, means in values]
    return {"part": part, "base": values[0][0], "runs": rows, "tests": [vars(test) for test in tests]}
