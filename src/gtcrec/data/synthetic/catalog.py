"""Catalogues whose truth is known: groups of users who care about different parts of the content."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gtcrec.data.synthetic.rendering import (
    ATTRIBUTES,
    draw_images,
    encode_png,
    image_features,
    text_features,
    write_texts,
)
from gtcrec.errors import DataError
from gtcrec.runtime.files import new_folder, write_manifest
from gtcrec.types import Dataset, Interactions, Ints, ItemFeatures, ItemMetadata, Vocabulary

__all__ = ["CARES", "SyntheticCatalog", "make_catalog", "write_catalog"]

CARES = ("colour", "shape", "kind")
"""The attribute that each group of users cares about; nobody cares about the material."""

_STREAM = 3  # keeps these draws apart from others that start from the same seed
_TASTE = 4.0  # log odds of an item that has a value the user likes
_LATE = 0.1  # share of items that hardly anyone has met
_WITHOUT_IMAGE = 0.04  # share of items


@dataclass(frozen=True, eq=False)
class SyntheticCatalog:
    """A catalogue and its truth.

    User u belongs to `groups[u]` (int64 [n_users]), cares about attribute `CARES[groups[u]]` and likes its
    two values `tastes[u]` (int64 [n_users, 2]). `attributes[name][i]` is item i's value, an index of
    `draw.ATTRIBUTES[name]`. `images` uint8 [n_items, 48, 48, 3]; those of items without the modality exist
    nowhere else. `item_columns` has title, description, price and the attributes in words, a value an item.
    """

    dataset: Dataset
    groups: Ints
    tastes: Ints
    attributes: Mapping[str, Ints]
    images: NDArray[np.uint8]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    item_columns: Mapping[str, Sequence[Any]]


def make_catalog(n_users: int = 1200, n_items: int = 600, per_user: float = 11, seed: int = 0) -> SyntheticCatalog:
    """Draw a catalog whose truth is known: each user cares about one attribute of the items.

    A user's choices follow the taste in one attribute, the items' popularity and chance. Collaborative filtering sees
    few interactions; the content says what each item is.

    Parameters
    ----------
    n_users, n_items
        How many there are; at least 1 and 20.
    per_user
        Interactions a user on average, from 4 to `n_items / 2`.
    seed
        Of all draws.

    Returns
    -------
    SyntheticCatalog
        The data set, the users' groups and tastes, and the items' attributes, images and texts.

    Raises
    ------
    DataError
        For sizes out of these ranges.

    Examples
    --------
    >>> catalog = make_catalog(n_users=30, n_items=40)
    >>> catalog.tastes.shape, catalog.images.shape
    ((30, 2), (40, 48, 48, 3))
    """
    if n_users < 1 or n_items < 20 or not 4 <= per_user <= n_items / 2:
        raise DataError(
            f"expected at least 1 user, 20 items and 4 to n_items / 2 interactions a user, "
            f"found {n_users}, {n_items}, {per_user:g}"
        )
    rng = np.random.default_rng([_STREAM, seed])
    attributes = {name: rng.integers(0, len(values), n_items) for name, values in ATTRIBUTES.items()}
    images = draw_images(attributes, rng)
    titles, texts = write_texts(attributes, rng)
    groups = rng.integers(0, len(CARES), n_users)
    n_values = np.array([len(ATTRIBUTES[name]) for name in CARES])[groups]
    first = rng.integers(0, n_values)
    tastes = np.stack([first, (first + rng.integers(1, n_values)) % n_values], axis=1)
    pairs = _choose_items(attributes, groups, tastes, per_user, rng)
    shown = np.ones(n_items, dtype=np.bool_)
    shown[rng.choice(n_items, max(1, round(_WITHOUT_IMAGE * n_items)), replace=False)] = False
    image = image_features(images) * shown[:, None]
    text = text_features(tuple(f"{title} {more}" for title, more in zip(titles, texts, strict=True)))
    times = (1_600_000_000 + rng.integers(0, 100_000_000, len(pairs))).astype(np.float64)
    columns = _item_columns(titles, texts, attributes, rng)
    dataset = Dataset(
        name="planted",
        interactions=pairs,
        features=ItemFeatures(
            n_items, {"image": image, "text": text}, {"image": shown, "text": (text != 0).any(axis=1)}
        ),
        users=Vocabulary(_name_ids("u", n_users), "user"),
        items=Vocabulary(_name_ids("p", n_items), "item"),
        times=times,
        item_metadata=ItemMetadata(titles, (None,) * n_items, pa.table(columns)),
    )
    return SyntheticCatalog(dataset, groups, tastes, attributes, images, titles, texts, columns)


def write_catalog(
    folder: str | Path, n_users: int = 1200, n_items: int = 600, per_user: float = 11, seed: int = 0
) -> Path:
    """Write a synthetic catalog as a folder that `load` reads, and return the folder.

    It holds `interactions.csv`, `items.csv`, `images/*.png`, `image_feat.npy`, `text_feat.npy` and `manifest.json`,
    with the same bytes for the same arguments.

    Parameters
    ----------
    folder
        A new or empty folder.
    n_users, n_items, per_user, seed
        As for `make_catalog`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        For a folder in use, and as `make_catalog`.
    """
    with new_folder(Path(folder)) as fresh:
        _write_catalog_files(fresh, n_users, n_items, per_user, seed)
    return Path(folder)


def _write_catalog_files(folder: Path, n_users: int, n_items: int, per_user: float, seed: int) -> None:
    truth = make_catalog(n_users, n_items, per_user, seed)
    data, items = truth.dataset, truth.dataset.items.ids.tolist()
    shown = data.features.present["image"]
    pictures = [f"images/{item}.png" if there else "" for item, there in zip(items, shown, strict=True)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for picture, pixels in zip(pictures, truth.images, strict=True):
        if picture:
            (folder / picture).write_bytes(encode_png(pixels))
    _write_csv(folder / "interactions.csv", ("user_id", "item_id", "timestamp"), _interaction_rows(data))
    columns = {**truth.item_columns, "image": pictures}
    _write_csv(folder / "items.csv", ("item_id", *columns), zip(items, *columns.values(), strict=True))
    for name, values in data.features.values.items():
        np.save(folder / f"{name}_feat.npy", values, allow_pickle=False)
    names = ["interactions.csv", "items.csv", "image_feat.npy", "text_feat.npy", *filter(None, pictures)]
    about = {"source": "planted", "n_users": n_users, "n_items": n_items, "per_user": per_user, "seed": seed}
    write_manifest(folder, names, {"gtcrec": about})


def _item_columns(
    titles: Sequence[str], texts: Sequence[str], attributes: Mapping[str, Ints], rng: np.random.Generator
) -> dict[str, Sequence[Any]]:
    words = {name: [ATTRIBUTES[name][value] for value in values] for name, values in attributes.items()}
    prices = np.round(rng.lognormal(3.0, 0.6, len(titles)), 2)
    return {"title": titles, "description": texts, **words, "price": prices.tolist()}


def _choose_items(
    attributes: Mapping[str, Ints], groups: Ints, tastes: Ints, per_user: float, rng: np.random.Generator
) -> Interactions:
    """Draw each user's items without replacement: the first ones by score plus Gumbel noise."""
    values = np.stack([attributes[name] for name in CARES])[groups]  # [n_users, n_items]
    n_users, n_items = values.shape
    likes = (values == tastes[:, :1]) | (values == tastes[:, 1:])
    late = np.zeros(n_items, dtype=np.bool_)
    late[rng.choice(n_items, round(_LATE * n_items), replace=False)] = True
    popularity = rng.normal(0, 0.7, n_items) - 4.0 * late
    scores = _TASTE * likes + popularity + rng.gumbel(0, 1, (n_users, n_items))
    counts = np.minimum(4 + rng.poisson(per_user - 4, n_users), n_items // 2)
    ranked = np.argsort(-scores, axis=1)
    users, places = np.nonzero(np.arange(n_items) < counts[:, None])
    return Interactions(users, ranked[users, places], n_users, n_items)


def _name_ids(letter: str, n: int) -> NDArray[np.str_]:
    width = max(4, len(str(n - 1)))
    return np.array([f"{letter}{k:0{width}d}" for k in range(n)])


def _interaction_rows(data: Dataset) -> Iterable[tuple[Any, ...]]:
    """Return the rows of the interactions table in order of time."""
    pairs, times = data.interactions, np.asarray(data.times)
    order = np.argsort(times, kind="stable")
    users, items = data.users.ids[pairs.users[order]], data.items.ids[pairs.items[order]]
    return zip(users.tolist(), items.tolist(), times[order].astype(np.int64).tolist(), strict=True)


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
