"""The tables of a benchmark as rows of marked cells, and as Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import replace

from gtcrec.evaluation.metrics import headline_cut
from gtcrec.experiments.benchmark.results import Results, Row
from gtcrec.experiments.measured_run import Estimate
from gtcrec.reporting.run_comparison import annotate_ranks
from gtcrec.reporting.tables import Cell, Table, latex_lines, markdown_lines

__all__ = ["about", "headline", "latex", "markdown", "tables"]

_LEGEND = (
    "Best in bold, second underlined. * differs from {base} with p < 0.05, ns does not, over users and over users and "
    "seeds: the larger p, after Holm's correction over all models and metrics."
)


def tables(found: Results) -> list[Table]:
    """Return a data set's tables: means, tests, lists as a whole, a table of slices a headline metric, costs."""
    made = [_means(found), _tests(found), _lists(found)]
    made += [_slices(found, metric) for metric in headline(found)]
    return [table for table in [*made, _costs(found)] if table.rows]


def headline(found: Results) -> list[str]:
    """Return the metrics that slices and plots show: recall and ndcg at 20 where they are in the table."""
    cut = headline_cut(found.metrics)
    return [m for m in (f"recall@{cut}", f"ndcg@{cut}") if m in found.metrics] or [found.metrics[0]]


def markdown(found: Sequence[Results]) -> str:
    """Return all tables of all data sets as a Markdown page."""
    lines = ["# Benchmark", "", "Written by `gtcrec benchmark`. Everything was chosen on validation; test figures."]
    for one in found:
        lines += ["", f"## {one.data}", "", about(one), *_unfinished(one)]
        for table in tables(one):
            lines += ["", *markdown_lines(table)]
    return "\n".join(lines) + "\n"


def latex(found: Sequence[Results]) -> str:
    r"""Return all tables as LaTeX floats that want \usepackage{booktabs}."""
    lines = [r"% Written by gtcrec benchmark; wants \usepackage{booktabs}."]
    for one in found:
        for table in tables(one):
            lines += ["", *latex_lines(replace(table, title=f"{one.data}: {table.title}"))]
    return "\n".join(lines) + "\n"


def about(found: Results) -> str:
    """Return a sentence about the data and the protocol."""
    if found.about is None:
        return "No run has ended."
    counts, masked = found.about.data.counts, " and ".join(found.about.final.context.masked)
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions. Full ranking "
        f"of all items for {found.users:,} users with a test item, {masked} items masked."
    )


def _unfinished(found: Results) -> list[str]:
    return ["", f"Not finished: {', '.join(found.missing)}."] if found.missing else []


def _means(found: Results) -> Table:
    """Mean ± sd over seeds of each metric."""
    values = [(row.name, {m: row.estimates[m].mean for m in found.metrics}) for row in found.rows]
    rows = []
    for row, (name, *cells) in zip(found.rows, annotate_ranks(values, found.metrics), strict=True):
        line = [name]
        for metric, cell in zip(found.metrics, cells, strict=True):
            one = row.estimates[metric]
            line.append(replace(cell, text=_mean_text(one), mark=_significance(one)))
        rows.append((*line, Cell(", ".join(map(str, row.seeds)))))
    note = f"Mean over users and seeds ± standard deviation over seeds. {_LEGEND.format(base=found.base)}"
    return Table("Means", note, ("model", *found.metrics, "seeds"), tuple(rows))


def _tests(found: Results) -> Table:
    """Each model and metric: mean with interval, difference from the base with interval, p."""
    rows = []
    for metric in found.metrics:
        for row in found.rows:
            one = row.estimates[metric]
            means = [Cell(f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]"), Cell(_bounds(one.seed_interval))]
            rows.append((Cell(row.name), Cell(metric), *means, *_test_cells(one)))
    note = (
        f"95 % intervals: bootstraps over users, then over users and seeds (– for a single run). Differences are the "
        f"model's mean less that of {found.base}; as a share of the latter with the wider interval. p over users is of "
        "paired sign flips. * p < 0.05 of the larger p, after Holm's correction over all models and metrics; ns not "
        "significant."
    )
    against = f"against {found.base}"
    headers = ("model", "metric", "mean", "and seeds", against, "and seeds", "relative", "p", "and seeds", "p (Holm)")
    return Table("Paired tests", note, headers, tuple(rows), (0, 1))


def _test_cells(one: Estimate) -> list[Cell]:
    """A comparison with the base: difference, its interval over seeds too, share, both p, p after correction."""
    if one.against is None:
        return [Cell("–")] * 6
    test, relative, _ = one.against
    (low, high), share = test.interval, one.against.wider_interval
    return [
        Cell(f"{test.difference:+.4f} [{low:+.4f}, {high:+.4f}]"),
        Cell(_bounds(test.seed_interval, "+.4f")),
        Cell("–" if relative is None or share is None else f"{relative:+.1%} {_bounds(share, '+.1%')}"),
        Cell(f"{test.p:.4f}"),
        Cell("–" if test.p_seeds is None else f"{test.p_seeds:.4f}"),
        Cell(f"{test.p_holm:.4f}", mark=_significance(one)),
    ]


def _bounds(interval: tuple[float, float] | None, form: str = ".4f") -> str:
    return "–" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def _lists(found: Results) -> Table:
    names = list(dict.fromkeys(name for row in found.rows for name in row.lists))
    rows = [(Cell(row.name), *(_number_cell(row.lists.get(name)) for name in names)) for row in found.rows]
    note = "Coverage: share of the items that stand in any list. Means over seeds."
    return Table("Lists as a whole", note, ("model", *names), tuple(rows) if names else ())


def _slices(found: Results, metric: str) -> Table:
    groups = list(dict.fromkeys(group for row in found.rows for group in row.slices))
    values = [(row.name, {group: row.slices.get(group, {}).get(metric) for group in groups}) for row in found.rows]
    rows = annotate_ranks(values, groups)
    users = {
        group: next(int(row.slices[group]["users"]) for row in found.rows if group in row.slices) for group in groups
    }
    note = (
        "Means over seeds. Only liked items of the group count: cold (no training pair), head (the most popular fifth "
        "of the others), tail (the rest). Users: thirds by training pairs, low to high. In brackets the users of each."
    )
    headers = ("model", *(f"{group} ({users[group]:,})" for group in groups))
    return Table(f"Slices, {metric}", note, headers, tuple(rows) if groups else ())


def _costs(found: Results) -> Table:
    rows = tuple((Cell(row.name), *map(Cell, _cost_texts(row))) for row in found.rows)
    bare = min((row.costs["bare_bytes"] for row in found.rows), default=0)
    note = (
        "Means over seeds, in seconds of CPU over all cores. Set-up: reading the data, graphs, solutions in closed "
        "form. An evaluation: one full ranking on validation with its metrics. Peak memory: the most that a run's "
        f"process had at once, of which {_megabytes(bare)} MB are Python and its libraries."
    )
    headers = ("set-up", "an epoch", "epochs", "best epoch", "total training", "an evaluation", "peak MB", "parameters")
    return Table("Costs", note, ("model", *headers), rows)


def _cost_texts(row: Row) -> list[str]:
    """A model's costs in the order of the table."""
    costs = row.costs
    epoch, valid = costs["epoch_cpu_seconds"], costs["eval_seconds"]
    return [
        f"{costs['setup_cpu_seconds']:.1f}",
        "–" if epoch is None else f"{epoch:.2f}",
        f"{costs['epochs']:.0f}" if costs["epochs"] else "–",
        ", ".join(str(epoch) for epoch in costs["best_epochs"] if epoch is not None) or "–",
        f"{costs['total_cpu_seconds']:,.1f}",
        "–" if valid is None else f"{valid:.2f}",
        _megabytes(costs["peak_bytes"]),
        f"{costs['parameters']:,}",
    ]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f}"


def _mean_text(one: Estimate) -> str:
    return f"{one.mean:.4f}" + ("" if one.sd is None else f" ± {one.sd:.4f}")


def _significance(one: Estimate) -> str:
    return "" if one.against is None else "*" if one.significant else "ns"


def _number_cell(value: float | None) -> Cell:
    return Cell("–" if value is None else f"{value:.4f}")
