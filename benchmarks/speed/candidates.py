"""Time one candidate in this process, phase by phase: loading, building, steps of training, evaluation."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import Clock, Cost, added, middle, peak_bytes
from benchmarks.speed.naive_gtc import LEARNING_RATE, NaiveGTC
from gtcrec import data, models
from gtcrec.evaluation.evaluator import evaluate_split
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.ops import topk as ranking
from gtcrec.training.trainer import Negatives, TrainConfig, Training
from gtcrec.types import Batch, Interactions, Split

# name -> (model, preset); the naive transcription is no model of the package
CANDIDATES = {
    "gtc": ("gtc", "embedding"),
    "gtc-released": ("gtc", "released"),
    "freedom": ("freedom", "default"),
    "lightgcn": ("lightgcn", "default"),
    "bpr": ("bpr", "default"),
    "naive_gtc": ("", ""),
}
BATCH, WARM_UP = 2048, 1
STEP = ("draw", "forward", "backward", "optimiser")


def measure(name: str, folder: str, steps: int, passes: int, seed: int) -> dict[str, Any]:
    """Load, build, train a few steps and evaluate; `costs` holds the seconds of each phase.

    A candidate that is not among the models is reported as absent.
    """
    if name != "naive_gtc" and CANDIDATES[name][0] not in models.list_models():
        return {"absent": True}
    memory = {"imports": peak_bytes()}
    clock = Clock()
    split = data.split(data.load(folder))
    costs = {"load": clock.lap()}
    model, optimizer = build(name, split, seed)
    costs["construction"] = clock.lap()
    getattr(model, "refresh", lambda: None)()
    costs["refresh"] = clock.lap()
    batches = _batches(split.train, seed)
    taken, losses = _steps(model, optimizer, batches, steps, seed)
    memory["training"] = peak_bytes()
    costs |= {phase: middle([step[phase] for step in taken]) for phase in (*STEP, "step")}
    costs |= _evaluation(model, split, passes)
    memory["evaluation"] = peak_bytes()
    weights = [p for p in model.parameters() if p.requires_grad]
    return {
        "parameters": sum(p.numel() for p in weights),
        "flops": _flops(model, next(batches)[0], seed),
        "bytes_once": _bytes_once(model, weights),
        "score_width": int(model.vectors()[0].shape[1]),
        "losses": losses,
        "steps": taken,
        "costs": costs,
        "memory": memory,
    }


def build(name: str, split: Split, seed: int) -> tuple[Any, torch.optim.Optimizer]:
    """The candidate as its own training would start it."""
    torch.manual_seed(seed)
    if name == "naive_gtc":
        naive = NaiveGTC(split.train, split.features)
        return naive, torch.optim.Adam(naive.parameters(), lr=LEARNING_RATE)
    model_name, preset = CANDIDATES[name]
    config = models.make_config(model_name, {}, preset)
    model = models.build_model(model_name, split.train, split.features, config, seed)
    (optimizer,) = Training(model, TrainConfig(**models.get_spec(model_name).presets[preset][1])).optimizers
    return model, optimizer


def step(
    model: Any, optimizer: torch.optim.Optimizer, batch: Batch, rng: torch.Generator
) -> tuple[dict[str, Cost], float]:
    """One step of training, its phases timed apart; also returns the loss."""
    clock = Clock()
    terms: dict[str, Tensor] = model.loss(batch, rng)
    total = torch.stack([value for name, value in terms.items() if not name.startswith("log.")]).sum()
    costs = {"forward": clock.lap()}
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    costs["backward"] = clock.lap()
    optimizer.step()
    return costs | {"optimiser": clock.lap()}, float(total.detach())


def _steps(
    model: Any, optimizer: torch.optim.Optimizer, batches: Iterator[tuple[Batch, Cost]], steps: int, seed: int
) -> tuple[list[dict[str, Cost]], list[float]]:
    taken, losses = [], []
    for number, (batch, draw) in enumerate(itertools.islice(batches, WARM_UP + steps)):
        costs, loss = step(model, optimizer, batch, torch.Generator().manual_seed(seed * 10_007 + number))
        costs["draw"] = draw
        taken.append({**costs, "step": added(list(costs.values()))})
        losses.append(loss)
    if not all(map(math.isfinite, losses)):
        raise SystemExit(f"the loss is no longer finite: {losses}")
    return taken[WARM_UP:], losses


def _batches(train: Interactions, seed: int) -> Iterator[tuple[Batch, Cost]]:
    """Batches in a random order, over and over, each with the seconds that drawing it took."""
    rng = torch.Generator().manual_seed(seed)
    usable = torch.from_numpy(np.flatnonzero(train.user_counts[train.users] < train.n_items))
    users, items = torch.from_numpy(train.users), torch.from_numpy(train.items)
    negatives = Negatives(train)
    while True:
        for chosen in torch.split(usable[torch.randperm(len(usable), generator=rng)], BATCH):
            clock = Clock()
            batch = Batch(users[chosen], items[chosen], negatives.draw(users[chosen], rng))
            yield batch, clock.lap()


def _evaluation(model: Any, split: Split, passes: int) -> dict[str, Cost]:
    """A validation pass as training does it, and the bare matrix products that it cannot do without."""
    snapshots, rankings, products, fresh = [], [], [], []
    for _ in range(passes):
        clock = Clock()
        scorer = model.scorer()
        snapshots.append(clock.lap())
        report = evaluate_split(scorer, split, "valid", EvaluateConfig(), details=False)
        rankings.append(clock.lap())
        vectors = model.vectors()
        users, items = vectors[0][torch.from_numpy(report.users)], vectors[1]
        products.append(product(users, items, reuse=True))
        fresh.append(product(users, items, reuse=False))
    both = [added(pair) for pair in zip(snapshots, rankings, strict=True)]
    return {
        "snapshot": middle(snapshots),
        "ranking": middle(rankings),
        "evaluation": middle(both),
        "product": middle(products),
        "product_fresh": middle(fresh),
    }


@torch.inference_mode()
def product(users: Tensor, items: Tensor, reuse: bool) -> Cost:
    """Seconds for the scores of all users in the evaluation's own blocks; `reuse`: all into one buffer."""
    block = ranking.block_users(len(items))
    buffer = torch.zeros(min(block, len(users)), len(items))
    torch.mm(users[:block], items.T, out=buffer[: len(users[:block])])
    clock = Clock()
    for rows in torch.split(users, block):
        if reuse:
            torch.mm(rows, items.T, out=buffer[: len(rows)])
        else:
            rows @ items.T
    return clock.lap()


def _flops(model: Any, batch: Batch, seed: int) -> int:
    """Multiplications and additions of the matrix products in a forward and a backward pass; nothing else counts."""
    aten = torch.ops.aten
    bags = dict.fromkeys((aten._embedding_bag, aten._embedding_bag_forward_only), _bag)
    with FlopCounterMode(display=False, custom_mapping={aten.mm: _mm, aten.addmm: _addmm, **bags}) as count:
        terms = model.loss(batch, torch.Generator().manual_seed(seed))
        torch.stack([value for name, value in terms.items() if not name.startswith("log.")]).sum().backward()
    return count.get_total_flops()


def _mm(a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
    """A sparse matrix counts by its stored entries."""
    if a.layout in (torch.sparse_csr, torch.sparse_coo):
        return 2 * a._nnz() * b.shape[1]
    return 2 * a.shape[0] * a.shape[1] * b.shape[1]


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
    return _mm(a, b)


def _bag(x: Tensor, columns: Tensor, *rest: Any, **more: Any) -> int:
    """A sparse product as a sum of embedding bags."""
    return 2 * len(columns) * x.shape[1]


_mm._get_raw = _addmm._get_raw = _bag._get_raw = True  # type: ignore[attr-defined]  # ask for the tensors, not for their shapes


def _bytes_once(model: nn.Module, weights: list[nn.Parameter]) -> int:
    """Bytes moved if a step touches every weight and every constant exactly once.

    A weight and its two moments are read and written and its gradient is written and read: 8 passes. Constants
    (content, graphs) are read.
    """
    constants = 0
    for buffer in model.buffers():
        stored = buffer._values() if buffer.layout == torch.sparse_coo else buffer
        constants += stored.numel() * stored.element_size()
    return 8 * sum(p.numel() * p.element_size() for p in weights) + constants
