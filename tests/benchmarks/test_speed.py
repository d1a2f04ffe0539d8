"""The speed benchmarks: the naive transcription computes what it says, and a small run yields whole results."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paths import module_command, module_environment
from benchmarks.speed import candidates, growth, tables
from benchmarks.speed.naive_gtc import NaiveGTC
from gtcrec.ops import graph
from gtcrec.ops import neighbors as similarity
from gtcrec.training.trainer import Negatives
from gtcrec.types import Batch, Interactions, Split

CANDIDATES = {"gtc", "gtc-released", "freedom", "lightgcn", "bpr", "naive_gtc"}
PHASES = {"load", "construction", "refresh", "draw", "forward", "backward", "optimiser", "step", "epoch"}
EVALUATION = {"snapshot", "ranking", "evaluation", "product", "product_fresh"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speed") / "result.json"
    _speed("run", "--size", "small", "--steps", "2", "--rounds", "1", "--passes", "1", "--out", str(out))
    return out


def _speed(*arguments: str) -> str:
    done = _run("side_by_side", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = module_command(f"benchmarks.speed.{module}", *arguments)
    return subprocess.run(command, env=module_environment(), capture_output=True, text=True)


def _batch(train: Interactions, rng: torch.Generator) -> Batch:
    chosen = torch.randint(len(train), (64,), generator=rng)
    users, items = torch.from_numpy(train.users)[chosen], torch.from_numpy(train.items)[chosen]
    return Batch(users, items, Negatives(train).draw(users, rng))


def test_the_naive_loss_falls_and_every_weight_moves(checkerboard: Callable[..., Split]) -> None:
    torch.manual_seed(0)
    split, rng = checkerboard(), torch.Generator().manual_seed(0)
    model = NaiveGTC(split.train, split.features)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    totals, rankings = [], []
    for _ in range(60):
        terms = model.loss(_batch(split.train, rng), rng)
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
        rankings.append(terms["bpr"].item())
    assert np.mean(totals[-10:]) < 0.9 * np.mean(totals[:10])
    assert np.mean(rankings[-10:]) < 0.9 * np.mean(rankings[:10])
    assert [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])] == []


def test_the_naive_graphs_equal_the_dense_formulas(checkerboard: Callable[..., Split]) -> None:
    split = checkerboard()
    train = split.train
    model = NaiveGTC(train, split.features)
    r = torch.from_numpy(graph.bipartite(train).toarray())
    a = torch.zeros(2 * [train.n_users + train.n_items])
    a[: train.n_users, train.n_users :], a[train.n_users :, : train.n_users] = r, r.T
    x = torch.randn(len(a), 64)
    unit = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model._propagated(x), unit + a @ unit + a @ (a @ unit))
    alike = torch.zeros(train.n_users, train.n_users)
    alike.scatter_add_(1, model.neighbours, model.neighbour_weights)
    torch.testing.assert_close(alike, torch.from_numpy(similarity.co_interaction_users(train, 40).toarray()))


def test_the_naive_score_repeats_exactly(checkerboard: Callable[..., Split]) -> None:
    split = checkerboard()
    model = NaiveGTC(split.train, split.features)
    users = torch.arange(split.train.n_users)
    assert torch.equal(model.scorer()(users), model.scorer()(users))


def test_operations_of_a_sparse_product_count_by_its_entries() -> None:
    train = Interactions(np.array([0, 1, 1]), np.array([0, 0, 2]), n_users=2, n_items=4)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.r = torch.nn.Parameter(torch.ones(4, 8)), graph.SparseMatrix(graph.bipartite(train))

        def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, torch.Tensor]:
            return {"sum": self.r(self.items).sum()}

    counted = candidates._flops(Model(), _batch(train, torch.Generator()), seed=0)
    assert counted == 2 * (2 * 3 * 8)  # forward and backward, 3 entries, 8 columns


def test_a_run_measures_every_candidate_and_phase(result: Path) -> None:
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    assert set(found["candidates"]) == CANDIDATES
    assert found["absent"] == []
    for one in found["candidates"].values():
        assert set(one["costs"]) == PHASES | EVALUATION
        for cost in one["costs"].values():
            assert all(0 < cost[kind]["min"] <= cost[kind]["median"] <= cost[kind]["max"] for kind in ("cpu", "wall"))
        assert one["memory"]["imports"]["median"] <= one["memory"]["training"]["median"]
        cpu = {phase: one["costs"][phase]["cpu"]["median"] for phase in ("epoch", "step", "refresh")}
        assert cpu["epoch"] == found["steps_an_epoch"] * cpu["step"] + cpu["refresh"]
    assert found["candidates"]["naive_gtc"]["flops"] > found["candidates"]["bpr"]["flops"]
    assert all(rate["median"] > 0 for rate in found["machine"]["rates"].values())
    assert {"ours", "loop", "product", "product_fresh"} <= set(found["machine"]["evaluation"])
    assert {"ours", "loop"} <= set(found["machine"]["user_graph"])
    assert {name: set(costs) for name, costs in found["machine"]["kernels"].items()} == {
        "product": {"ours", "plain"}, "contrast": {"ours", "plain"},
    }  # fmt: skip


def test_compare_prints_the_ratios_and_refuses_other_data(result: Path, tmp_path: Path) -> None:
    found = json.loads(result.read_text(encoding="utf-8"))
    for seconds in found["candidates"]["gtc"]["costs"]["epoch"].values():
        seconds.update({key: value / 4 for key, value in seconds.items()})
    (tmp_path / "faster.json").write_text(json.dumps(found), encoding="utf-8")
    lines = _speed("compare", str(result), str(tmp_path / "faster.json")).splitlines()
    row = next(line for line in lines if line.startswith("gtc ") and "epoch" in line)
    assert row.split()[-1] == "0.250"
    assert "rounds overlap" in next(line for line in lines if line.startswith("bpr ") and "epoch" in line)
    found["about"]["threads"] = 2
    (tmp_path / "other.json").write_text(json.dumps(found), encoding="utf-8")
    done = _run("side_by_side", "compare", str(result), str(tmp_path / "other.json"))
    assert done.returncode == 1
    assert "the results differ in threads: 1 before, 2 after" in done.stderr


def test_the_tables_hold_every_candidate(result: Path, tmp_path: Path) -> None:
    blocks = tables.blocks(json.loads(result.read_text(encoding="utf-8")))
    page = "\n".join(line for block in blocks.values() for line in block.lines())
    for name in ("GTC, `embedding`", "GTC, `released`", "FREEDOM", "LightGCN", "BPR", "naive GTC"):
        assert page.count(f"| {name} |") == 4
    assert str(tmp_path) not in page


def test_growth_measures_both_ways_of_propagation_and_draws_them(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    words = ["run", "--out", out, "--items", "300", "600", "--steps", "2", "--rounds", "2", "--full-up-to", "300"]
    assert _run("growth", *map(str, words)).returncode == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [(one["items"], one["mode"]) for one in found["points"]] == [
        (300, "sampled"),
        (300, "full"),
        (600, "sampled"),
    ]
    for one in found["points"]:
        assert 0 < one["step"]["min"] <= one["step"]["median"] <= one["step"]["max"]
        assert one["steps"] == -(-one["pairs"] // growth.BATCH)
    assert growth.slope([{"items": 10, "y": 2.0}, {"items": 1000, "y": 20.0}], lambda one: one["y"]) == pytest.approx(
        0.5
    )
    growth.plot(found, tmp_path / "growth.svg")
    text = (tmp_path / "growth.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    blocks = growth.blocks(found)
    assert [row[:2] for row in blocks["growth"].rows] == [["sampled", "300"], ["sampled", "600"], ["full", "300"]]
    assert len(blocks["growth-slopes"].text) == 1
