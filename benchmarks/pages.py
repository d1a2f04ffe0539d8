"""Write what was measured between the marks of the pages: of docs/results, of docs/content.md and of the README."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.accuracy import peers, planned
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
    plans = {page: plan for plan, page in planned.PLANS.items() if page in chosen}
    computed = [name for name in chosen if name.startswith("peers") or name == "README.md"]
    for page, plan in plans.items():
        stored = RESULTS / f"{Path(page).stem}.json"
        yield PAGES / page, (read_blocks(stored) if stored.exists() else {}) | planned.blocks(plan)
    for name in chosen:
        if name not in computed and name not in plans:
            path, measurement = OTHERS.get(name, (PAGES / name, Path(name).stem))
            yield (
                path,
                {key: without_withdrawn(one) for key, one in read_blocks(RESULTS / f"{measurement}.json").items()},
            )
    if computed:
        for name, blocks in peers.blocks(_data_sets(computed)).items():
            if name in computed:
                yield OTHERS[name][0] if name in OTHERS else PAGES / name, blocks


def without_withdrawn(block: Block) -> Block:
    """Return a stored table without the rows of models that are withdrawn, and with a sentence that names them."""
    models = {
        place: str(row[0]).partition(" ")[0].strip("*").lower().rstrip(",") for place, row in enumerate(block.rows)
    }
    if not any("@" in header for header in block.headers):
        return block  # what a model costs does not depend on how well it recommends
    gone = list(dict.fromkeys(name for name in models.values() if name in peers.WITHDRAWN))
    if not gone:
        return block
    rows = [row for place, row in enumerate(block.rows) if models[place] not in gone]
    reasons = "; ".join(f"`{name}`, as {peers.WITHDRAWN[name]}" for name in gone)
    return replace(block, rows=rows, text=[*block.text, f"Withdrawn until measured again: {reasons}."])


def _data_sets(pages: Sequence[str]) -> list[str]:
    """The data sets that pages need; none stands for all."""
    if {"peers.md", "README.md"} & set(pages):
        return []
    return [
        data
        for data in peers.read_plan(Path("data")).data
        if f"peers-{data}.md" in pages or f"peers-{data}-tuning.md" in pages
    ]
