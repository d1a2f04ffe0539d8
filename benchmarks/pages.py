"""Write what was measured between the marks of the pages: of docs/results, of docs/content.md and of the README."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy import peers
from benchmarks.blocks import Block, fill_page, read_blocks
from benchmarks.paths import PAGES, RESULTS, ROOT
from gtcrec.runtime.files import write_text

OTHERS = {"content.md": (ROOT / "docs/content.md", "encode"), "README.md": (ROOT / "README.md", "")}


def update_pages(only: Sequence[str] = ()) -> list[Path]:
    """Rewrite the pages, or those named; return those that have changed."""
    changed = []
    for path, blocks in page_blocks(only):
        before = path.read_text(encoding="utf-8")
        after = fill_page(before, blocks, path.name)
        if after != before:
            write_text(path, after)
            changed.append(path)
    return changed


def page_blocks(only: Sequence[str] = ()) -> Iterator[tuple[Path, dict[str, Block]]]:
    """Yield each page with its blocks; those that the stored runs make take a minute or two, so they come last."""
    names = [*(path.name for path in sorted(PAGES.glob("*.md"))), *OTHERS]
    chosen = [name for name in names if not only or name in only]
    computed = [name for name in chosen if name.startswith("peers") or name == "README.md"]
    for name in chosen:
        if name not in computed:
            path, measurement = OTHERS.get(name, (PAGES / name, Path(name).stem))
            yield path, read_blocks(RESULTS / f"{measurement}.json")
    if computed:
        for name, blocks in peers.blocks(_data_sets(computed)).items():
            if name in computed:
                yield OTHERS[name][0] if name in OTHERS else PAGES / name, blocks


def _data_sets(pages: Sequence[str]) -> list[str]:
    """The data sets that pages need; none stands for all."""
    if {"peers.md", "README.md"} & set(pages):
        return []
    return [
        data
        for data in peers.read_plan(Path("data")).data
        if f"peers-{data}.md" in pages or f"peers-{data}-tuning.md" in pages
    ]
