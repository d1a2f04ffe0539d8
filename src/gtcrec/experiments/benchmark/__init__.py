"""Data sets x models x seeds, each measured once on test, with tables and pages."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtcrec.experiments.benchmark.results import Results

__all__ = ["benchmark"]


def benchmark(plan: str | Path, *, jobs: int = 1, out: str | Path | None = None) -> "list[Results]":
    """Train what a plan names, measure each run once on test, compare, and write tables and pages.

    The same call goes on where a killed one stopped, and repeats no run that has ended.

    Parameters
    ----------
    plan : path
        A YAML file of data sets, models, seeds and the baseline, as `docs/benchmarking.md` says.
    jobs : int
        Runs at a time; each has its share of the cores.
    out : path, optional
        In place of the plan's `out`.

    Returns
    -------
    list of Results
        One a data set: a row a model with means, intervals, tests against the baseline, slices and costs.

    Raises
    ------
    ConfigError
        For an unknown key of the plan, or what a run's configuration refuses.
    RunError
        For a folder that holds another run.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> shop = gtcrec.data.write_catalog(folder / "shop", n_users=60, n_items=40)
    >>> text = f"data: {{shop: {shop}}}\\nmodels: [popular, itemknn]\\nbase: popular\\nout: {folder / 'out'}\\n"
    >>> _ = (folder / "plan.yaml").write_text(text)
    >>> (result,) = gtcrec.benchmark(folder / "plan.yaml")
    >>> [row.name for row in result.rows]
    ['popular', 'itemknn']
    """
    from gtcrec.experiments.benchmark import page, results
    from gtcrec.experiments.benchmark.plan import plan as make_plan
    from gtcrec.experiments.benchmark.plan import read_file
    from gtcrec.experiments.execution.scheduler import train_runs

    config = read_file(Path(plan))
    study = make_plan(config, Path(out or config.out or "benchmark"))
    train_runs(study.trained, jobs, lambda run, event: None, "test", config.keep)
    runs = {data: results.read_tested(planned) for data, planned in study.runs.items()}
    found = [results.results(study, data, members) for data, members in runs.items()]
    results.write_parquet(study.out, found, runs)
    page.write_pages(study.out, found)
    return found
