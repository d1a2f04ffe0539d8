"""Several processes that train one model: each computes a part of every batch, and all take the same step.

Alone, which is the default, nothing here communicates. With more workers torch.distributed must have its process group
(gloo or nccl), and each function is called by all workers, in the same order.
"""

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gtcrec.errors import ConfigError, RunError

__all__ = [
    "SINGLE_PROCESS",
    "ProcessGroup",
    "all_gather_object",
    "all_reduce_gradients",
    "all_to_all",
    "assert_equal_across_ranks",
    "broadcast",
    "find_device",
    "gather",
    "gather_equal",
    "init_process_group",
    "refuse_numbered_gpu",
    "tensor_digest",
]


@dataclass(frozen=True)
class ProcessGroup:
    """Which of the processes that train together this one is.

    >>> [ProcessGroup(rank, 3).shard(10) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the worker that writes files and shows progress."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """This worker's part of n rows: contiguous, in order of rank, sizes differing by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)


SINGLE_PROCESS = ProcessGroup()
"""The group of a process that works alone."""


def find_device(name: str) -> torch.device:
    """Return the device called cpu, cuda or cuda:N. Raises `ConfigError` that lists what torch sees."""
    count = torch.cuda.device_count()
    seen = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if name not in seen:
        raise ConfigError(f"there is no device {name!r}; torch sees {', '.join(seen)}")
    return torch.device(name)


def refuse_numbered_gpu(device: str) -> None:
    """Raise `ConfigError` for a numbered GPU: of several workers each has a GPU of its own."""
    if device.startswith("cuda:"):
        raise ConfigError(f"several workers have a GPU each; expected device cuda (or cpu), found {device!r}")


@contextmanager
def init_process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the workers that torchrun started this process among; without torchrun it works alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield SINGLE_PROCESS
        return
    refuse_numbered_gpu(device)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The functions of this module have the group as a default argument. Were it first imported later (optimisers import
    # it), they would hold the group beyond its end, and with it threads that abort the process as Python shuts down.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def gather(x: Tensor, workers: ProcessGroup) -> list[Tensor]:
    """Return each worker's x, in order of rank; only the first dimension may differ in length."""
    lengths = gather_equal(torch.tensor([len(x)]), workers)
    return _gather_rows(x, [int(length) for length in lengths], workers)


def gather_equal(x: Tensor, workers: ProcessGroup) -> list[Tensor]:
    """`gather` for equal shapes; the result lies where x does."""
    sent = _sendable(x)
    parts = [torch.empty_like(sent) for _ in range(workers.size)]
    dist.all_gather(parts, sent)
    return [part.to(x.device) for part in parts]


def broadcast(x: Tensor, rank: int) -> Tensor:
    """Return the x of worker `rank`; the others give one of its shape, whatever it holds."""
    sent = _sendable(x)
    dist.broadcast(sent, rank)
    return sent.to(x.device)


def all_to_all(x: Tensor, sent: Sequence[int], got: Sequence[int]) -> Tensor:
    """Send each worker r its sent[r] rows of x, in order of rank; return the got[r] rows from each, in that order."""
    rows = _sendable(x)
    come = rows.new_empty(sum(got), *rows.shape[1:])
    dist.all_to_all_single(come, rows, list(got), list(sent))
    return come.to(x.device)


def all_gather_object(value: Any, workers: ProcessGroup) -> list[Any]:
    """Return each worker's value, in order of rank; values must be JSON-able."""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(part.numpy().tobytes()) for part in gather(text, workers)]


def assert_equal_across_ranks(what: str, value: Any, workers: ProcessGroup) -> None:
    """Raise `RunError` in all workers unless all hold the same JSON-able value."""
    first, *others = all_gather_object(value, workers)
    for rank, other in enumerate(others, 1):
        if other != first:
            raise RunError(f"worker {rank} and worker 0 differ in {what}: {other!r} and {first!r}")


def tensor_digest(weights: Iterable[Tensor]) -> int:
    """Return a number that differs as good as always when a bit of the float32 weights does."""
    return sum(int(p.detach().view(torch.int32).sum(dtype=torch.int64)) for p in weights)


def all_reduce_gradients(
    dense: Sequence[nn.Parameter], rows: Sequence[nn.Parameter], share: float, workers: ProcessGroup
) -> None:
    """Set each parameter's gradient to the sum over the workers of `share` times theirs, equal in all workers.

    `rows` have row-sparse gradients, of which only the rows at hand travel. No gradient counts as zero; a parameter
    that has none in any worker keeps none.
    """
    if dense:
        _combine_dense(dense, share)
    if rows:
        _combine_rows(rows, share, workers)


def _combine_dense(params: Sequence[nn.Parameter], share: float) -> None:
    """One sum over one flat buffer, which starts with how many workers have each gradient."""
    have = torch.tensor([float(p.grad is not None) for p in params], device=params[0].device)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    flat = torch.cat([have, *(grad.reshape(-1) for grad in grads)])
    flat[len(have) :] *= share
    dist.all_reduce(flat)
    counts, *sums = torch.split(flat, [len(params), *(p.numel() for p in params)])
    for p, count, total in zip(params, counts.tolist(), sums, strict=True):
        p.grad = total.view_as(p) if count else None


def _combine_rows(params: Sequence[nn.Parameter], share: float, workers: ProcessGroup) -> None:
    """Each worker's rows laid end to end: a row that several workers have stands in the gradient several times."""
    own = [_rows(p) for p in params]
    lengths = torch.stack(gather_equal(torch.tensor([len(index) for index, _ in own]), workers))  # [size, params]
    for p, (index, values), counts in zip(params, own, lengths.T.tolist(), strict=True):
        places = torch.cat(_gather_rows(index, counts, workers))
        whole = torch.cat(_gather_rows(values * share, counts, workers))
        some = torch.sparse_coo_tensor(places[None], whole, p.shape, check_invariants=False)
        p.grad = some if len(places) else None


def _rows(p: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Rows [n] and values [n, ...] of a row-sparse gradient, each row once."""
    if p.grad is None:
        return torch.zeros(0, dtype=torch.int64, device=p.device), p.new_zeros(0, *p.shape[1:])
    grad = p.grad.coalesce()
    return grad.indices()[0], grad.values()


def _gather_rows(x: Tensor, lengths: Sequence[int], workers: ProcessGroup) -> list[Tensor]:
    """`gather` with known lengths: padded to the longest, as the collective wants equal shapes."""
    padded = x.new_zeros(max(lengths), *x.shape[1:])
    padded[: len(x)] = x
    return [part[:length] for part, length in zip(gather_equal(padded, workers), lengths, strict=True)]


def _sendable(x: Tensor) -> Tensor:
    """x as the process group can send it."""
    return x.detach().to("cuda" if dist.get_backend() == "nccl" else "cpu").contiguous()
