"""Tune every model of peers.yaml alike; write docs/results/peers*.md and the README's table from what was measured.

    python benchmarks/peers.py tune ml100k             # goes on where it stopped; what was found to benchmarks/tuned
    gtcrec benchmark benchmarks/peers.yaml --only ml100k
    python benchmarks/peers.py write

Tuning sees no test pair. A data set on which all models are tuned goes into peers.yaml; once all are measured it has
a page.
"""

import argparse
import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from gtcrec.experiments.benchmark.plan import BenchmarkConfig, Plan, plan, read_file
from gtcrec.experiments.benchmark.results import Results, measured, results
from gtcrec.experiments.benchmark.tables import about, tables
from gtcrec.experiments.tuning import study as tune
from gtcrec.reporting.tables import Cell, markdown_rows, markdown_table
from gtcrec.runtime.files import write_text

FILE, TUNED, STUDIES, PAGES = (
    Path(name) for name in ("benchmarks/peers.yaml", "benchmarks/tuned", "runs/tune", "docs/results")
)
TRIALS = 12
BUDGETS = {  # of a trial: about 2,000 steps at most, 1,000 without a better validation (SMORE and MGCN fall at first)
    "tiktok": ["epochs=60", "valid_every=3", "patience=13"],
    "sports": ["epochs=20", "valid_every=1", "patience=10"],
    "ml100k": ["epochs=60", "valid_every=3", "patience=9"],
}
SHOWN = ("recall@20", "ndcg@20")
README, IN_README = Path("README.md"), ("recall@20", "ndcg@5")  # the whole list, and the head that the paper speaks of


def main() -> None:
    config = read_file(FILE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    tune_ = verbs.add_parser("tune")
    tune_.add_argument("data", choices=BUDGETS)
    tune_.add_argument("models", nargs="*", default=list(config.models), help="not all of them")
    verbs.add_parser("write")
    given = parser.parse_args()
    if given.verb == "tune":
        for name in given.models:
            search(given.data, name)
    else:
        for path, lines in pages(config):
            write_text(path, "\n".join(lines) + "\n")
            print(path)


def study(data: str, name: str) -> tune.Plan:
    return tune.plan(f"data/{data}", name, STUDIES / data / name, TRIALS, BUDGETS[data])


def search(data: str, name: str) -> None:
    """Tune a model and keep its best settings."""
    planned = study(data, name)
    for trial in tune.tune(planned):
        print(data, name, f"{trial.number}/{planned.wanted}", trial.value, dict(trial.settings), flush=True)
    best = yaml.safe_load((planned.out / "best.yaml").read_text(encoding="utf-8"))
    kept = {key: best[key] for key in ("model", "settings", "train")}
    (TUNED / data).mkdir(parents=True, exist_ok=True)
    write_text(TUNED / data / f"{name}.yaml", yaml.safe_dump(kept, sort_keys=False))
    write_text(TUNED / data / f"{name}.csv", (planned.out / "trials.csv").read_text(encoding="utf-8"))


def page_of(data: str) -> Path:
    return PAGES / f"peers-{data}.md"


def tuning_page_of(data: str) -> Path:
    return PAGES / f"peers-{data}-tuning.md"


def pages(config: BenchmarkConfig) -> Iterator[tuple[Path, Iterator[str]]]:
    """The pages of each data set on which all is there that they show, then that on all; others stay as they are."""
    for data in BUDGETS:
        searches = {name: TUNED / data / f"{name}.csv" for name in config.models}
        lacking = [name for name, path in searches.items() if not path.exists()]
        if lacking:
            print(f"{tuning_page_of(data)} stays as it is: {len(lacking)} of {len(searches)} models lack trials")
        else:
            yield tuning_page_of(data), tuning(data, searches)
    chosen = plan(config, Path(config.out))
    whole = []
    for data, wanted in chosen.runs.items():
        found = results(chosen, data, measured(wanted))
        if found.missing:
            print(f"{page_of(data)} stays as it is: {len(found.missing)} of {len(wanted)} runs are not here")
        else:
            whole.append(found)
            yield page_of(data), tested(found)
    yield PAGES / "peers.md", summary(chosen)
    if whole:
        yield README, readme(whole)


def readme(found: Sequence[Results]) -> Iterator[str]:
    """The README with its table: a model a line, two metrics of each data set on which all runs are there."""
    lines = README.read_text(encoding="utf-8").splitlines()
    start, end = lines.index("<!-- peers -->"), lines.index("<!-- end of peers -->")
    yield from lines[: start + 1]
    yield from joined(found)
    yield from lines[end:]


def joined(found: Sequence[Results]) -> list[str]:
    """Columns of the tables of means, without the deviations."""
    headers, columns = ["model"], [[Cell(row.name) for row in found[0].rows]]
    for one in found:
        means = next(table for table in tables(one) if table.title == "Means")
        for metric in IN_README:
            cells = [row[means.headers.index(metric)] for row in means.rows]
            headers.append(f"{one.data} {metric}")
            columns.append([dataclasses.replace(cell, text=cell.text.partition(" ")[0]) for cell in cells])
    return markdown_rows(headers, list(zip(*columns, strict=True)))


def summary(chosen: Plan) -> Iterator[str]:
    config = chosen.config
    patience = ", ".join(f"{wanted[0].config.train.patience} on `{data}`" for data, wanted in chosen.runs.items())
    yield "# All models, tuned alike"
    yield ""
    yield "Written by `benchmarks/peers.py write`; do not edit. Test figures."
    yield ""
    yield (
        f"Each model was tuned by `gtcrec tune` on validation: {TRIALS} trials of its own search space, the first with "
        "its defaults, each a training of about 2,000 steps at most, or fewer trials where the space is smaller. The "
        "settings found, with their budget, lie in `benchmarks/tuned`; with them each model trained by gradient "
        f"was trained anew with seeds {', '.join(map(str, config.seeds))}, at most {config.train['epochs']} epochs, "
        f"until so many validations in a row were no better: {patience}."
    )
    yield ""
    for data in BUDGETS:
        if page_of(data).exists():
            tuned = f", [what tuning found]({tuning_page_of(data).name})" if tuning_page_of(data).exists() else ""
            yield f"- [{data}]({page_of(data).name}){tuned}"
        else:
            done = sum((TUNED / data / f"{name}.yaml").exists() for name in config.models)
            yield f"- `{data}`: not yet measured ({done} of {len(config.models)} models are tuned)"
    yield from ["", *NOTES.strip().splitlines()]


def tested(found: Results) -> Iterator[str]:
    """A data set's tables, and who is behind the popular items."""
    yield from heading(f"All models on {found.data}")
    yield about(found)
    for table in tables(found):
        if table.title == "Paired tests":
            kept = tuple(row for row in table.rows if row[1].text in SHOWN)
            table = dataclasses.replace(table, rows=kept)
        yield from ["", *(line.removeprefix("#") for line in markdown_table(table))]
    yield from ["", not_above("popular", found)]


def not_above(name: str, found: Results) -> str:
    """A sentence: at which metrics whose mean is not above a model's."""
    least = next(row for row in found.rows if row.name == name).estimates
    others = [row for row in found.rows if row.name != name]
    behind = {m: [row.name for row in others if row.estimates[m].mean <= least[m].mean] for m in found.metrics}
    parts = [f"at {metric} {', '.join(names)}" for metric, names in behind.items() if names]
    return f"Not above `{name}`: {'; '.join(parts) or 'none'}."


def tuning(data: str, searches: Mapping[str, Path]) -> Iterator[str]:
    """What the search of each model found on a data set."""
    yield from heading(f"Tuning on {data}")
    yield f"A trial: {' '.join(BUDGETS[data])}. Validation {SHOWN[0]} of the defaults and of the best trial."
    rows = []
    for name, path in searches.items():
        trials = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        columns = list(trials[0])
        space = columns[columns.index("seconds") + 1 : -1]  # between the costs and the error
        if not space:
            rows.append((name, "–", "–", "–", "nothing to tune"))
            continue
        values = [float(trial[SHOWN[0]] or 0) for trial in trials]
        best = values.index(max(values))
        texts = [f"{key.removeprefix('train.')} {trials[best][key]}" for key in space]
        shown = ", ".join(texts) if best else "the defaults"
        rows.append((name, str(len(trials)), f"{values[0]:.4f}", f"{values[best]:.4f}", shown))
    cells = [[Cell(text) for text in row] for row in rows]
    yield from ["", *markdown_rows(("model", "trials", "defaults", "best", "what was found"), cells, left=(0, 4))]


def heading(title: str) -> list[str]:
    note = "Written by `benchmarks/peers.py write`; do not edit. How, and what it says: [peers.md](peers.md)."
    return [f"# {title}", "", note, ""]


NOTES = """
## What it says

- On `tiktok` GTC is first of 19 at all eight metrics, significantly but for its leads over iALS at recall@20 (2.5 %)
  and over LightGCN at ndcg@5. At ndcg@5, where the paper claims up to 28.3 % over the best peer, it has 9.7 % over
  LightGCN, the best, and 14.6 % over SMORE, the best of those that use content; over SMORE 10.6 % at recall@20.
- At recall@5 only GTC and iALS are above the popular items on `tiktok`. Two of the five most popular items there are
  3.7 % of the test pairs, and the other eighteen of the first twenty 2.2 %: who shows those two to everybody has five
  good places and little after them. VBPR, BM3, LGMRec and DiffMM are behind at ndcg@5 too; from ten places on all
  models are ahead.
- On `ml100k` GTC is second of 19 at recall@10, recall@20, ndcg@20 and ndcg@50, behind EASE, a linear model in closed
  form that uses no content; third at recall@5, recall@50 (behind SMORE and MGCN) and ndcg@10 (behind EASE and FREEDOM);
  fifth at ndcg@5, where ItemKNN and `contentknn` are ahead too. What lies between GTC and EASE, iALS, MGCN and SMORE is
  significant at no metric; FREEDOM is significantly behind at recall@20 and recall@50 alone, ItemKNN and UserKNN at
  recall@10, recall@20, recall@50 and ndcg@50. Of the differences at recall@20 the smallest that is significant is
  2.8 %: there are 943 users.
- On `sports` GTC is first of 19 at recall@10, recall@20 and recall@50 and at ndcg@50, at recall@10 not significantly,
  and second at recall@5, ndcg@10 and ndcg@20. Its rival is the kNN on interactions and content (`contentknn`), which
  trains nothing and whose defaults no trial beat: 5.8 % behind at recall@20, and significantly ahead at ndcg@5 (.0364
  to .0337) and ndcg@10. At ndcg@5 RP3beta is ahead of GTC too, not significantly; the paper's claim of up to 28.3 %
  over the best peer there does not show. Of the trained peers MGCN is the best at recall@20; GTC is 8.7 % over it, and
  13 % over SimGCL at ndcg@5.
- On `tiktok` and `ml100k` the strongest rivals use no content: iALS on `tiktok`, EASE on `ml100k`, where SMORE, the
  best peer at recall@20 of those that use it, has .0039 less. GTC starts at embeddings like those of iALS, and its own
  content does little there ([ablation.md](ablation.md)). On `sports` it is 16 % over iALS at recall@20, and the best
  rivals use content.
- The measurement is the third on `tiktok` and `ml100k` and the second on `sports`, each with more for the peers. The
  first ended all trainings at 60 epochs, the second at 300, as some peers had still been getting better. The third
  gives a trial 1,000 steps without a better validation, as on `sports`, where it had 300: too few for models whose
  validation falls at first, as SMORE's does, whose defaults on `ml100k` had ended below the popular items. GTC has the
  same figures in all, to .0001. Each measurement looked at test.
- Twelve trials are few for a space of eight settings: those found for GTC on `ml100k` are ahead of its defaults on
  validation, but not on test (the line `full` of [ablation.md](ablation.md), which differs from the defaults in
  `als_reg` alone). EASE has one setting, and all of its values were tried. And a trial is one seed: DiffMM's best on
  `tiktok` has recall@20 .1008 on validation by a single high epoch, where the two other seeds have .0890 and .0913, and
  .0850 on test. The settings that the former search had found for it had .0987 on test, still behind SMORE's .1082.
- Six of SMORE's twelve trials on `ml100k` ended below the popular items even so, their first validation the best: the
  contrast falls and BPR's loss stays near ln 2, as the contrast pulls at directions however short the embeddings are,
  and BPR hardly at short ones. All four with learning rate .005 and a contrast weight of at most .03 got out of it, and
  two of the others.
- VBPR was tuned on `sports` a second time. As its paper has it, with no L2 on what content adds to an item, it learned
  the training pairs by heart: its best trial had validation recall@20 .0385, BPR's .0675. With that L2 it has .0683;
  its lines are of this form. Those of the other had been seen on test: recall@20 .045 on `sports`, .304 on `ml100k` and
  .029, behind the popular items, on `tiktok`.
- The content of `ml100k` was encoded twice, on two processors, FREEDOM and VBPR trained on the second; the matrices
  differ in their fingerprints. `contentknn` gives every user the same figures on both, but for one user's ndcg@50, by
  .0006.
- On `sports` BPR's first seed went on for 176 epochs and the others for 46 and 55, so that its seeds differ most.
"""

if __name__ == "__main__":
    main()
