"""What a model holds at least is compared with what is free, before anything is allocated."""

import subprocess
import sys

import numpy as np
import pytest

from gtcrec.errors import ConfigError
from gtcrec.models import build_model, make_config
from gtcrec.runtime import memory
from gtcrec.types import Interactions, ItemFeatures

FEW = Interactions(np.arange(5), np.arange(5), 5, 5)
SHORT = r"for 5 users and 5 items: needs at least 0\.00 GiB of memory, 0\.00 GiB are free; a smaller catalogue"


@pytest.mark.parametrize(("model", "least"), [("ease", 4 * 25), ("bpr", 8 * 10 * 64), ("ials", 4 * 10 * 64)])
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
