"""What two workers do for test_sharded.py, and then three: python sharded_process.py TESTS OUT DATA."""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

tests, out, data = map(Path, sys.argv[1:])
sys.path.insert(0, str(tests))

from conftest import checkerboard_split  # noqa: E402
from gtcrec import models  # noqa: E402
from gtcrec.experiments.config import load_config  # noqa: E402
from gtcrec.experiments.run import Run  # noqa: E402
from gtcrec.ops.scorers import ShardedScorer  # noqa: E402
from gtcrec.ops.sharded import RowShardedEmbedding, combine_rows, local_rows, lookup  # noqa: E402
from gtcrec.ops.topk import recommend  # noqa: E402
from gtcrec.runtime.process_group import all_gather_object, init_process_group  # noqa: E402
from gtcrec.training.trainer import TrainConfig, Training, epochs  # noqa: E402
from gtcrec.types import Interactions  # noqa: E402

SETTINGS = {
    "bpr": {"embedding_dim": 8, "sparse": True},
    "gtc": {
        "blend": "none",
        "init": "random",
        "num_layers": 3,
        "item_graph_weight": 1.0,
        "embedding_dim": 8,
        "propagation": "sampled",
        "content_dim": 6,
        "num_user_neighbors": 3,
        "num_item_neighbors": 3,
    },
}
CONFIG = {"batch_size": 128, "learning_rate": 0.02, "valid_metric": "recall@10", "epochs": 2}
N, DIM = 8, 3


def table(workers):
    """Row r is r, r + 0.1, r + 0.2."""
    whole = torch.arange(N)[:, None] + torch.arange(DIM) / 10
    return RowShardedEmbedding(nn.Parameter(whole[list(local_rows(N, workers))]), N, workers)


def looked_up(workers):
    """Each worker asks other rows, some twice, and one none."""
    asked = [[5, 0, 5, 7], [], [1, 1]][workers.rank]
    rows = table(workers)
    found = rows(torch.tensor(asked, dtype=torch.int64)), lookup(rows.local, N, torch.tensor([6, 6, 2]), workers)
    return {"asked": asked, "rows": found[0].tolist(), "fetched": found[1].tolist(), "own": len(rows.local)}


def gradients(workers):
    """Worker 0 gives rows 5, 0, 5 the gradients 1, 2, 3, then row 0 the gradient 4; worker 1 row 5 the gradient 8."""
    rows, other = table(workers), table(workers)
    lost = torch.zeros(())
    for index, weights in [([5, 0, 5], [1.0, 2, 3]), ([0], [4.0])] if workers.rank == 0 else [([5], [8.0]), ([5], [0])]:
        lost = lost + (rows(torch.tensor(index)) * torch.tensor(weights)[:, None]).sum()
    other(torch.tensor([3]))  # which the loss leaves out
    if workers.rank < 2:
        lost.backward()
    combine_rows([rows, other], (0.25, 0.75, 0.0)[workers.rank], workers)
    return {"rows": rows.local.grad.to_dense()[:, 0].tolist(), "other": other.local.grad is None}


def ranked(workers):
    """Scores of small integers, of which many are equal."""
    rng = np.random.default_rng(5)
    users, items = (torch.from_numpy(rng.integers(-1, 2, size=(n, 4))).float() for n in (12, 11))
    own = [side[list(local_rows(len(side), workers))] for side in (users, items)]
    scorer = ShardedScorer(*own, len(users), len(items), workers)
    seen = Interactions(*np.divmod(rng.choice(12 * 11, 40, replace=False), 11), 12, 11)
    wanted = np.array([0, 3, 4, 7, 11])
    equal = {"scores": scorer(torch.from_numpy(wanted)).equal(users[wanted] @ items.T)}
    for k in (4, 11):
        found, plain = (recommend(one, wanted, k, [seen]) for one in (scorer, lambda u: users[u] @ items.T))
        equal[k] = bool((found.items == plain.items).all() and (found.scores == plain.scores).all())
    return equal


def train(name, workers, sharded, **settings):
    """History, weights with the tables whole, scores, how many rows of tables and moments lie here, a way back."""
    split = checkerboard_split()
    config = TrainConfig(**CONFIG | {"embedding_sharding": "row_wise" if sharded else "none"} | settings)
    given = models.make_config(name, SETTINGS[name])
    model = models.build_model(name, split.train, split.features, given, 0, workers if sharded else None)
    training = Training(model, config)
    for _ in epochs(model, split, config, training, workers=workers):
        pass
    held = [len(table.local) for table in model.tables]
    held += [len(x) for slots in training.optimizers[-1].state.values() for x in slots.values() if x.dim()]
    every = torch.arange(40)
    spread = {id(table.local) for table in model.tables} if sharded else {}
    tables = [lookup(p, 40, every, workers) if id(p) in spread else p for p in model.parameters()]
    history = [{"losses": epoch.losses, "valid": epoch.valid} for epoch in training.history]
    scores = model.scorer()(every).tolist()
    found = {"history": history, "weights": [p.tolist() for p in tables], "held": held, "scores": scores}
    return found | {"reloaded": reloaded(training, name, workers)} if sharded else found


def reloaded(training, name, workers):
    """Whether a fresh training that reads this one's checkpoint holds the same, moments included."""
    split, path = checkerboard_split(), out / f"{name}.safetensors"
    training.save(path)
    model = models.build_model(name, split.train, split.features, models.make_config(name, SETTINGS[name]), 1, workers)
    again = Training(model, training.config)
    all_gather_object("saved", workers)
    again.load(path)
    same = [a.equal(b) for a, b in zip(model.state_dict().values(), training.model.state_dict().values(), strict=True)]
    moments = [[x for slots in one.optimizers[-1].state.values() for x in slots.values()] for one in (training, again)]
    return all(same) and all(a.equal(b) for a, b in zip(*moments, strict=True))


def runs(workers):
    """A run to its end, and one that two workers begin and three go on with."""
    given = [
        "sparse=true",
        "embedding_sharding=row_wise",
        "embedding_dim=8",
        "batch_size=128",
        "learning_rate=0.01",
        "seed=2",
        "epochs=4",
    ]
    config = load_config(str(data), "bpr", assignments=given)
    broken = out / "broken"
    if workers.size == 2:
        run = Run.create(config, out / "run", workers)
        list(run.epochs())
        steps = Run.create(config, broken, workers).epochs()
        next(steps), next(steps)
        return run.training.parameters
    next(Run.load(broken, workers=workers).epochs())
    return 0


def work(rank, size, port):
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {**shared, "WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with init_process_group("cpu") as workers:
        found = {
            "looked_up": looked_up(workers),
            "gradients": gradients(workers),
            "ranked": ranked(workers),
            "bpr": [train("bpr", workers, sharded) for sharded in (True, False)],
            "gtc": [train("gtc", workers, sharded, refresh_every=3) for sharded in (True, False)],
            "one_pair_left": train("bpr", workers, True, batch_size=len(checkerboard_split().train) - 1, epochs=1),
            "parameters": runs(workers),
        }
        (out / f"{size}.{rank}.json").write_text(json.dumps(found))


def main():
    start = multiprocessing.get_context("fork").Process  # the imports take longer than the work
    for size in (2, 3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        processes = [start(target=work, args=(rank, size, port)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * size


if __name__ == "__main__":
    main()
