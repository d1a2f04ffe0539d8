"""The map: alike items near each other, the same for the same items, coloured by groups of a column."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from gtcrec.serving.page.catalog import Catalog
from gtcrec.serving.page.item_map import color_columns, group_by, project, telling_column


def cosines(rng: np.random.Generator, groups: int = 4, each: int = 15) -> np.ndarray:
    centres = np.repeat(np.eye(groups, 8), each, axis=0)
    x = centres + rng.normal(size=centres.shape) * 0.15
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def catalog(**columns: list) -> Catalog:
    table = pa.table({"item_id": [f"p{n}" for n in range(len(next(iter(columns.values()))))], **columns})
    recommender = SimpleNamespace(item_columns=table, item_ids=table["item_id"].to_pylist(), user_ids=[])
    return Catalog(SimpleNamespace(recommender=recommender, folder=SimpleNamespace(__truediv__=None)), images=".")


@pytest.mark.parametrize("seed", [0, 1])
def test_items_of_one_group_lie_together(seed: int) -> None:
    alike = cosines(np.random.default_rng(seed))
    places = project(alike)
    assert places.shape == (60, 2)
    assert (places.min(), places.max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    distances = ((places[:, None] - places) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    group = np.arange(60) // 15
    assert (group[distances.argmin(axis=1)] == group).mean() > 0.95
    assert np.array_equal(places, project(alike))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_items_have_places_too(n: int) -> None:
    places = project(np.eye(n))
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


def test_groups_are_frequent_values_or_ranges_of_a_number() -> None:
    made = catalog(
        kind=["b|x", "a", "b", None] * 5,
        price=[float(n) for n in range(20)],
        few=[1, 2] * 10,
        plot=["p" * 90 + str(n) for n in range(20)],
    )
    assert color_columns(made) == ["kind", "price", "few"]
    kind = group_by(made, "kind")
    assert (kind.names, kind.groups[:4], kind.ordered) == (("b", "a"), (0, 1, 0, -1), False)
    price = group_by(made, "price")
    assert price.ordered
    assert price.groups == tuple(np.repeat(range(5), 4).tolist())
    assert len(price.names) == 5
    assert group_by(made, "few").names == ("1", "2")


def test_the_column_of_the_map_is_the_one_that_neighbors_share() -> None:
    rng = np.random.default_rng(0)
    made = catalog(chance=rng.choice(["x", "y"], 60).tolist(), group=np.repeat(["a", "b", "c", "d"], 15).tolist())
    assert telling_column(made, made.item_ids, project(cosines(rng))) == "group"
    assert (
        telling_column(
            catalog(plot=["p" * 90 + str(n) for n in range(20)]), [f"p{n}" for n in range(20)], rng.random((20, 2))
        )
        == ""
    )
