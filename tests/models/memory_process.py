"""Builds a model, takes three steps and ranks for some users: prints [estimated, measured] bytes beyond the data.

python tests/models/memory_process.py MODEL N_USERS N_ITEMS N_PAIRS WIDTH...
"""

import gc
import json
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from gtcrec.models import build_model, get_spec, make_config
from gtcrec.models.memory import estimate_memory
from gtcrec.ops.topk import recommend
from gtcrec.runtime.process_group import SINGLE_PROCESS
from gtcrec.training.sampling import Batches
from gtcrec.training.trainer import TrainConfig, Training
from gtcrec.types import Interactions, ItemFeatures


def draw(n_users: int, n_items: int, n_pairs: int, *widths: int) -> tuple[Interactions, ItemFeatures]:
    """Pairs whose items differ in popularity, and random content."""
    rng = np.random.default_rng(0)
    items = (n_items * rng.random(n_pairs) ** 2).astype(np.int64)
    pairs = np.unique(rng.integers(0, n_users, n_pairs) * n_items + items)
    values = {f"m{place}": rng.standard_normal((n_items, w)).astype(np.float32) for place, w in enumerate(widths)}
    present = {name: np.ones(n_items, dtype=np.bool_) for name in values}
    return Interactions(*np.divmod(pairs, n_items), n_users, n_items), ItemFeatures(n_items, values, present)


def use(model: str, pairs: Interactions, features: ItemFeatures) -> None:
    """Do what a training does, but shorter."""
    net = build_model(model, pairs, features, make_config(model, {}), 0)
    training = Training(net, TrainConfig())
    if training.optimizers:
        training.refresh()
        for batch, share, rng in islice(Batches(pairs, 2048, 0).epoch(1, SINGLE_PROCESS), 3):
            training.step(batch, share, rng, SINGLE_PROCESS)
    recommend(net.scorer(), np.arange(min(500, pairs.n_users)), 50, [pairs])
    training.best_weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}


def read_status(key: str) -> int:
    """Bytes of a line of the process's status."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main(model: str, sizes: list[int]) -> None:
    use(model, *draw(40, 30, 300, *(4 for _ in sizes[3:])))  # loads libraries, starts threads
    pairs, features = draw(*sizes)
    estimate = estimate_memory(get_spec(model), make_config(model, {}), pairs, features).total
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = read_status("VmRSS")
    use(model, pairs, features)
    sys.stdout.write(json.dumps([estimate, read_status("VmHWM") - before]))


if __name__ == "__main__":
    main(sys.argv[1], [int(word) for word in sys.argv[2:]])
