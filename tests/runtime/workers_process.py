"""What each of two workers does for test_workers.py: python workers_process.py TESTS OUT, in torchrun's environment."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

tests, out = map(Path, sys.argv[1:])
sys.path.insert(0, str(tests))

from conftest import RowBPR, checkerboard_split  # noqa: E402
from gtcrec import models  # noqa: E402
from gtcrec.errors import RunError  # noqa: E402
from gtcrec.runtime.process_group import (  # noqa: E402
    ProcessGroup,
    all_reduce_gradients,
    assert_equal_across_ranks,
    gather,
    init_process_group,
)
from gtcrec.training.trainer import TrainConfig, Training, epochs  # noqa: E402

CONFIG = {"batch_size": 64, "learning_rate": 0.02, "valid_metric": "recall@10", "epochs": 3}


def build(name, split):
    if name == "rows":
        return RowBPR(split.train)
    return models.build_model(name, split.train, split.features, models.make_config(name, {"embedding_dim": 8}), 0)


def train(name, workers, epochs_done=0, **settings):
    """History and final weights; a checkpoint lies in `out` afterwards, or is gone on from before."""
    split = checkerboard_split()
    model, config = build(name, split), TrainConfig(**CONFIG | settings)
    training = Training(model, config)
    if epochs_done:
        training.load(out / f"{name}.{epochs_done}.safetensors")
    for epoch in epochs(model, split, config, training, workers=workers):
        if workers.is_main and not (epochs_done or settings):
            training.save(out / f"{name}.{epoch.number}.safetensors")
    history = [{"losses": epoch.losses, "valid": epoch.valid, "seconds": epoch.seconds} for epoch in training.history]
    return {"history": history, "weights": {key: value.tolist() for key, value in model.state_dict().items()}}


def combined(rank, workers):
    """Gradients of worker 0: dense [1, 2], rows 1 and 3; of worker 1: dense none, rows 3, 0, 3. Shares 1/4 and 3/4."""
    one, none, table, empty = (nn.Parameter(torch.zeros(shape)) for shape in ((2,), (2,), (5, 2), (3, 2)))
    index, values = ([1, 3], [[1.0, 1], [2, 2]]) if rank == 0 else ([3, 0, 3], [[4.0, 4], [8, 8], [4, 4]])
    table.grad = torch.sparse_coo_tensor([index], values, (5, 2))
    if rank == 0:
        one.grad = torch.tensor([1.0, 2.0])
        empty.grad = torch.sparse_coo_tensor([[2]], [[1.0, 3.0]], (3, 2))
    all_reduce_gradients([one, none], [table, empty], (0.25, 0.75)[rank], workers)
    return {
        "one": one.grad.tolist(),
        "none": none.grad is None,
        "table": table.grad.to_dense().tolist(),
        "empty": empty.grad.to_dense().tolist(),
    }


def disagreement(workers):
    try:
        assert_equal_across_ranks("their colour", ["red", "blue"][workers.rank], workers)
    except RunError as error:
        return str(error)


def main():
    with init_process_group("cpu") as workers:
        pairs = len(checkerboard_split().train)
        found = {
            "workers": [workers.rank, workers.size],
            "gathered": [part.tolist() for part in gather(torch.arange(workers.rank * 2).view(-1, 1), workers)],
            "combined": combined(workers.rank, workers),
            "disagreement": disagreement(workers),
            **{name: train(name, workers) for name in ("bpr", "lightgcn", "rows", "gtc")},
            "one_pair_left": train("rows", workers, batch_size=pairs - 1, epochs=1),
            "few_users": train("bpr", workers, valid_users=1, epochs=1),
        }
        if workers.is_main:  # alone from where two stood, while the other waits
            found["alone"] = train("rows", ProcessGroup(), epochs_done=2)
        found["resumed"] = train("rows", workers, epochs_done=1)
    found["threads"] = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    (out / f"{workers.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
