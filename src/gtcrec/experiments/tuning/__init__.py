"""Search over a model's settings on validation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtcrec.experiments.tuning.study import Trial

__all__ = ["tune"]


def tune(
    data: str | Path,
    model: str = "gtc",
    *,
    budget: int = 20,
    out: str | Path,
    jobs: int = 1,
    extend: int = 2,
    **settings: Any,
) -> "list[Trial]":
    """Try settings of a model and choose on validation; the test interactions take no part.

    The same call goes on where a killed one stopped. `out/best.yaml` is the configuration of the best trial.

    Parameters
    ----------
    data : path or name
        As `load_dataset` takes it.
    model : str
        A name of the registry; its search space says what is tried.
    budget : int
        Settings to try; the first are the defaults.
    out : path
        The study's folder; one that is there is gone on with.
    jobs : int
        Processes that try settings side by side.
    extend : int
        While the winner stands at the edge of a setting's values, so many values outside may be tried on each side.
    **settings
        Settings that are the same for every trial, such as `epochs=100`; they are not searched.

    Returns
    -------
    list of Trial
        Best first; each has `settings`, `value` (the validation metric), `state`, `outside` (settings whose value lies
        outside of the space) and `at_edge` (those at the edge of what was tried).

    Raises
    ------
    ConfigError
        For a setting that the model does not have.
    RunError
        For a folder that holds another study.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> shop = gtcrec.data.write_catalog(folder / "shop", n_users=60, n_items=40)
    >>> trials = gtcrec.tune(shop, "itemknn", budget=2, out=folder / "study")
    >>> len(trials), trials[0].value >= trials[1].value
    (2, True)
    """
    from gtcrec.data.datasets import find_source
    from gtcrec.experiments.tuning import study

    fixed = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in settings.items()]
    plan = study.plan(str(find_source(data)), model, Path(out), budget, fixed, extend=extend)
    for _ in study.tune(plan, jobs):
        pass
    trials = study.list_trials(plan)
    return sorted(trials, key=lambda trial: -1.0 if trial.value is None else trial.value, reverse=True)
