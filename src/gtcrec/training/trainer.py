"""Training: the loop, its state, and a generator that yields after each epoch.

The same loop serves one process and several (`gtcrec.runtime.process_group`), any device, and every `TrainableModel`. A
model without parameters to train is validated once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtcrec.errors import ConfigError, GtcrecError, RunError
from gtcrec.evaluation.evaluator import evaluate_split, validation_users
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.ops.sharded import RowShardedEmbedding, combine_rows
from gtcrec.runtime.process_group import (
    SINGLE_PROCESS,
    ProcessGroup,
    all_gather_object,
    all_reduce_gradients,
    assert_equal_across_ranks,
    find_device,
    gather,
    tensor_digest,
)
from gtcrec.training import checkpoint
from gtcrec.training.config import TrainConfig
from gtcrec.training.cost import Clock, total_cost
from gtcrec.training.divergence import require_finite_loss, require_finite_weights
from gtcrec.training.rowwise_adam import RowwiseAdam
from gtcrec.training.sampling import Batches, Negatives
from gtcrec.types import Batch, Split, TrainableModel

__all__ = ["Epoch", "Negatives", "TrainConfig", "Training", "epochs", "fit"]


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
    """A model's training so far: optimisers, epochs done, best epoch and its weights. Moves the model to its device."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.device = find_device(config.device)
        self.model = model.to(self.device)
        self.history: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}
        hooks = model if isinstance(model, TrainableModel) else None
        self.hooks = hooks
        self.rows: list[nn.Parameter] = hooks.sparse_parameters() if hooks else []
        tables: list[RowShardedEmbedding] = list(hooks.sharded_tables()) if hooks else []
        self.holders = tables[0].workers if tables else SINGLE_PROCESS  # among whom the rows of tables are spread
        self.sharded = tables if self.holders.size > 1 else []
        sparse = {id(p) for p in self.rows}
        self.dense = [p for p in model.parameters() if p.requires_grad and id(p) not in sparse]
        if (self.dense or self.rows) and not hooks:
            raise ConfigError(
                f"{type(model).__name__} has parameters to train: it must inherit gtcrec.types.TrainableModel"
            )
        self.optimizers: list[torch.optim.Optimizer] = []
        if self.dense:
            self.optimizers.append(torch.optim.Adam(self._rate_groups(), lr=config.learning_rate, fused=True))
        if self.rows:
            self.optimizers.append(RowwiseAdam(self.rows, lr=config.learning_rate))

    def _rate_groups(self) -> list[dict[str, Any]]:
        """The dense parameters by what of the learning rate they are trained at, a group each."""
        others = self.hooks.learning_rate_factors() if self.hooks else []
        dense = {id(p) for p in self.dense}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in some if id(p) in dense], "factor": factor} for some, factor in others
        ]
        taken = {id(p) for group in groups for p in group["params"]}
        rest = {"params": [p for p in self.dense if id(p) not in taken], "factor": 1.0}
        return [group for group in (rest, *groups) if group["params"]]

    @property
    def parameters(self) -> int:
        """How many numbers are trained, those of other workers included."""
        rows = sum(table.n * table.local.shape[1] for table in self.sharded) or sum(p.numel() for p in self.rows)
        return rows + sum(p.numel() for p in self.dense)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best validation so far."""
        return next((epoch for epoch in reversed(self.history) if epoch.best), None)

    @property
    def epochs_done(self) -> int:
        """How many epochs were trained; epoch 0, the start, is none."""
        return self.history[-1].number if self.history else 0

    @property
    def stop(self) -> str:
        """Why training ended, or "" while it has not."""
        return self.history[-1].stop if self.history else ""

    def save(self, path: Path, facts: Mapping[str, Any] | None = None) -> None:
        """Write all that `load` needs to go on exactly from here, on any device and with any number of workers.

        `facts` are more values for JSON, which `load` returns.
        """
        tensors = checkpoint.add_prefix("model", self.model.state_dict()) | checkpoint.add_prefix(
            "best", self.best_weights
        )
        for place, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= checkpoint.add_prefix(f"optimizer/{place}/{index}", slots)
        history = [{**vars(epoch), "losses": dict(epoch.losses), "valid": dict(epoch.valid)} for epoch in self.history]
        own = {"history": history, "config": self.config.model_dump()}
        self.save_tensors(path, tensors, {**(facts or {}), **own})

    def save_tensors(self, path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write tensors that are named as in a checkpoint; of sharded tables each worker writes its rows."""
        if self.config.embedding_sharding == "row_wise":
            checkpoint.save_shards(path, tensors, self._is_shard, facts, str(len(self.history)), self.holders)
        else:
            checkpoint.save(path, tensors, facts)

    def load_tensors(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read what `save_tensors` wrote with any number of workers; of sharded tables, the rows of this worker."""
        return checkpoint.load_shards(path, self._is_shard, self.holders)

    def _is_shard(self, name: str) -> bool:
        """Whether a tensor of this name in a checkpoint has a row for each row of a sharded table."""
        section, _, rest = name.partition("/")
        if section == "optimizer":
            return rest.startswith(f"{len(self.optimizers) - 1}/") and not rest.endswith("/step")
        tables = {id(p) for p in self.rows}
        return (rest or section) in {key for key, p in self.model.named_parameters() if id(p) in tables}

    def load(self, path: Path) -> dict[str, Any]:
        """Take over the state that `save` wrote and return its facts. Raises `RunError` when a file is damaged."""
        tensors, facts = self.load_tensors(path)
        self.history = [Epoch(**entry) for entry in facts["history"]]
        self.best_weights = checkpoint.strip_prefix("best", tensors)
        try:
            self.model.load_state_dict(checkpoint.strip_prefix("model", tensors))
        except RuntimeError as error:
            raise RunError(f"{path}: weights of another model, or of another version's: {error}") from error
        for place, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            count = sum(len(group["params"]) for group in state["param_groups"])
            slots = {index: checkpoint.strip_prefix(f"optimizer/{place}/{index}", tensors) for index in range(count)}
            optimizer.load_state_dict({**state, "state": {i: slot for i, slot in slots.items() if slot}})
        return facts

    @torch.no_grad()
    def refresh(self) -> None:
        """Let the model recompute what its steps hold fixed, if it has such."""
        if self.hooks:
            self.hooks.refresh()

    def set_learning_rate(self, number: int) -> None:
        """Give the optimisers the learning rate of an epoch, counted from 1."""
        left, done = 1.0, number - 1
        if self.config.lr_decay == "linear":
            left = 1 - done / self.config.epochs
        elif self.config.lr_decay == "exponential":  # that of MGCN and SMORE in MMRec (Zhou 2023)
            left = 0.96 ** (done / 50)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * left * group.get("factor", 1.0)

    def step(self, batch: Batch, share: float, rng: torch.Generator, workers: ProcessGroup) -> dict[str, Tensor]:
        """Take one step on this worker's part of a batch; returns each loss term, and their sum, times `share`.

        Raises `GtcrecError` that names a term, before the weights change, when the sum is not finite.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        terms = self._loss(batch, rng) if share else {}
        if terms:
            require_finite_loss(terms)
            terms["total"].backward()  # type: ignore[no-untyped-call]
        elif self.sharded:
            with torch.no_grad():
                self._loss(batch, rng)  # the others ask for rows, some of which lie here
        if workers.size > 1:
            all_reduce_gradients(self.dense, [] if self.sharded else self.rows, share, workers)
        if self.sharded:
            combine_rows(self.sharded, share, workers)
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.detach() * share for name, value in terms.items()}

    def _loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        batch = Batch(*(side.to(self.device) for side in batch))
        assert self.hooks is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            terms = self.hooks.loss(batch, rng)
        if not terms:
            return {}
        terms = {name: value.float() for name, value in terms.items()}
        total = torch.stack([value for name, value in terms.items() if not name.startswith("log.")]).sum()
        return terms | {"total": total}


def epochs(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    training: Training | None = None,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
    evaluation: EvaluateConfig | None = None,
    workers: ProcessGroup = SINGLE_PROCESS,
    end_early: Callable[[int], str] = lambda done: "",
) -> Iterator[Epoch]:
    """Train `model`, yielding after each epoch; when the iterator ends the model has its best weights.

    `training` goes on from an earlier state. `on_step(done, steps)` is told of each step. Several `workers` each call
    this with the same model and training, and yield the same epochs. `end_early(epochs done)` says why to end after
    this epoch, or ""; an epoch that was done before is then yielded again, as the last. Raises `GtcrecError` at the
    step whose loss is not finite, `RunError` when the workers differ.
    """
    training = training or Training(model, config)
    evaluation = evaluation or EvaluateConfig()
    batches = None
    if training.optimizers:
        batches = Batches(split.train, config.batch_size, config.seed, warm_only=config.negative_items == "warm")
    _check_workers_agree(training, workers)
    if not training.history and training.hooks and training.hooks.evaluates_start() and len(split.valid):
        _validate_start(training, split, evaluation, workers)
        yield training.history[-1]
    if training.epochs_done and not training.stop and (reason := end_early(training.epochs_done)):
        _end_at_last_epoch(training, split, evaluation, workers, reason)
        yield training.history[-1]
    while not training.stop:
        number = training.epochs_done + 1
        clock = Clock()
        losses = _train_epoch(training, batches, number, on_step, workers) if batches else {}
        spent = clock.lap("train")
        valid: Mapping[str, float] = {}
        reason = end_early(number)
        validates = len(split.valid) > 0 and (
            number % config.valid_every == 0 or number == config.epochs or not batches or reason != ""
        )
        if validates:
            valid = _measure_validation(training, split, evaluation, workers)
            spent |= clock.lap("eval")
        _record_epoch(training, number, losses, valid, total_cost(spent, workers), len(split.valid) > 0, reason)
        _check_workers_agree(training, workers)
        yield training.history[-1]
    model.load_state_dict(training.best_weights)


def fit(model: nn.Module, split: Split, config: TrainConfig) -> Training:
    """Train to the end and return the training; the model has its best weights."""
    training = Training(model, config)
    for _ in epochs(model, split, config, training):
        pass
    return training


def _check_workers_agree(training: Training, workers: ProcessGroup) -> None:
    """Make sure that all workers are at the same epoch with the same weights."""
    if workers.size > 1:
        assert_equal_across_ranks("epochs done", training.epochs_done, workers)
        equal = [*training.dense, *([] if training.sharded else training.rows)]
        assert_equal_across_ranks("their weights", tensor_digest(equal), workers)


def _train_epoch(
    training: Training, batches: Batches, number: int, on_step: Callable[[int, int], None], workers: ProcessGroup
) -> dict[str, float]:
    """One pass over the training pairs; returns the mean of each loss term and of their sum."""
    every = training.config.refresh_every or batches.steps
    training.set_learning_rate(number)
    sums: dict[str, Tensor] = {}
    for step, (batch, share, rng) in enumerate(batches.epoch(number, workers)):
        if step % every == 0:
            training.refresh()
        try:
            terms = training.step(batch, share, rng, workers)
            if step + 1 == batches.steps:
                require_finite_weights(training.model)
        except GtcrecError as error:
            raise GtcrecError(f"epoch {number}, step {step + 1} of {batches.steps}: {error}") from error
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros(())) + value
        on_step(step + 1, batches.steps)
    return {name: value / batches.steps for name, value in _sum_over_workers(sums, workers).items()}


def _validate_start(training: Training, split: Split, evaluation: EvaluateConfig, workers: ProcessGroup) -> None:
    """Add the untrained model to the history, as epoch 0."""
    clock = Clock()
    spent = clock.lap("train")  # nothing
    valid = _measure_validation(training, split, evaluation, workers)
    _record_epoch(training, 0, {}, valid, total_cost(spent | clock.lap("eval"), workers), True, "")


def _end_at_last_epoch(
    training: Training, split: Split, evaluation: EvaluateConfig, workers: ProcessGroup, reason: str
) -> None:
    """Make the last epoch that was done the end of training; without a best one so far it is validated, as the best."""
    last = training.history[-1]
    if training.best is None:
        valid = _measure_validation(training, split, evaluation, workers) if len(split.valid) else {}
        last = replace(last, valid=valid, best=True)
        training.best_weights = _copy_weights(training)
    training.history[-1] = replace(last, stop=reason)


def _copy_weights(training: Training) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}


def _sum_over_workers(sums: Mapping[str, Tensor], workers: ProcessGroup) -> dict[str, float]:
    """Each name's sum over the workers, of which some may lack it."""
    own = {name: float(value) for name, value in sums.items()}
    if workers.size == 1:
        return own
    parts = all_gather_object(own, workers)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _measure_validation(
    training: Training, split: Split, evaluation: EvaluateConfig, workers: ProcessGroup
) -> Mapping[str, float]:
    """Mean metrics over the validation users, of whom each worker takes a part, or of sharded tables its items."""
    config = training.config
    if training.hooks:
        training.hooks.calibrate(split.valid)
    metrics = tuple(dict.fromkeys((config.valid_metric, *evaluation.metrics)))
    users = validation_users(split, evaluation, config.valid_users, config.seed)

    def measure(some: Any) -> Any:
        scorer = training.model.scorer()  # type: ignore[operator]
        return evaluate_split(scorer, split, "valid", evaluation, metrics=metrics, details=False, users=some)

    if workers.size == 1 or training.sharded:
        return measure(users).means  # type: ignore[no-any-return]
    own = users[workers.shard(len(users))]
    per_user = measure(own).per_user if len(own) else dict.fromkeys(metrics, np.zeros(0))
    values = torch.from_numpy(np.stack([per_user[name] for name in metrics], axis=1))  # [own, metrics]
    columns = torch.cat(gather(values, workers)).T.contiguous().numpy()  # [metrics, users]
    return {name: float(column.mean()) for name, column in zip(metrics, columns, strict=True)}


def _record_epoch(
    training: Training,
    number: int,
    losses: dict[str, float],
    valid: Mapping[str, float],
    seconds: dict[str, float],
    can_judge: bool,
    reason: str,
) -> None:
    """Judge the epoch against the best so far and add it to the history; without validation the last is the best.

    `reason` says why to end here, or is "".
    """
    config = training.config
    metric, past = config.valid_metric, training.best
    best = not can_judge or (bool(valid) and (past is None or valid[metric] > past.valid[metric]))
    if best:
        training.best_weights = _copy_weights(training)
    best_number = number if best else past.number if past else 0
    stop = ""
    if not training.optimizers:
        stop = "nothing to train"
    elif can_judge and (number - best_number) // config.valid_every >= config.patience:
        stop = f"no better {metric} in {config.patience} validations"
    elif number and not losses:
        stop = "nothing left to train"
    elif number >= config.epochs:
        stop = f"all {config.epochs} epochs done"
    else:
        stop = reason
    training.history.append(Epoch(number, losses, valid, best, stop, seconds))
