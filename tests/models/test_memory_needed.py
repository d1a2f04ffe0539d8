"""What a model holds at least is compared with what is free, before anything is allocated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.models import build_model, get_spec, make_config
from gtcrec.models.memory import estimate_memory
from gtcrec.models.registry import MODELS
from gtcrec.ops.ann import estimate_index
from gtcrec.runtime import memory
from gtcrec.types import Interactions, ItemFeatures

FEW = Interactions(np.arange(5), np.arange(5), 5, 5)
SHORT = r"for 5 users and 5 items: needs at least 0\.00 GiB of memory, 0\.00 GiB are free; a smaller catalogue"


@pytest.mark.parametrize(("model", "least"), [("ease", 4 * 25), ("bpr", 4 * 10 * 64), ("ials", 4 * 10 * 64)])
def test_a_model_is_built_only_where_its_memory_is_free(
    model: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(model, {} if model == "ease" else {"embedding_dim": 64})
    monkeypatch.setattr(memory, "free_memory", lambda: least)
    build_model(model, FEW, ItemFeatures(5), config, 0)
    monkeypatch.setattr(memory, "free_memory", lambda: least - 1)
    with pytest.raises(ConfigError, match=f"{model} {SHORT}"):
        build_model(model, FEW, ItemFeatures(5), config, 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 6.25 GiB for an array"), "Unable to allocate 6.25 GiB for an array; less"),
        (RuntimeError("can't allocate memory: you tried to allocate 8 bytes."), "to allocate 8 bytes.; less"),
    ],
)
def test_memory_that_runs_short_on_the_way_is_an_error_of_ours(error: Exception, said: str) -> None:
    with pytest.raises(ConfigError) as caught, memory.require_memory("ease", 0, "less"):
        raise error
    assert said in str(caught.value)
    with pytest.raises(RuntimeError, match="other"), memory.require_memory("ease", 0, "less"):
        raise RuntimeError("other")


def test_ulimit_bounds_what_is_free() -> None:
    code = "from gtcrec.runtime.memory import free_memory; print(free_memory())"
    line = ["bash", "-c", f'ulimit -v 1000000; exec {sys.executable} -c "{code}"']
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert 0 < float(done.stdout) < 1_024_000_000, done.stderr


def test_a_training_is_begun_only_where_gradients_and_moments_fit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = write_catalog(tmp_path / "shop", n_users=30, n_items=40)
    config = load_config(str(shop), "bpr", assignments=["embedding_dim=64", "epochs=1"])
    least = 5 * 4 * 70 * 64  # weights, gradients, Adam's two moments, the best weights so far
    monkeypatch.setattr(memory, "free_memory", lambda: least - 1)
    with pytest.raises(ConfigError, match=r"training bpr for 30 users and 40 items: needs at least 0\.00 GiB"):
        Run.create(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(memory, "free_memory", lambda: least)
    assert Run.create(config, tmp_path / "run").folder.is_dir()


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_that_is_too_large_is_refused_before_it_is_built(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, rng = get_spec(name), np.random.default_rng(0)
    users, items = np.divmod(rng.choice(3000, 900, replace=False), 50)
    pairs, config = Interactions(users, items, 60, 50), make_config(name, spec.small)
    content = ItemFeatures(50, {"text": rng.random((50, 8), np.float32)}, {"text": np.ones(50, bool)})
    least = estimate_memory(spec, config, pairs, content)
    if name == "popular":
        assert least.model == 0
        return
    assert 0 < least.model < least.total
    monkeypatch.setattr(memory, "free_memory", lambda: least.model - 1)
    monkeypatch.setattr(spec.model, "__init__", lambda *_: pytest.fail("was built"))
    with pytest.raises(ConfigError, match=f"{name} for 60 users and 50 items: needs at least"):
        build_model(name, pairs, content, config, 0)


def test_what_is_trained_is_counted() -> None:
    rng = np.random.default_rng(0)
    pairs = Interactions(*np.divmod(rng.choice(300_000, 9000, replace=False), 100), 3000, 100)
    content = ItemFeatures(100, {"text": rng.random((100, 16), np.float32)}, {"text": np.ones(100, bool)})
    for name in ("bpr", "lightgcn", "simgcl", "vbpr", "freedom", "bm3", "diffmm", "gtc"):
        spec, config = get_spec(name), make_config(name, {})
        counted = estimate_memory(spec, config, pairs, content).weights
        true = sum(p.numel() for p in build_model(name, pairs, content, config, 0).parameters())
        assert counted == pytest.approx(true, rel=0.2), name


def test_an_index_of_content_takes_the_place_of_blocks_of_the_search() -> None:
    items = 4000
    rng, pairs = np.random.default_rng(0), Interactions(np.arange(9), np.arange(9), 9, items)
    content = ItemFeatures(items, {"text": rng.random((items, 256), np.float32)}, {"text": np.ones(items, bool)})
    settings = {"blend": "none", "init": "random", "embedding_dim": 4, "hidden_dim": 4, "num_user_neighbors": 0}
    exact, approximate = (
        estimate_memory(get_spec("gtc"), make_config("gtc", {**settings, "neighbor_search": search}), pairs, content)
        for search in ("exact", "approximate")
    )
    without_blocks = exact.passing - 3 * 4 * items * 1024
    assert approximate.passing == without_blocks + estimate_index(items, 256)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peaks of memory")
@pytest.mark.parametrize("sizes", [(20_000, 8_000, 250_000, 512, 128), (60_000, 6_000, 400_000, 128)])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "popular"])
def test_the_estimate_is_within_a_factor_of_two_of_the_peak(name: str, sizes: tuple[int, ...]) -> None:
    line = [sys.executable, str(Path(__file__).parent / "memory_process.py"), name, *map(str, sizes)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    estimated, measured = json.loads(done.stdout)
    assert measured / 2 < estimated < measured * 2, (estimated, measured)
