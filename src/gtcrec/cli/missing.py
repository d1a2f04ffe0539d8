"""The command that asks what models are worth on an incomplete catalogue: `missing`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtcrec.cli.analyze import (
    Part,
    check_users,
    choose_metrics,
    markdown_rows,
    parse_seeds,
    tables_of,
    train_plan,
)
from gtcrec.errors import RunError

if TYPE_CHECKING:
    from gtcrec.experiments.analysis.ablation import Effect, Row
    from gtcrec.experiments.analysis.missing_modalities import Point
    from gtcrec.reporting.figures import Curve, Mark

__all__ = ["missing"]

BASE = "share 0"


def missing(
    data: Annotated[str, typer.Option("--data", help="A data folder or a file of interactions.")],
    out: Annotated[Path, typer.Option("--out", help="Where the runs and the table go.")],
    model: Annotated[str, typer.Option("--model", help="A name that `gtcrec models` lists.")] = "gtc",
    also: Annotated[list[str] | None, typer.Option("--also", metavar="MODEL", help="Another; once or more.")] = None,
    shares: Annotated[str, typer.Option("--shares", metavar="X,X,...", help="Shares to hide.")] = "0,0.3,0.6,0.9",
    modality: Annotated[
        list[str] | None,
        typer.Option("--modality", metavar="NAME", help="Hide it; A+B: both. Default: each alone, and all together."),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="Seeds of each point.")] = "0,1,2",
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, of every model; MODEL:KEY=VALUE: of one."),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Default: ndcg@20.")] = None,
    on: Annotated[Part, typer.Option("--on", help="test: the one final evaluation of each run.")] = "valid",
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing.")] = False,
) -> None:
    """Hide a share of the items' content, train models anew on what is left, and draw what they lose.

    What is hidden is drawn from the seed and the modality's name; a larger share hides what a smaller one does, and
    more. The same command goes on where it stopped. Several processes may share --out if --seeds or --modality keep
    them apart; the table shows what the command names, of every seed that has ended.
    """
    from gtcrec.cli.console import print_table, say
    from gtcrec.experiments.analysis.ablation import finished
    from gtcrec.experiments.analysis.missing_modalities import plan, table

    study = plan(
        data, out, [model, *(also or ())], _shares(shares), parse_seeds(seeds), modality or (), settings or (), config
    )
    metrics = choose_metrics(metric or ["ndcg@20"], study.plan.variants[0].config.evaluate.metrics)
    check_users(study.plan, on)
    train_plan(study.plan, on, table_only)
    runs = finished(study.plan, on, metrics)
    if not runs:
        raise RunError(f"{out}: wanted runs that have been measured on {on}, found none")
    found = table(study, runs, metrics)
    print_table(*tables_of([row for _, row in found], metrics, on, BASE))
    about = {"data": runs[0].data, "on": on, "users": len(runs[0].users), "base": BASE, "metrics": list(metrics)}
    say("\n".join(map(str, _write(out, found, about))))


def _shares(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--shares: wanted numbers such as 0,0.3,0.6,0.9, found {text!r}") from None


def _write(out: Path, found: "list[tuple[Point, Row]]", about: dict[str, Any]) -> list[Path]:
    """Write the table as Markdown, its facts as JSON and Parquet and, with matplotlib, a plot; return their paths."""
    from dataclasses import asdict

    import pyarrow.parquet as pq

    from gtcrec.experiments.analysis.missing_modalities import parquet
    from gtcrec.reporting import figures
    from gtcrec.runtime.files import atomic_path, write_json, write_text

    panels = [(metric, _curves(found, metric)) for metric in about["metrics"]]
    label = f"items whose content is hidden, %; {about['on']}; 95 % paired interval; filled: p < 0.05"
    drawn = figures.missing_curves(panels, label) if figures.available() else b""
    if drawn:
        with atomic_path(out / "missing.svg") as temporary:
            temporary.write_bytes(drawn)
    points = [{"model": p.model, "hidden": p.hidden, "share": p.share, **asdict(row)} for p, row in found]
    write_text(out / "missing.md", _page([row for _, row in found], about, bool(drawn)))
    write_json(out / "missing.json", {**about, "points": points})
    with atomic_path(out / "missing.parquet") as temporary:
        pq.write_table(parquet(found), temporary)
    return [out / f"missing.{end}" for end in ("md", "json", "parquet", *(["svg"] if drawn else []))]


def _page(rows: "list[Row]", about: dict[str, Any], drawn: bool) -> str:
    return "\n".join(
        [
            f"# Missing content on {about['data']}",
            "",
            f"Written by `gtcrec missing`. Measured on {about['on']}, {about['users']:,} users. Every model was "
            "trained anew on what was left, and scored with it. Each metric: mean over users and seeds ± standard "
            f"deviation over seeds; then the relative difference from the same model at {about['base']}, its 95 % "
            "bootstrap interval over users, and p (sign flips, Holm over a model's lines). Users are paired, their "
            "values averaged over the seeds that both have; each seed hides other items. \\* p < 0.05.",
            "",
            *(["![What is lost as content is hidden](missing.svg)", ""] if drawn else []),
            *markdown_rows(rows, about["metrics"], about["base"]),
            "",
        ]
    )


def _curves(found: "list[tuple[Point, Row]]", metric: str) -> "list[Curve]":
    """A curve a model and what is hidden, from share 0; those with no point beyond it are left out."""
    from gtcrec.reporting.figures import Curve

    starts = {
        point.model: (0.0, _mark(row.effects[metric])) for point, row in found if not point.hidden and row.effects
    }
    beyond: dict[tuple[str, str], list[tuple[float, Mark]]] = {}
    for point, row in found:
        if point.hidden and row.effects:
            place = (100 * point.share, _mark(row.effects[metric]))
            beyond.setdefault((point.model, point.hidden), []).append(place)
    return [
        Curve(model, hidden, [*([starts[model]] if model in starts else []), *points])
        for (model, hidden), points in beyond.items()
    ]


def _mark(effect: "Effect") -> "Mark":
    """The mean with the paired interval around it; without a test, no interval."""
    from gtcrec.reporting.figures import Mark

    if effect.test is None:
        return Mark("", effect.mean, effect.mean, effect.mean, False)
    low, high = (effect.mean - effect.test.difference + bound for bound in effect.test.interval)
    return Mark("", effect.mean, low, high, effect.sure)
