"""Train a peer's model and serve it as its documentation says; run by a Python that has the peer, without gtcrec.

python benchmarks/serving/peer_models.py implicit|cornac FOLDER

FOLDER has `pairs.npz`, the training interactions. It gets the model and the lists that its own library returns.
"""

import os
import sys
from pathlib import Path

import numpy as np

N, DIM = 10, 64


def train_implicit(folder: Path) -> None:
    import implicit
    from scipy.sparse import csr_matrix

    stored = np.load(folder / "pairs.npz")
    seen = csr_matrix((np.ones(len(stored["users"]), np.float32), (stored["users"], stored["items"])))
    model = implicit.als.AlternatingLeastSquares(factors=DIM, iterations=2, num_threads=1, random_state=0)
    model.fit(seen, show_progress=False)
    model.save(folder / "implicit-model.npz")
    users = np.arange(seen.shape[0])
    store(folder, "implicit", users.tolist(), *model.recommend(users, seen, N=N))


def train_cornac(folder: Path) -> None:
    import cornac

    stored = np.load(folder / "pairs.npz")
    pairs = zip(map(str, stored["users"]), map(str, stored["items"]), np.ones(len(stored["users"])), strict=True)
    data = cornac.data.Dataset.from_uir(list(pairs), seed=0)
    model = cornac.models.BPR(k=DIM, max_iter=2, seed=0, num_threads=1).fit(data)
    model.save(str(folder / "cornac-model"), save_trainset=True)
    users = list(data.uid_map)
    lists = [model.recommend(user, k=N, remove_seen=True, train_set=data) for user in users]
    store(folder, "cornac", users, np.array(lists).astype(np.int64), np.zeros((len(users), N)))


def store(folder: Path, name: str, users: list, items: np.ndarray, scores: np.ndarray) -> None:
    lists = {f"{name}_items": items.astype(np.int32), f"{name}_scores": scores.astype(np.float32)}
    known = np.arange(int(items.max()) + 1).astype(str)
    np.savez(folder / f"expected-{name}.npz", users=np.array(users).astype(str), items=known, versions=[name], **lists)


def make_app():
    """The application around implicit: the shortest that answers."""
    import implicit
    from fastapi import FastAPI
    from scipy.sparse import csr_matrix

    folder = Path(os.environ["PEER_FOLDER"])
    stored = np.load(folder / "pairs.npz")
    seen = csr_matrix((np.ones(len(stored["users"]), np.float32), (stored["users"], stored["items"])))
    model = implicit.cpu.als.AlternatingLeastSquares.load(folder / "implicit-model.npz")
    app = FastAPI()

    @app.get("/recommend/{user}")
    async def recommend(user: int, n: int = N) -> dict:
        items, scores = model.recommend(user, seen[user], N=n)
        rows = [{"item": str(i), "score": s} for i, s in zip(items.tolist(), scores.tolist(), strict=True)]
        return {"user": str(user), "version": "implicit", "items": rows}

    return app


if __name__ == "__main__":
    {"implicit": train_implicit, "cornac": train_cornac}[sys.argv[1]](Path(sys.argv[2]))
