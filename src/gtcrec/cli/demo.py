"""`gtcrec demo`: a drawn catalog, four models, one comparison."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from gtcrec.errors import GtcrecError

__all__ = ["demo"]

_MODELS = ("popular", "bpr", "lightgcn", "gtc")
_SETTINGS = ("batch_size=512", "learning_rate=0.003", "valid_every=2")  # 11,000 interactions make few steps an epoch


def demo(
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="At most so many epochs a model.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the catalog and the trainings.")] = 0,
) -> None:
    """Draw a catalog whose users' interests are known, train four models on it and compare them on test."""
    from gtcrec.cli.compare import print_comparison
    from gtcrec.cli.console import say
    from gtcrec.cli.train import train_here
    from gtcrec.data import write_catalog
    from gtcrec.experiments.config import load_config
    from gtcrec.experiments.run import Run
    from gtcrec.reporting.html import write_comparison_page
    from gtcrec.reporting.run_record import read_run_record
    from gtcrec.runtime.files import require_empty

    require_empty(out, hint="; give another with --out")
    data = write_catalog(out / "catalogue", seed=seed)
    for model in _MODELS:
        say(f"{model}: training on {data}", style="bold")
        settings = [*_SETTINGS, f"train.epochs={epochs}", f"seed={seed}"]
        run = Run.create(load_config(str(data), model, None, settings), out / model)
        train_here(run)
        run.evaluate()
    runs = {model: out / model for model in ("gtc", *_MODELS[:-1])}
    page = write_comparison_page(list(runs.items()), print_comparison(runs, None, "text"), out / "comparison.html")
    say("\n".join(["reports:", *(f"  {folder / 'report.html'}" for folder in runs.values()), f"  {page}"]))
    scores = {name: read_run_record(folder).final.means["ndcg@20"] for name, folder in runs.items()}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    if better := [name for name in ("popular", "bpr") if scores["gtc"] <= scores[name]]:
        raise GtcrecError(f"gtc is not better than {' and '.join(better)} on test ndcg@20: {shown}")
    say(f"gtc is better than popular and bpr on test ndcg@20: {shown}", style="green")
    say(f"look at what it recommends, and why: {_own_command()} serve {out / 'gtc'}", style="bold")


def _own_command() -> str:
    """Return what starts this program: its name if a shell finds it by that, else its path."""
    started, found = Path(sys.argv[0]), shutil.which("gtcrec")
    is_found = found is not None and Path(found).resolve() == started.resolve()
    return "gtcrec" if is_found or started.name != "gtcrec" else str(started)
