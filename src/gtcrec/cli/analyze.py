"""The commands that ask where a model's figures and scores come from: `ablate`, `knockout` and `explain`."""

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gtcrec.cli.options import DataPath, Device, RunFolder
from gtcrec.errors import ConfigError, RunError, nearest

if TYPE_CHECKING:
    from gtcrec.experiments.analysis.ablation import Effect, Plan, Row
    from gtcrec.experiments.analysis.explanation import Explanation, Reason, Survival, Taste
    from gtcrec.experiments.analysis.modality_importance import Knockout
    from gtcrec.experiments.run import Run
    from gtcrec.reporting.figures import Mark

__all__ = [
    "HEADLINE_METRICS",
    "Metrics",
    "Part",
    "ablate",
    "check_users",
    "choose_metrics",
    "explain",
    "knockout",
    "markdown_rows",
    "parse_seeds",
    "tables_of",
    "train_plan",
]

HEADLINE_METRICS = ("recall@20", "ndcg@20", "ndcg@5")
Metrics = Annotated[list[str] | None, typer.Option("--metric", help=f"Default: {', '.join(HEADLINE_METRICS)}.")]
Part = Literal["valid", "test"]


def ablate(
    data: Annotated[str, typer.Option("--data", help="A data folder or a file of interactions.")],
    out: Annotated[Path, typer.Option("--out", help="Where the runs and the table go.")],
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="Seeds of each variant.")] = "0,1,2",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Train this variant; once or more.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, of every variant.")
    ] = None,
    metric: Metrics = None,
    on: Annotated[Part, typer.Option("--on", help="test: the one final evaluation of each run.")] = "valid",
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing.")] = False,
) -> None:
    """Train GTC without each of its parts, over several seeds, and compare each with the whole.

    The same command goes on where it stopped. Several processes may share --out if --only or --seeds keep them apart;
    the table shows every variant and seed that has ended.
    """
    from gtcrec.cli.console import print_table, say
    from gtcrec.experiments.analysis.ablation import BASE, finished, plan, table

    chosen = plan(data, out, parse_seeds(seeds), only or (), settings or (), config)
    metrics = choose_metrics(metric, chosen.variants[0].config.evaluate.metrics)
    check_users(chosen, on)
    train_plan(chosen, on, table_only)
    runs = finished(chosen, on, metrics)
    if not runs:
        raise RunError(f"{out}: wanted runs that have been measured on {on}, found none")
    rows = table(chosen.variants, runs, metrics)
    print_table(*tables_of(rows, metrics, on, BASE))
    about = {"data": runs[0].data, "on": on, "users": len(runs[0].users), "base": BASE, "metrics": list(metrics)}
    say("\n".join(map(str, _write(out, rows, about))))


def knockout(
    folder: RunFolder,
    data: DataPath = None,
    device: Device = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the replacements.")] = 0,
    metric: Metrics = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replace the content of each modality under a trained model and show what it loses, on validation.

    noise: random rows of each column's mean and spread; constant: the mean row; other: another item's row.
    """
    from dataclasses import asdict

    from gtcrec.cli.console import print_json, print_table
    from gtcrec.experiments.analysis.modality_importance import knockout
    from gtcrec.experiments.run import Run

    run = Run.load(folder, data, device)
    metrics = choose_metrics(metric, run.config.evaluate.metrics)
    found = knockout(run, metrics, seed)
    if as_json:
        print_json({"on": "valid", **asdict(found)})
    else:
        print_table(*_knockout_tables(found, metrics))


def explain(
    folder: RunFolder,
    user: Annotated[str, typer.Option("--user", "-u", metavar="ID", help="A user's id in the data.")],
    item: Annotated[list[str], typer.Option("--item", "-i", metavar="ID", help="An item's id; once or more.")],
    data: DataPath = None,
    device: Device = None,
    nearest: Annotated[int, typer.Option("--nearest", min=0, help="How many liked items to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why a user gets an item: the parts of its score, what was kept of its content, the liked items near it.

    matters: the share of the item's content that counts for the user; its residual: what does not count.

    filtered: the share of the content that the filter keeps; its residual: what the filter turned aside.
    """
    from dataclasses import asdict

    from gtcrec.cli.console import print_json, print_table
    from gtcrec.experiments.analysis.explanation import explain
    from gtcrec.experiments.run import Run

    found = explain(Run.load(folder, data, device), user, item, nearest)
    if as_json:
        print_json(asdict(found))
    else:
        print_table(*_explanation_tables(found))


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a word such as "0,1,2"; others are wrong usage."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(map(int, words))) < len(words):
        raise typer.BadParameter(f"--seeds: wanted distinct whole numbers such as 0,1,2, found {text!r}")
    return [int(word) for word in words]


def choose_metrics(wanted: list[str] | None, measured: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted metrics, or the usual ones of those that are measured; refused if one is not measured."""
    for name in wanted or ():
        if name not in measured:
            raise ConfigError(f"{name!r} is not measured{nearest(name, measured)}; measured: {', '.join(measured)}")
    return tuple(wanted or [name for name in HEADLINE_METRICS if name in measured] or measured)


def check_users(plan: "Plan", on: Part) -> None:
    """Refuse a table that could not be made once all runs are trained: each seed draws its own validation users."""
    few = plan.variants[0].config.train.valid_users
    if on == "valid" and few and len({run.seed for run in plan.runs}) > 1:
        raise ConfigError(
            f"wanted the same validation users for every seed, found valid_users={few}; use --on test or 0"
        )


def train_plan(plan: "Plan", on: Part, table_only: bool) -> None:
    """Train what is missing and, if asked for, evaluate on test what has not been; a line for each run that ended."""
    from gtcrec.cli.console import resumable, say
    from gtcrec.experiments.analysis.ablation import is_finished, start_or_resume
    from gtcrec.reporting.run_record import read

    with resumable(f"the same command goes on from here, with the runs of {shlex.quote(str(plan.out))}"):
        for place, wanted in enumerate(plan.runs, 1):
            if not is_finished(wanted.folder):
                if table_only:
                    continue
                _watch(start_or_resume(wanted))
            record = read(wanted.folder)
            if on == "test" and record.result.test is None:
                start_or_resume(wanted).evaluate()
            name = wanted.config.train.valid_metric
            best = next((line for line in record.history if line.epoch == record.result.best_epoch), None)
            value = f"{name} {best.valid[name]:.4f} at epoch {best.epoch}" if best and best.valid else "no epoch"
            say(f"{place}/{len(plan.runs)}  {wanted.folder.name}  {value} of {record.result.epochs}")


def _watch(run: "Run") -> None:
    """Train a run to its end, with a bar on a terminal."""
    from gtcrec.cli.console import progress

    config, past = run.config.train, run.training.best
    best = past.valid[config.valid_metric] if past else None
    shown: Any = nullcontext((lambda epoch: None, lambda step, steps: None))
    if sys.stderr.isatty():
        shown = progress(config.epochs, config.valid_metric, run.epochs_done, best)
    with shown as (after_epoch, after_step):
        for epoch in run.epochs(after_step):
            after_epoch(epoch)


def _write(out: Path, rows: "list[Row]", about: dict[str, Any]) -> list[Path]:
    """Write the table as Markdown, its facts as JSON and, where matplotlib is installed, a plot; return their paths."""
    from dataclasses import asdict

    from gtcrec.experiments.analysis.ablation import BASE
    from gtcrec.reporting import figures
    from gtcrec.runtime.files import atomic_path, write_json, write_text

    write_text(out / "ablation.md", _page(rows, about))
    write_json(out / "ablation.json", {**about, "variants": [asdict(row) for row in rows]})
    panels = [(m, [mark for row in rows if (mark := _mark(row.name, row.effects.get(m)))]) for m in about["metrics"]]
    label = f"relative difference from {BASE}, %, {about['on']}; filled: p < 0.05"
    drawn = figures.forest(panels, label) if figures.available() else b""
    if not drawn:
        return [out / "ablation.md", out / "ablation.json"]
    with atomic_path(out / "ablation.svg") as temporary:
        temporary.write_bytes(drawn)
    return [out / name for name in ("ablation.md", "ablation.json", "ablation.svg")]


def _page(rows: "list[Row]", about: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"# Ablation on {about['data']}",
            "",
            f"Written by `gtcrec ablate`. Measured on {about['on']}, {about['users']:,} users. Each metric: mean over "
            "users and seeds ± standard deviation over seeds; then the relative difference from "
            f"`{about['base']}`, its 95 % bootstrap interval over users, and p (sign flips, Holm over variants). Users "
            "are paired, their values averaged over the seeds that both have. \\* p < 0.05.",
            "",
            *markdown_rows(rows, about["metrics"], about["base"]),
            "",
        ]
    )


def markdown_rows(rows: "list[Row]", metrics: list[str], base: str) -> list[str]:
    """Return the table as lines of Markdown; `base` names what each is compared with."""
    columns = ["variant", "what it is", *(word for m in metrics for word in (m, f"{m} against {base}"))]
    columns += ["seeds", "best epochs", "CPU-s an epoch", "parameters"]
    rule = ["---", "---", *["---:"] * (len(columns) - 2)]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *(_cells(row, metrics) for row in rows))]


def _cells(row: "Row", metrics: list[str]) -> list[str]:
    start = [row.name.replace("|", r"\|"), row.what.replace("|", r"\|")]
    if not row.effects:
        return [*start, _why_empty(row), *[""] * (2 * len(metrics) + 3)]
    cells = []
    for effect in map(row.effects.__getitem__, metrics):
        p = "" if effect.test is None else f", p {effect.test.p_holm:.4f}" + (r"\*" if effect.sure else "")
        cells += [_mean(effect), _relative(effect.relative, effect.interval) + p]
    return [*start, *cells, *_cost(row)]


def tables_of(rows: "list[Row]", metrics: tuple[str, ...], on: Part, base: str) -> list[Any]:
    """Return a table for each metric, and one of seeds and costs; `base` names what each is compared with."""
    from rich.markup import escape

    from gtcrec.cli.console import table

    made = []
    for metric in metrics:
        lines = []
        for row in rows:
            effect = row.effects.get(metric)
            if effect is None:
                lines.append([escape(row.name), _why_empty(row), "", ""])
                continue
            p = "" if effect.test is None else f"{effect.test.p_holm:.4f}{'*' if effect.sure else ' '}"
            lines.append([escape(row.name), _mean(effect), escape(_relative(effect.relative, effect.interval)), p])
        headers = ["variant", "mean ± sd over seeds", f"against {base}, 95 % interval", "p (Holm) "]
        made.append(table(headers, lines, f"{metric}, {on} (* p < 0.05)"))
    costs = [[escape(row.name), *_cost(row)] for row in rows if row.effects]
    return [*made, table(["variant", "seeds", "best epochs", "CPU-s an epoch", "parameters"], costs)]


def _why_empty(row: "Row") -> str:
    return f"the same as {row.same_as}" if row.same_as else "not finished"


def _cost(row: "Row") -> list[str]:
    """Seeds, best epochs, CPU seconds an epoch and parameters as text."""
    seeds = ", ".join(map(str, row.seeds))
    if row.paired != row.seeds:
        seeds += f" (paired: {', '.join(map(str, row.paired)) or 'none'})"
    best = ", ".join("-" if epoch is None else str(epoch) for epoch in row.best_epochs)
    return [seeds, best, "-" if row.cpu_seconds is None else f"{row.cpu_seconds:.2f}", f"{row.parameters:,}"]


def _mean(effect: "Effect") -> str:
    """The mean ± its standard deviation over seeds."""
    return f"{effect.mean:.4f}" + ("" if effect.sd is None else f" ± {effect.sd:.4f}")


def _relative(share: float | None, interval: tuple[float, float] | None) -> str:
    """A relative difference and its interval in per cent; "-" without one."""
    return "-" if share is None or interval is None else f"{share:+.1%} [{interval[0]:+.1%}, {interval[1]:+.1%}]"


def _mark(name: str, effect: "Effect | None") -> "Mark | None":
    from gtcrec.reporting.figures import Mark

    if effect is None or effect.relative is None or effect.interval is None:
        return None
    low, high = effect.interval
    return Mark(name, 100 * effect.relative, 100 * low, 100 * high, effect.sure)


def _knockout_tables(found: "Knockout", metrics: tuple[str, ...]) -> list[Any]:
    """The one table: a line a modality and kind, and for each metric its value and the relative loss."""
    from rich.markup import escape

    from gtcrec.cli.console import table

    by_row: dict[tuple[str, str], list[str]] = {}
    for one in found.losses:
        share = _relative(one.relative, one.interval) + ("*" if one.sure else " ")
        by_row.setdefault((one.modality, one.kind), []).extend([f"{one.mean:.4f}", escape(share)])
    intact = ["intact", "", *(cell for metric in metrics for cell in (f"{found.intact[metric]:.4f}", ""))]
    rows = [intact, *([escape(modality), kind, *cells] for (modality, kind), cells in by_row.items())]
    headers = ["content", "replaced by", *(cell for metric in metrics for cell in (metric, "against intact "))]
    title = f"validation, {found.users:,} users, 95 % interval (* Holm-corrected p < 0.05)"
    return [table(headers, rows, title, left=(0, 1))]


def _explanation_tables(found: "Explanation") -> list[Any]:
    """A table of the items, and for each that has parts one of those and one of the liked items near it."""
    from rich.markup import escape

    from gtcrec.cli.console import table

    rows = [
        [escape(str(one.item)), f"{one.score:.4f}", str(one.rank), "met" if one.met else "", escape(one.title)]
        for one in found.items
    ]
    title = f"{found.model}, user {found.user}: {found.met:,} items met in training, ranks among {found.unmet:,} others"
    made = [table(["item", "score", "rank", "", "title"], rows, title, left=(0, 3, 4))]
    for one in found.items:
        name = f"{one.item} {one.title}".rstrip()
        if one.parts:
            made.append(_parts_table(one, {taste.modality: taste for taste in found.tastes}, name))
        if one.nearest:
            near = [[escape(str(n.item)), f"{n.similarity:.4f}", escape(n.title)] for n in one.nearest]
            headers = ["item", "similarity", "title"]
            made.append(table(headers, near, f"liked items near {name}, in what the user keeps of both", left=(0, 2)))
    return made


def _parts_table(one: "Reason", tastes: "dict[str, Taste]", name: str) -> Any:
    """A line a view: its part of the score; for a modality also the user's taste and what was kept."""
    from rich.markup import escape

    from gtcrec.cli.console import number, table

    kept = {part.modality: part for part in one.kept}
    rows = []
    for place, part in enumerate(one.parts):
        cells = [escape(part.view), f"{part.value:+.4f}", f"{part.percent:.1f}%"]
        taste = tastes.get(part.view) if place else None  # the first is the identity, whatever a modality is called
        if taste:
            here = kept.get(taste.modality)
            matters, filtered = (here.matters, here.filtered) if here else (None, None)
            cells += [number(taste.weight), *_survival(matters), *_survival(filtered), _mix(taste)]
        rows.append(cells)
    headers = ["view", "part", "of score", "weight", "matters", "residual", "filtered", "residual", "user's prototypes"]
    return table(headers, rows, f"score of {name}", left=(0, 8))


def _survival(one: "Survival | None") -> list[str]:
    return ["-", "-"] if one is None else [f"{one.along:.1%}", f"{one.residual:.1%}"]


def _mix(taste: "Taste") -> str:
    """The largest prototypes of a mix, by number."""
    order = sorted(enumerate(taste.prototypes, 1), key=lambda pair: -pair[1])
    return ", ".join(f"{k}: {share:.0%}" for k, share in order[:3])
