"""Training: batches, negatives, and a generator that yields after each epoch.

Every random draw comes from a stream that (seed, epoch, step) number, so that a resumed training draws what
the unbroken one would have drawn, whatever the global random state.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from gtcrec import checkpoint
from gtcrec.errors import ConfigError, GtcrecError
from gtcrec.evaluate import EvaluateConfig, evaluate_split
from gtcrec.types import Batch, Interactions, Ints, Split

__all__ = ["Epoch", "Negatives", "TrainConfig", "Training", "epochs", "fit"]


class TrainConfig(BaseModel):
    """Settings of the training loop; batch size and metric as in MMRec (Zhou 2023)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(1000, ge=1, description="at most so many passes over the training pairs")
    batch_size: int = Field(2048, ge=1, description="pairs a step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    patience: int = Field(50, ge=1, description="validations without a better one before training stops")
    valid_metric: str = Field("recall@20", description="chooses the best epoch")
    valid_every: int = Field(1, ge=1, description="epochs between validations")
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    seed: int = Field(0, ge=0, description="of the weights, the batches and the negatives")


@dataclass(frozen=True)
class Epoch:
    """One epoch's outcome: mean loss terms, validation metrics (empty when not validated), and its cost.

    `stop` is empty, or says why this epoch was the last.
    """

    number: int
    losses: Mapping[str, float]
    valid: Mapping[str, float]
    best: bool
    stop: str
    seconds: Mapping[str, float] = field(default_factory=dict)


class Training:
    """A model's training so far: optimiser, epochs done, best epoch and its weights."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.model = model
        self.config = config
        self.history: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}
        weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(weights, lr=config.learning_rate, fused=True) if weights else None

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best validation so far."""
        return next((epoch for epoch in reversed(self.history) if epoch.best), None)

    @property
    def stop(self) -> str:
        """Why training ended, or "" while it has not."""
        return self.history[-1].stop if self.history else ""

    def save(self, path: Path) -> None:
        """Write all that `load` needs to go on exactly from here."""
        tensors = checkpoint.under("model", self.model.state_dict()) | checkpoint.under("best", self.best_weights)
        if self.optimizer:
            for index, slots in self.optimizer.state_dict()["state"].items():
                tensors |= checkpoint.under(f"optimizer/{index}", slots)
        history = [{**vars(epoch), "losses": dict(epoch.losses), "valid": dict(epoch.valid)} for epoch in self.history]
        checkpoint.save(path, tensors, {"history": history, "config": self.config.model_dump()})

    def load(self, path: Path) -> None:
        """Take over the state that `save` wrote. Raises `RunError` when the file is damaged."""
        tensors, facts = checkpoint.load(path)
        self.history = [Epoch(**entry) for entry in facts["history"]]
        self.best_weights = checkpoint.nested("best", tensors)
        self.model.load_state_dict(checkpoint.nested("model", tensors))
        if self.optimizer:
            state = self.optimizer.state_dict()
            count = len(state["param_groups"][0]["params"])
            slots = {index: checkpoint.nested(f"optimizer/{index}", tensors) for index in range(count)}
            self.optimizer.load_state_dict({**state, "state": {i: slot for i, slot in slots.items() if slot}})


class Negatives:
    """Draws, for each user, an item that the user has not liked, uniformly and without rejection.

    The r-th unliked item of a user with liked items s_0 < s_1 < ... is r + |{j: s_j - j <= r}|; the count is one
    binary search over all users' s_j - j, laid end to end.
    """

    def __init__(self, train: Interactions) -> None:
        self.n_items = train.n_items
        self.indptr = torch.from_numpy(train.indptr)
        rank = np.arange(len(train)) - train.indptr[train.users]
        self.keys = torch.from_numpy(train.users * (self.n_items + 1) + train.items - rank)

    def draw(self, users: Tensor, rng: torch.Generator) -> Tensor:
        """Return one item for each of `users` int64 [b]; each must leave some item unliked."""
        start = self.indptr[users]
        unliked = self.n_items - (self.indptr[users + 1] - start)
        r = (torch.rand(len(users), generator=rng, dtype=torch.float64) * unliked).long()
        below = torch.searchsorted(self.keys, users * (self.n_items + 1) + r, right=True)
        return r + below - start


def epochs(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    training: Training | None = None,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
    evaluation: EvaluateConfig | None = None,
) -> Iterator[Epoch]:
    """Train `model`, yielding after each epoch; when the iterator ends the model has its best weights.

    `training` goes on from an earlier state. `on_step(done, steps)` is told of each step. Raises `GtcrecError`
    when the loss is no longer finite.
    """
    training = training or Training(model, config)
    evaluation = evaluation or EvaluateConfig()
    metrics = tuple(dict.fromkeys((config.valid_metric, *evaluation.metrics)))
    while not training.stop:
        number = len(training.history) + 1
        clock = _Clock()
        losses = _train_epoch(training, split.train, number, on_step)
        spent = clock.lap("train")
        valid: Mapping[str, float] = {}
        if number % config.valid_every == 0 or number == config.epochs or training.optimizer is None:
            valid = evaluate_split(_scores(model), split, "valid", evaluation, metrics=metrics, details=False).means
        _append(training, number, losses, valid, spent | clock.lap("eval"))
        yield training.history[-1]
    model.load_state_dict(training.best_weights)


def fit(model: nn.Module, split: Split, config: TrainConfig) -> Training:
    """Train to the end and return the training; the model has its best weights."""
    training = Training(model, config)
    for _ in epochs(model, split, config, training):
        pass
    return training


def _scores(model: nn.Module) -> Any:
    return model.scorer()  # type: ignore[operator]


def _append(
    training: Training,
    number: int,
    losses: dict[str, float],
    valid: Mapping[str, float],
    seconds: dict[str, float],
) -> None:
    """Judge the epoch against the best so far and add it to the history."""
    config = training.config
    metric, past = config.valid_metric, training.best
    best = bool(valid) and (past is None or valid[metric] > past.valid[metric])
    if best:
        training.best_weights = {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}
    best_number = number if best else past.number if past else 0
    stop = ""
    if training.optimizer is None:
        stop = "nothing to train"
    elif (number - best_number) // config.valid_every >= config.patience:
        stop = f"no better {metric} in {config.patience} validations"
    elif number >= config.epochs:
        stop = f"all {config.epochs} epochs done"
    training.history.append(Epoch(number, losses, valid, best, stop, seconds))


def _train_epoch(
    training: Training, train: Interactions, number: int, on_step: Callable[[int, int], None]
) -> dict[str, float]:
    """One pass over the training pairs; returns the mean of each loss term and of their sum."""
    if training.optimizer is None:
        return {}
    model, config = training.model, training.config
    order = _order(train, _stream(config.seed, number))
    negatives = Negatives(train)
    users, items = torch.from_numpy(train.users), torch.from_numpy(train.items)
    steps = math.ceil(len(order) / config.batch_size)
    sums: dict[str, Tensor] = {}
    for step, chosen in enumerate(torch.split(order, config.batch_size)):
        rng = _stream(config.seed, number, step + 1)
        batch = Batch(users[chosen], items[chosen], negatives.draw(users[chosen], rng))
        terms = _step(model, training.optimizer, batch, rng)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros(())) + value
        on_step(step + 1, steps)
    means = {name: float(value) / steps for name, value in sums.items()}
    if not math.isfinite(means["total"]):
        wrong = next(name for name, value in means.items() if not math.isfinite(value))
        raise GtcrecError(f"epoch {number}: loss term {wrong!r} is {means[wrong]}; try a lower learning_rate")
    return means


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = model.loss(batch, rng)  # type: ignore[operator]
    total = torch.stack([value for name, value in terms.items() if not name.startswith("log.")]).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {name: value.detach() for name, value in terms.items()} | {"total": total.detach()}


def _order(train: Interactions, rng: torch.Generator) -> Tensor:
    """A random order of the pairs; users who liked every item have no negatives and are left out."""
    usable: Ints = np.flatnonzero(train.user_counts[train.users] < train.n_items)
    if not len(usable):
        raise ConfigError("nothing to train on: no user has both a liked and an unliked item in the training pairs")
    return torch.from_numpy(usable)[torch.randperm(len(usable), generator=rng)]


def _stream(*numbers: int) -> torch.Generator:
    """The random stream that belongs to (seed, epoch, step)."""
    entropy = np.random.SeedSequence(numbers).generate_state(2, dtype=np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 31 | int(entropy[1]) >> 1)


class _Clock:
    """Wall and CPU seconds between laps."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        spent = {f"{name}_seconds": wall - self._wall, f"{name}_cpu_seconds": cpu - self._cpu}
        self._wall, self._cpu = wall, cpu
        return spent
