"""What a training would take: its memory, before anything is allocated, and the time of an epoch, from a few steps."""

import statistics
import time
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple

from pydantic import BaseModel
from torch import nn

from gtcrec.models.memory import estimate_memory
from gtcrec.models.registry import WAY_OUT, get_spec
from gtcrec.runtime.memory import require_memory
from gtcrec.runtime.process_group import SINGLE_PROCESS
from gtcrec.training.sampling import Batches
from gtcrec.training.trainer import TrainConfig, Training
from gtcrec.types import Split

__all__ = ["EpochTime", "need_memory", "time_epoch"]

_STEPS, _SECONDS = 5, 20.0  # timed steps, and after how long no other begins


class EpochTime(NamedTuple):
    """The steps of an epoch, what it would take in seconds, and how many numbers are trained; 0 without any."""

    steps: int
    seconds: float
    weights: int


def need_memory(name: str, settings: BaseModel, split: Split, config: TrainConfig) -> AbstractContextManager[None]:
    """Return a context that raises `ConfigError` unless a model and its training fit into the free memory.

    On another device than the CPU, and of embeddings that are spread over workers, only the model is counted.
    """
    need = estimate_memory(get_spec(name), settings, split.train, split.features, config.batch_size)
    here = config.device == "cpu" and config.embedding_sharding == "none"
    what = f"training {name} for {split.train.n_users:,} users and {split.train.n_items:,} items"
    return require_memory(what, need.model + (need.training if here else 0), WAY_OUT)


def time_epoch(model: nn.Module, split: Split, config: TrainConfig) -> EpochTime:
    """Take a few steps with a model and say what an epoch of them takes; validation is not part of it.

    The first step is not timed, as it allocates what the others use again. The model's weights change. Raises as
    `Training.step` does.
    """
    training = Training(model, config)
    if not training.optimizers:
        return EpochTime(0, 0.0, 0)
    batches = Batches(split.train, config.batch_size, config.seed, warm_only=config.negative_items == "warm")
    start = time.perf_counter()
    training.refresh()
    refreshes = -(-batches.steps // config.refresh_every) if config.refresh_every else 1
    fixed = refreshes * (time.perf_counter() - start)
    spent: list[float] = []
    for batch, share, rng in islice(batches.epoch(1, SINGLE_PROCESS), _STEPS + 1):
        start = time.perf_counter()
        training.step(batch, share, rng, SINGLE_PROCESS)
        spent.append(time.perf_counter() - start)
        if sum(spent) > _SECONDS:
            break
    return EpochTime(batches.steps, fixed + batches.steps * statistics.median(spent[1:] or spent), training.parameters)
