"""Trackers record each epoch of a run: TensorBoard, MLflow, trackio. The setting `trackers` names them."""

import contextlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gtcrec.errors import ConfigError

if TYPE_CHECKING:
    from gtcrec.experiments.config import RunConfig
    from gtcrec.training.trainer import Epoch

__all__ = ["Tracker", "require_trackers", "track_epochs", "values_of"]

_MOST_PARAMS = 100  # that MLflow takes at once


class Tracker(Protocol):
    """What records each epoch."""

    def on_epoch_end(self, epoch: "Epoch") -> None:
        """Take in an epoch, whose checkpoint is on disk."""
        ...

    def close(self, finished: bool) -> None:
        """Write out what is left; `finished` says whether training has ended."""
        ...


def require_trackers(names: Sequence[str]) -> None:
    """Raise `ConfigError` for the first tracker whose library is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f'trackers: {name} is not installed; pip install "gtcrec[{name}]"')


def values_of(epoch: "Epoch") -> dict[str, float]:
    """Return what is tracked of an epoch.

    >>> from gtcrec.training.trainer import Epoch
    >>> values_of(Epoch(1, {"bpr": 0.5, "log.tc_scale": 2.0}, {"recall@20": 0.25}, True, "", {"train_seconds": 3.0}))
    {'loss/bpr': 0.5, 'log/tc_scale': 2.0, 'valid/recall@20': 0.25, 'cost/train_seconds': 3.0}
    """
    losses = {
        name.replace("log.", "log/") if name.startswith("log.") else f"loss/{name}": value
        for name, value in epoch.losses.items()
    }
    valid = {f"valid/{name}": value for name, value in epoch.valid.items()}
    return losses | valid | {f"cost/{name}": value for name, value in epoch.seconds.items()}


@contextmanager
def track_epochs(
    names: Sequence[str], config: "RunConfig", folder: Path, done: int
) -> Iterator[Callable[["Epoch"], None]]:
    """Start the trackers of a run that has `done` epochs behind it; yield what tells them of one more.

    A tracker that fails is left out from then on, with a warning: no training ends for want of one. Raises
    `ConfigError` for a tracker that is not installed.
    """
    require_trackers(names)
    trackers: dict[str, Tracker] = {}
    finished = False

    def attempt(name: str, step: Callable[[], Any]) -> Any:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                return step()
        except Exception as error:
            trackers.pop(name, None)
            warnings.warn(f"{name} is told no more of this run: {type(error).__name__}: {error}", stacklevel=2)

    def on_epoch_end(epoch: "Epoch") -> None:
        nonlocal finished
        finished = bool(epoch.stop)
        for name, tracker in list(trackers.items()):
            attempt(name, partial(tracker.on_epoch_end, epoch))

    for name in names:
        made = attempt(name, partial(_KINDS[name], config, folder, done))
        if made is not None:
            trackers[name] = made
    try:
        yield on_epoch_end
    finally:
        for name, tracker in list(trackers.items()):
            attempt(name, partial(tracker.close, finished))


class _TensorBoard:
    """Writes to `tensorboard/` in the run folder."""

    def __init__(self, config: "RunConfig", folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        from gtcrec.experiments.config import dump_yaml

        purge = {"purge_step": done + 1} if done else {}  # epochs after the checkpoint are trained once more
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), **purge)
        if not done:
            self._writer.add_text("config", "".join(f"    {line}\n" for line in dump_yaml(config).splitlines()))

    def on_epoch_end(self, epoch: "Epoch") -> None:
        for name, value in values_of(epoch).items():
            self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class _MLflow:
    """Logs to the experiment `gtcrec` of the server that MLFLOW_TRACKING_URI names; a tag has the run folder."""

    def __init__(self, config: "RunConfig", folder: Path, done: int) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        experiment = self._client.get_experiment_by_name("gtcrec")
        number = experiment.experiment_id if experiment else self._client.create_experiment("gtcrec")
        place = str(folder.resolve())
        quoted = place.replace("'", "''")
        known = self._client.search_runs([number], f"tags.`gtcrec.folder` = '{quoted}'", max_results=1) if done else []
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        run = self._client.create_run(number, run_name=folder.name, tags={"gtcrec.folder": place})
        self._run = run.info.run_id
        self._log_settings(config)

    def _log_settings(self, config: "RunConfig") -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in _settings_of(config).items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run, params=params[start : start + _MOST_PARAMS])

    def on_epoch_end(self, epoch: "Epoch") -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = {name.replace("@", "_at_"): value for name, value in values_of(epoch).items()}  # it refuses an @
        self._client.log_batch(self._run, [Metric(name, value, now, epoch.number) for name, value in values.items()])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class _Trackio:
    """Logs to the project `gtcrec`, a run by the name of its folder."""

    def __init__(self, config: "RunConfig", folder: Path, done: int) -> None:
        import trackio

        quiet = {"auto_log_cpu": False, "auto_log_gpu": False}
        self._run: Any = trackio.init(
            "gtcrec", folder.name, config=_settings_of(config), resume="allow" if done else "never", **quiet
        )

    def on_epoch_end(self, epoch: "Epoch") -> None:
        self._run.log(values_of(epoch), step=epoch.number)

    def close(self, finished: bool) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[["RunConfig", Path, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}


def _settings_of(config: "RunConfig") -> dict[str, Any]:
    from gtcrec.experiments.planned_run import flatten

    return dict(flatten(config.model_dump(mode="json")))
