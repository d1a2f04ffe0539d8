"""Two results of `side_by_side` compared, and one as the blocks of a page. Reads results only, measures nothing."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.blocks import Block

Result = dict[str, Any]
Spread = dict[str, float]

NAMES = {
    "gtc": "GTC, `embedding`",
    "gtc-released": "GTC, `released`",
    "freedom": "FREEDOM",
    "lightgcn": "LightGCN",
    "bpr": "BPR",
    "naive_gtc": "naive GTC",
}
HEADLINE_METRICS: dict[str, Callable[[Result], Spread]] = {
    "epoch, CPU-s": lambda one: one["costs"]["epoch"]["cpu"],
    "construction, CPU-s": lambda one: one["costs"]["construction"]["cpu"],
    "evaluation, CPU-s": lambda one: one["costs"]["evaluation"]["cpu"],
    "peak in training, MB": lambda one: {key: value / 1e6 for key, value in one["memory"]["training"].items()},
}
PHASES = ("load", "construction", "refresh", "draw", "forward", "backward", "optimiser", "step")


def compare(before: Result, after: Result) -> list[str]:
    """Lines with each candidate's medians before and after, their ratio, and whether the rounds overlap.

    Exits when the two were not measured on the same thing.
    """
    for key in ("size", "batch", "threads", "cores"):
        a, b = before["about"][key], after["about"][key]
        if a != b:
            raise SystemExit(f"the results differ in {key}: {a} before, {b} after")
    lines = [f"{'candidate':<14}{'what':<22}{'before':>10}{'after':>10}{'after/before':>14}"]
    for name in before["candidates"]:
        if name not in after["candidates"]:
            lines.append(f"{name:<14}only in the first")
            continue
        for what, get in HEADLINE_METRICS.items():
            a, b = get(before["candidates"][name]), get(after["candidates"][name])
            overlap = a["min"] <= b["max"] and b["min"] <= a["max"]
            ratio = b["median"] / a["median"]
            note = "  rounds overlap" if overlap else ""
            lines.append(f"{name:<14}{what:<22}{a['median']:>10.4g}{b['median']:>10.4g}{ratio:>14.3f}{note}")
    lines += [f"{name:<14}only in the second" for name in after["candidates"] if name not in before["candidates"]]
    return lines


def blocks(result: Result) -> dict[str, Block]:
    """Return the blocks of what `side_by_side` measured."""
    return {
        "about": _about(result),
        "targets": _targets(result),
        "epoch": _epoch(result),
        "phases": _phases(result),
        "evaluation": _evaluation(result),
        "loops": _loops(result),
        "user-graph": _user_graph(result),
        "kernels": _kernels(result),
        "floors": _floors(result),
    }


def _about(result: Result) -> Block:
    about, data, rates = result["about"], result["data"], result["machine"]["rates"]
    content = ", ".join(
        f"{m} ({width:,}{', random' * (m in data['content']['random'])})" for m, width in data["widths"].items()
    )
    lines = [
        f"Size `{about['size']}`: {data['users']:,} users, {data['items']:,} items, {data['train']:,} training pairs; "
        f"content: {content or 'none'}. {_count(len(result['rounds']), 'round')}; in each, every candidate once, "
        f"in random order, in a process of its own. {about['steps']} timed steps of {about['batch']:,} pairs a round, "
        f"after one that is not timed; {_count(about['passes'], 'evaluation pass', 'es')}. "
        f"{_count(about['cores'], 'core')}, {_count(about['threads'], 'thread')} used; load average "
        f"{min(about['load']):.1f} to {max(about['load']):.1f} around the rounds. "
        f"A float32 matrix product runs at {_shown(rates['sgemm_gflops'])} GFLOP/s, a copy at "
        f"{_shown(rates['copy_gbytes'])} GB/s (bytes read plus bytes written).",
        "",
        "Figures are medians over rounds, with the smallest and the largest in brackets.",
    ]
    if max(about["load"]) > about["threads"] + 0.5:
        lines += ["", "**Other work ran on the machine** during this run: read the ratios, not the seconds."]
    return Block(lines)


def _targets(result: Result) -> Block:
    rows = []
    for what, value, limit, form in _claims(result):
        met = "–" if value is None else "yes" if value <= limit else "no"
        rows.append((what, "not measured" if value is None else form(value), met))
    return Block((), ("target", "measured", "met"), rows, (0, 2))


def _claims(result: Result) -> Iterator[tuple[str, float | None, float, Callable[[float], str]]]:
    """(target, measured, the largest that meets it, how to show it)."""
    found, machine = result["candidates"], result["machine"]
    ours, loops = machine["evaluation"], machine["user_graph"]
    vs_naive, vs_freedom = _epoch_ratio(found, "naive_gtc"), _epoch_ratio(found, "freedom")
    gtc = found.get("gtc")
    peak = gtc["memory"]["training"]["median"] / 1e9 if gtc else None
    by_product, by_loop = _ratio(ours["ours"], ours["product"]), _ratio(ours["ours"], ours["loop"])

    def parts(value: float) -> str:
        return f"1/{1 / value:.1f}"

    yield "CPU time an epoch, GTC `default` : naive GTC, at most 1/25 (aim: 1/40)", vs_naive, 1 / 25, parts
    yield "CPU time an epoch, GTC `default` : FREEDOM, at most 1.5", vs_freedom, 1.5, "{:.2f}".format
    yield "Peak memory in training, GTC `default`, under 1.2 GB", peak, 1.2, "{:.2f} GB".format
    yield "Evaluation pass : bare matrix product, 64 numbers a vector, at most 2.5", by_product, 2.5, "{:.2f}".format
    if gtc:
        own = _ratio(gtc["costs"]["evaluation"], gtc["costs"]["product"])
        yield "Evaluation pass : bare matrix product, GTC `default`'s vectors, at most 2.5", own, 2.5, "{:.2f}".format
    yield "Evaluation pass : evaluator that loops over users, at most 1/5", by_loop, 1 / 5, parts
    yield "User graph in seconds, at most 10", loops["ours"]["cpu"]["median"], 10, "{:.2f} CPU-s".format


def _epoch(result: Result) -> Block:
    text = f"An epoch has {result['steps_an_epoch']} steps of {result['about']['batch']:,} pairs."
    naive, rows = result["candidates"].get("naive_gtc"), []
    for name, one in result["candidates"].items():
        epoch = one["costs"]["epoch"]
        times = f"{_ratio(naive['costs']['epoch'], epoch):.1f} ×" if naive else "–"
        peak = f"{one['memory']['training']['median'] / 1e6:,.0f}"
        rows.append((NAMES[name], _shown(epoch["cpu"]), _shown(epoch["wall"]), times, peak, f"{one['parameters']:,}"))
    return Block([text], ("", "CPU-s", "wall s", "naive GTC takes", "peak MB", "trained numbers"), rows)


def _phases(result: Result) -> Block:
    rows = [
        [NAMES[name], *(_shown(one["costs"][phase]["cpu"], 1000) for phase in PHASES)]
        for name, one in result["candidates"].items()
    ]
    return Block((), ("", *PHASES), rows)


def _evaluation(result: Result) -> Block:
    users = round(result["machine"]["evaluation"]["users"]["median"])
    phases = ("snapshot", "ranking", "evaluation", "product", "product_fresh")
    rows = []
    for name, one in result["candidates"].items():
        costs = one["costs"]
        shown = [_shown(costs[phase]["cpu"], 1000) for phase in phases]
        ratio = f"{_ratio(costs['evaluation'], costs['product']):.2f}"
        rows.append([NAMES[name], str(one["score_width"]), *shown, ratio])
    headers = ("", "vector", "snapshot", "ranking, metrics", "whole pass", "product", "product, fresh memory", "ratio")
    return Block([f"A pass ranks for {users:,} users."], headers, rows)


def _loops(result: Result) -> Block:
    ours = result["machine"]["evaluation"]
    sample = round(ours["sample"]["median"])
    return Block(
        [
            f"Random vectors of 64 numbers: ours {_shown(ours['ours']['cpu'])} CPU-s. A loop over users that sorts all "
            f"items and takes metric by metric: {_shown(ours['loop']['cpu'])} CPU-s, "
            f"{1 / _ratio(ours['ours'], ours['loop']):.1f} times as long. The shortest such loop, with a partial sort "
            f"and one walk along the list for all metrics: {_shown(ours['short_loop']['cpu'])} CPU-s, "
            f"{1 / _ratio(ours['ours'], ours['short_loop']):.1f} times as long. Both "
            f"(`benchmarks/speed/machine.py`) are extrapolated from {sample:,} users, on whom they agree with ours on "
            "every metric."
        ]
    )


def _user_graph(result: Result) -> Block:
    costs = result["machine"]["user_graph"]
    sample = round(costs["sample"]["median"])
    return Block(
        [
            f"The 40 most co-liked users of each user: one sparse product in blocks, {_shown(costs['ours']['cpu'])} "
            f"CPU-s; a loop over all pairs of users, {_shown(costs['loop']['cpu'])} CPU-s (extrapolated from "
            f"{_count(sample, 'user')}, on whom the two agree; each pair counted once)."
        ]
    )


def _kernels(result: Result) -> Block:
    rows = []
    for name, costs in result["machine"]["kernels"].items():
        both = [_shown(costs[kind]["cpu"], 1000) for kind in ("ours", "plain")]
        rows.append([name, *both, f"{1 / _ratio(costs['ours'], costs['plain']):.1f}"])
    return Block((), ("", "ours", "torch's", "torch's : ours"), rows)


def _floors(result: Result) -> Block:
    rates = result["machine"]["rates"]
    gflops, gbytes = (rates[key]["median"] for key in ("sgemm_gflops", "copy_gbytes"))
    rows = []
    for name, one in result["candidates"].items():
        work, moved = one["flops"] / 1e9, one["bytes_once"] / 1e6
        floors = work / gflops * 1000, moved / gbytes
        step = one["costs"]["step"]["cpu"]["median"] * 1000
        numbers = f"{work:,.2f}", f"{floors[0]:,.1f}", f"{moved:,.0f}", f"{floors[1]:,.1f}", f"{step:,.1f}"
        rows.append([NAMES[name], *numbers, f"{step / max(floors):.1f}"])
    headers = ("GFLOP", "at full rate, ms", "MB", "at full rate, ms", "step, CPU-ms", "step : larger floor")
    return Block((), ("", *headers), rows)


def _epoch_ratio(found: dict[str, Any], other: str) -> float | None:
    if "gtc" not in found or other not in found:
        return None
    return _ratio(found["gtc"]["costs"]["epoch"], found[other]["costs"]["epoch"])


def _ratio(cost: Result, other: Result) -> float:
    """Of the medians of CPU seconds."""
    return float(cost["cpu"]["median"] / other["cpu"]["median"])


def _shown(spread: Spread, factor: float = 1) -> str:
    low, middle, high = (_number(spread[key] * factor) for key in ("min", "median", "max"))
    return f"{middle} [{low}, {high}]"


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(n: int, word: str, ending: str = "s") -> str:
    return f"{n:,} {word}{ending * (n != 1)}"
