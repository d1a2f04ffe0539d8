"""Train runs and studies of `gtcrec`, and go on with those that were stopped."""

from collections.abc import Sequence
from pathlib import Path

from gtcrec.cli.main import execute
from gtcrec.data.synthetic.catalog import write_catalog
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run


def train_run(data: Path, folder: Path, model: str, settings: Sequence[str]) -> Run:
    """Train a run to its end, from where it stands."""
    if (folder / "config.yaml").exists():
        run = Run.load(folder)
    else:
        run = Run.create(load_config(str(data), model, assignments=list(settings)), folder)
    for epoch in run.epochs():
        metric = run.config.train.valid_metric
        value = f"{metric} {epoch.valid.get(metric, 0):.4f}{' *' * epoch.best}"
        print(f"{folder.parent.name} {folder.name} epoch {epoch.number} {value}", flush=True)
    return run


def run_command(*words: object) -> None:
    """Run a command of `gtcrec`; exits with its code when it fails."""
    code = execute([str(word) for word in words])
    if code:
        raise SystemExit(code)


def options(name: str, values: Sequence[object]) -> list[str]:
    """Return an option of a command, once for each value."""
    return [str(word) for value in values for word in (name, value)]


def quick_catalog(folder: Path) -> Path:
    """Return a tiny drawn catalog with pictures and texts, made where it is missing."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_catalog(folder, n_users=120, n_items=60, per_user=8)
    return folder
