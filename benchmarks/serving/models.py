"""Train the models that the servers answer with, and store the lists that answers must equal.

python -m benchmarks.serving.models prepare FOLDER data|large SOURCE EPOCHS
"""

import json
import sys
from pathlib import Path

import numpy as np

import gtcrec
from gtcrec.serving.http.live import version_of
from gtcrec.types import Interactions, Split

SEEDS = (0, 1, 2)
LARGE_USERS, LARGE_HISTORY = 2_000, 20  # users whose lists are all ready
LONGEST = 100  # items of an expected list: what clicks leave of it is checked too


def prepare(folder: Path, name: str, source: str, epochs: int) -> None:
    """Train and save three models in a folder, unless they are there."""
    if (folder / "expected.npz").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    train: Split | Interactions
    if name == "large":
        model, train = "bpr", draw(int(source))
    else:
        model, train = "gtc", gtcrec.split(gtcrec.load_dataset(source))
    pairs = train.train if isinstance(train, Split) else train
    np.savez(folder / "pairs.npz", users=pairs.users, items=pairs.items)  # for the peers
    for seed in SEEDS:
        if not (folder / str(seed)).exists():
            gtcrec.Recommender(model, seed=seed).fit(train, epochs=epochs).save(folder / str(seed))
    store_expected(folder, [folder / str(seed) for seed in SEEDS])
    known = gtcrec.Recommender.load(folder / "0")
    about = {"name": f"gtcrec, {model}", "items": len(known.item_ids), "users": len(known.user_ids)}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def draw(n_items: int) -> Interactions:
    """Return drawn interactions of a large catalog: some items far more popular than others."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(LARGE_USERS), LARGE_HISTORY)
    items = (n_items * rng.random(len(users)) ** 2).astype(np.int64)
    pairs = np.unique(users * n_items + items)
    return Interactions(pairs // n_items, pairs % n_items, LARGE_USERS, n_items)


def store_expected(folder: Path, runs: list[Path]) -> None:
    """Store what `recommend` returns for all users of each run."""
    stored: dict[str, np.ndarray] = {}
    for run in runs:
        model = gtcrec.Recommender.load(run)
        users, items = ({one: place for place, one in enumerate(ids)} for ids in (model.user_ids, model.item_ids))
        lists = np.full((len(users), LONGEST), -1, np.int32), np.zeros((len(users), LONGEST), np.float32)
        table = model.recommend(k=LONGEST)
        place = [users[user] for user in table["user_id"].to_pylist()], table["rank"].to_numpy() - 1
        lists[0][place] = [items[item] for item in table["item_id"].to_pylist()]
        lists[1][place] = table["score"].to_numpy()
        version = version_of(run)
        stored |= {f"{version}_items": lists[0], f"{version}_scores": lists[1]}
    versions = np.array([version_of(run) for run in runs])
    np.savez(folder / "expected.npz", users=np.array([*users]), items=np.array([*items]), versions=versions, **stored)


if __name__ == "__main__":
    _, _, where, what, source, epochs = sys.argv
    prepare(Path(where), what, source, int(epochs))
