"""One table of cells, as Markdown and LaTeX; the command line and the pages render the same cells.

>>> table = Table("", "", ("run", "ndcg@20"), ((Cell("gtc"), Cell("0.1235", best=True, mark="*")),))
>>> print("\\n".join(markdown_lines(table)))
| run | ndcg@20 |
| --- | ---: |
| gtc | **0.1235** \\* |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Cell", "Table", "latex_lines", "markdown_lines"]


@dataclass(frozen=True)
class Cell:
    """A text of a table; `mark` is "", "*" or "ns", `detail` stands small beside the text."""

    text: str
    best: bool = False
    second: bool = False
    mark: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its title and a note, "" for none; the first column holds names, `left` others that hold text."""

    title: str
    note: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: tuple[int, ...] = (0,)


class _Format(NamedTuple):
    escape: Callable[[str], str]
    bold: str
    underlined: str
    marks: Mapping[str, str]

    def cell(self, cell: Cell) -> str:
        text = self.escape(cell.text)
        text = self.bold.format(text) if cell.best else self.underlined.format(text) if cell.second else text
        return text + self.marks[cell.mark] + (f" ({self.escape(cell.detail)})" if cell.detail else "")


def markdown_lines(table: Table) -> list[str]:
    """Return a table with its title and note as lines of Markdown."""
    rule = ["---" if place in table.left else "---:" for place in range(len(table.headers))]
    body = [[_MARKDOWN.cell(cell) for cell in row] for row in table.rows]
    head = [f"### {table.title}", ""] if table.title else []
    head += [table.note, ""] if table.note else []
    return head + [f"| {' | '.join(line)} |" for line in (map(_escape_markdown, table.headers), rule, *body)]


def latex_lines(table: Table) -> list[str]:
    r"""Return a table as lines of LaTeX that need \usepackage{booktabs}: a float with a caption if it has a title."""
    columns = "".join("l" if place in table.left else "r" for place in range(len(table.headers)))
    head, *body = ([*map(_escape_latex, table.headers)], *([_LATEX.cell(cell) for cell in row] for row in table.rows))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    lines += [*(" & ".join(row) + r" \\" for row in body), r"\bottomrule", r"\end{tabular}"]
    if not table.title:
        return lines
    caption = _escape_latex(". ".join(filter(None, (table.title, table.note))))
    return [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", *lines, r"\end{table}"]


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|")


_SPECIAL: Mapping[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": "$<$",
    "±": r"$\pm$",
    "–": "--",
}


def _escape_latex(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)


_MARKDOWN = _Format(_escape_markdown, "**{}**", "<u>{}</u>", {"": "", "*": r" \*", "ns": " ns"})
_LATEX = _Format(
    _escape_latex,
    r"\textbf{{{}}}",
    r"\underline{{{}}}",
    {"": "", "*": "$^{*}$", "ns": r"$^{\mathrm{ns}}$"},
)
