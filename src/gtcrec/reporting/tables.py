"""Tables as Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtcrec.reporting.run_comparison import RankedMean

__all__ = ["Cell", "Table", "markdown_rows", "markdown_table", "runs_text"]


@dataclass(frozen=True)
class Cell:
    """A text of a table; `mark` is "", "*" or "ns"."""

    text: str
    best: bool = False
    second: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its title and a note; the first column holds names, `left` others that hold text."""

    title: str
    note: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: tuple[int, ...] = (0,)


def markdown_table(table: Table) -> list[str]:
    """Return a table with its title and note as lines of Markdown."""
    return [f"### {table.title}", "", table.note, "", *markdown_rows(table.headers, table.rows, table.left)]


def markdown_rows(headers: Sequence[str], rows: Sequence[Sequence[Cell]], left: Sequence[int] = (0,)) -> list[str]:
    """Return a header, its rule and rows as lines of Markdown; the columns at `left` hold text."""
    rule = ["---" if place in left else "---:" for place in range(len(headers))]
    body = [[_markdown_cell(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in ([_bare(h) for h in headers], rule, *body)]


def _bare(text: str) -> str:
    return text.replace("|", r"\|")


def _markdown_cell(cell: Cell) -> str:
    text = _bare(cell.text)
    text = f"**{text}**" if cell.best else f"<u>{text}</u>" if cell.second else text
    return text + {"": "", "*": r" \*", "ns": " ns"}[cell.mark]


def _latex_cell(cell: Cell) -> str:
    text = _tex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else rf"\underline{{{text}}}" if cell.second else text
    return text + {"": "", "*": "$^{*}$", "ns": r"$^{\mathrm{ns}}$"}[cell.mark]


_SPECIAL: Mapping[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": "$<$",
    "±": r"$\pm$",
    "–": "--",
}


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)


def runs_text(rows: Sequence[tuple[str, Sequence["RankedMean"]]], metrics: Sequence[str], kind: str) -> str:
    """Return the table of runs as `markdown` or `latex` (booktabs)."""

    def markdown(one: "RankedMean") -> str:
        text = f"{one.value:.4f}"
        text = f"**{text}**" if one.best else f"<u>{text}</u>" if one.second else text
        return text + (r"\*" if one.significant else "")

    def latex(one: "RankedMean") -> str:
        text = f"{one.value:.4f}"
        text = rf"\textbf{{{text}}}" if one.best else rf"\underline{{{text}}}" if one.second else text
        return text + ("$^{*}$" if one.significant else "")

    if kind == "markdown":
        lines = [["run", *metrics], ["---", *["---:"] * len(metrics)]]
        lines += [[name.replace("|", r"\|"), *map(markdown, cells)] for name, cells in rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    head = " & ".join(["Run", *(_latex(m) for m in metrics)])
    body = [" & ".join([_latex(name), *map(latex, cells)]) + r" \\" for name, cells in rows]
    start = [rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}", r"\toprule", head + r" \\", r"\midrule"]
    return "\n".join([*start, *body, r"\bottomrule", r"\end{tabular}"])


def _latex(text: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join({**special, "\\": r"\textbackslash{}"}.get(c, c) for c in text)
