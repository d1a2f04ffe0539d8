"""Write the folder that all candidates of a speed run load: real or drawn interactions, random content.

Content is random where none comes with the interactions: the time of a step does not depend on its values.
"""

import shutil
from pathlib import Path

import numpy as np

WIDTHS = {"baby": {"image": 4096, "text": 384}, "tiktok": {}, "small": {"image": 48, "text": 16}}
SMALL = (300, 200, 12)  # users, items, interactions a user


def write(size: str, data: Path, folder: Path, seed: int) -> dict[str, list[str]]:
    """Fill `folder` and say which contents are random and which came with the interactions."""
    rng = np.random.default_rng(seed)
    if size == "small":
        n_items = _draw(folder / "small.inter", rng)
    else:
        source = data / size
        if not source.is_dir():
            raise SystemExit(f"{source}: no such folder; --data names the one that holds {size}/")
        for file in [*source.glob("*.inter"), *source.glob("*_feat.npy")]:
            shutil.copyfile(file, folder / file.name)
        n_items = _count_items(next(folder.glob("*.inter")))
    came = sorted(file.name.removesuffix("_feat.npy") for file in folder.glob("*_feat.npy"))
    for name, width in WIDTHS[size].items():
        np.save(folder / f"{name}_feat.npy", rng.standard_normal((n_items, width), dtype=np.float32))
    return {"random": sorted(WIDTHS[size]), "real": came}


def _draw(path: Path, rng: np.random.Generator) -> int:
    """Users' distinct items by power-law popularity, one of them each for validation and test."""
    n_users, n_items, per_user = SMALL
    popularity = 1 / np.arange(1, n_items + 1) ** 0.8
    rows = ["userID\titemID\tx_label"]
    for user in range(n_users):
        items = rng.choice(n_items, per_user, replace=False, p=popularity / popularity.sum())
        rows += [f"{user}\t{item}\t{max(0, place - per_user + 3)}" for place, item in enumerate(items.tolist())]
    rows += [f"{n_users}\t{item}\t0" for item in range(n_items)]  # ids are dense
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return n_items


def _count_items(path: Path) -> int:
    with path.open(encoding="utf-8") as stream:
        place = next(stream).rstrip("\n").split("\t").index("itemID")
        return 1 + max(int(line.split("\t")[place]) for line in stream)
