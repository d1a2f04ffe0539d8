"""Item weights that are solved in blocks: the run's equal the estimator's, and a killed job goes on."""

import subprocess
import sys

import numpy as np
import pytest

import gtcrec
from gtcrec.experiments import item_weights
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.models.baselines.l3ae import L3AE

SETTINGS = ["candidates=local", "num_candidates=8"]


@pytest.fixture
def catalog(tmp_path):
    return gtcrec.data.write_catalog(tmp_path / "catalog", n_users=60, n_items=40)


def solved(run):
    for _ in run.epochs():
        pass
    assert isinstance(run.model, L3AE)
    return run.model.chosen.numpy(), run.model.weights.numpy()


def test_a_run_solves_in_blocks_what_a_fresh_model_solves_at_once(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(item_weights, "_BLOCK", 7)
    run = Run.create(load_config(str(catalog), "l3ae", assignments=SETTINGS), tmp_path / "run")
    assert run.model.n_items == 40  # nothing is solved for before training
    chosen, weights = solved(run)
    config = gtcrec.models.make_config("l3ae", run.config.settings)
    once = gtcrec.models.build_model("l3ae", run.split.train, run.split.features, config, 0)
    assert np.array_equal(chosen, once.chosen.numpy())
    np.testing.assert_allclose(weights, once.weights.numpy(), atol=1e-6)
    assert list((tmp_path / "run").glob(".item_weights*")) == []
    again = Run.load(tmp_path / "run")
    assert np.array_equal(again.model.weights.numpy(), weights)  # from the checkpoint: nothing is solved again


def test_a_killed_job_goes_on_behind_its_last_block(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(item_weights, "_BLOCK", 7)
    config = load_config(str(catalog), "l3ae", assignments=SETTINGS)
    whole = solved(Run.create(config, tmp_path / "whole"))
    solve, seen = L3AE.solve_items, []

    def dies_at_the_third(model, items):
        seen.append(items.tolist())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return solve(model, items)

    monkeypatch.setattr(L3AE, "solve_items", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        solved(Run.create(config, tmp_path / "run"))
    resumed = solved(Run.load(tmp_path / "run"))
    assert [items[0] for items in seen] == [0, 7, 14, 14, 21, 28, 35]
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.slow
def test_rays_workers_solve_to_the_same_bytes(tmp_path, loopback):
    catalog, found = gtcrec.data.write_catalog(tmp_path / "catalog", n_users=200, n_items=600), []  # two blocks
    for name, more in (("local", []), ("ray", ["--engine", "ray", "--workers", "2"])):
        words = ["train", str(catalog), "l3ae", *SETTINGS, "--out", str(tmp_path / name), *more]
        subprocess.run([*loopback, sys.executable, "-m", "gtcrec", *words], check=True, timeout=300)
        model = Run.load(tmp_path / name).model
        found.append((model.chosen.numpy(), model.weights.numpy()))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
