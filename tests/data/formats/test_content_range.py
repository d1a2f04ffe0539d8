"""Content of any scale keeps its meaning; a row beside which float32 would hold nothing of the others is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gtcrec import data
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.data.formats.npy import feature_files, read_features
from gtcrec.errors import DataError
from gtcrec.models import build_model, make_config
from gtcrec.models.gtc.embedding.cold_items import ColdItemRegressor
from gtcrec.ops.neighbors import content_neighbors, cosine_graph
from gtcrec.types import Dataset, ItemFeatures

SCALES = [2.0**80, 2.0**-80, 2.0**-100]
USERS = torch.arange(30)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return data.load(data.write_catalog(tmp_path_factory.mktemp("drawn") / "shop", n_users=30, n_items=40))


def scaled(content: ItemFeatures, scale: float) -> ItemFeatures:
    values = {name: x * np.float32(scale) for name, x in content.values.items()}
    return ItemFeatures(content.n_items, values, content.present)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("model", ["contentknn", "mmgf"])
def test_scores_do_not_depend_on_the_scale_of_content(shop: Dataset, model: str, scale: float) -> None:
    train = data.split(shop).train
    settings = make_config(model, {}, "default")
    one, two = (
        build_model(model, train, content, settings, 0).scorer()(USERS)  # type: ignore[operator]
        for content in (shop.features, scaled(shop.features, scale))
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("scale", SCALES)
def test_neighbors_and_cold_items_do_not_depend_on_the_scale_of_content(shop: Dataset, scale: float) -> None:
    content, other = shop.features, scaled(shop.features, scale)
    for graph in (content_neighbors, cosine_graph):
        one, two = (graph(f.values["text"], f.present["text"], 5) for f in (content, other))
        assert np.array_equal(one.toarray(), two.toarray())
    warm = np.arange(40) < 30
    found = []
    for features in (content, other):
        regressor = ColdItemRegressor(features, warm, 4)
        regressor.solve(torch.eye(40, 4))
        found.append(regressor(features))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("rows", [[5], [5, 6], [0]])
@pytest.mark.parametrize("value", [1e20, -3e38, 1e9])
def test_a_row_far_out_of_all_others_is_refused(tmp_path: Path, rows: list[int], value: float) -> None:
    x = np.random.default_rng(0).normal(size=(18, 6))
    x[rows, 2] = value
    np.save(tmp_path / "text_feat.npy", x)
    with pytest.raises(DataError) as caught:
        read_features(feature_files(tmp_path), np.arange(18))
    said = f"text_feat.npy: row {rows[0]}, column 2 (counted from 0) holds {np.float32(value):g}, more than 10^6 times"
    assert said in str(caught.value)


def test_marks_constants_and_items_without_content_are_not_far_out(tmp_path: Path) -> None:
    x = np.zeros((40, 5))
    x[:, 0] = np.arange(40) % 2  # tags
    x[7, 1] = 1  # a tag that one item has
    x[:, 2] = 1.6e9 + np.arange(40)  # times
    x[:, 3] = 4
    x[3, 3] = 0
    x[11] = 0
    np.save(tmp_path / "tags_feat.npy", x)
    read, _ = read_features(feature_files(tmp_path), np.arange(40))
    assert read.present["tags"].sum() == 39


@pytest.mark.parametrize("cell", ["1e20", "1e308", "-1e300"])
def test_a_number_far_out_does_not_wipe_its_column(tmp_path: Path, cell: str) -> None:
    lines = "".join(f"i{k},{cell if k == 3 else k + 1}\n" for k in range(10))
    (tmp_path / "items.csv").write_text("item_id,price\n" + lines)
    found = encode(tmp_path / "items.csv", tmp_path / "price_feat.npy", EncodeConfig(numbers=("price",)))
    kept = np.array([k + 1.0 for k in range(10) if k != 3])
    x = np.load(tmp_path / "price_feat.npy")
    np.testing.assert_allclose(np.delete(x[:, 0], 3), (kept - kept.mean()) / kept.std(), rtol=1e-6)
    assert x[3].tolist() == [0, 0]
    said = f"price is more than 10^6 times further out than others: {float(cell):g}"
    assert [one["reason"] for one in found.failures] == [said]
