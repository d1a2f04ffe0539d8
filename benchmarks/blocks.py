"""The generated parts of pages: a sentence, a table, or both; kept as JSON beside the measured runs.

A page is written by hand. What a measurement fills in stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gtcrec.runtime.files import write_json

_BLOCK = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
_RULE = re.compile(r"^\|[ :|-]+\|$")


@dataclass(frozen=True)
class Block:
    """Lines of Markdown, then a table whose cells are Markdown; its columns at `left` hold text, the others numbers.

    `measurement` says which measurement it is from.
    """

    text: Sequence[str] = ()
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default=())
    left: Sequence[int] = (0,)
    measurement: str = ""

    def lines(self) -> list[str]:
        """Return the block as Markdown."""
        if not self.headers:
            return list(self.text)
        rule = ["---" if place in self.left else "---:" for place in range(len(self.headers))]
        table = [
            "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
            for cells in (self.headers, rule, *self.rows)
        ]
        return [*self.text, *([""] if self.text else []), *table]


def read_blocks(path: Path) -> dict[str, Block]:
    """Read the blocks of a page by their names."""
    return {name: Block(**block) for name, block in json.loads(path.read_text(encoding="utf-8")).items()}


def store_blocks(path: Path, measurement: str, blocks: Mapping[str, Block]) -> Path:
    """Store blocks with a sentence that says which measurement they are from; other blocks stay. Return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = {name: replace(block, measurement=measurement) for name, block in blocks.items()}
    stored = (read_blocks(path) if path.exists() else {}) | new
    write_json(path, {name: asdict(block) for name, block in stored.items()})
    return path


def parse_table(markdown: Sequence[str]) -> Block:
    """Return the first table among lines of Markdown as a block."""
    lines = [line for line in markdown if line.startswith("|")]
    rule = next(place for place, line in enumerate(lines) if _RULE.match(line))
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    left = [place for place, mark in enumerate(cells[rule]) if not mark.endswith(":")]
    return Block((), cells[rule - 1], cells[rule + 1 :], left)


def fill_page(text: str, blocks: Mapping[str, Block], page: str) -> str:
    """Return a page with the named blocks between their marks. Exits when a mark names no block."""

    def written(match: re.Match[str]) -> str:
        name = match[1]
        if name not in blocks:
            raise SystemExit(f"{page}: no table {name!r}; measured: {', '.join(blocks)}")
        return "\n".join([f"<!-- table: {name} -->", *blocks[name].lines(), "<!-- end -->"])

    return _BLOCK.sub(written, text)


def outside_marks(text: str) -> str:
    """Return what was written by hand on a page."""
    return _BLOCK.sub("", text)
