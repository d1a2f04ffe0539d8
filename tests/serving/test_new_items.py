"""New items from a table of their columns: encoded as the training's content was, and in the folder at once."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import gtcrec
from gtcrec.data import write_catalog
from gtcrec.errors import DataError, RunError
from gtcrec.experiments.model_bundle import read_bundle
from gtcrec.runtime.files import check_manifest
from gtcrec.serving.http.live import LiveRun
from gtcrec.serving.new_items import add_items_to_folder
from helpers.growing_shop import NEW, build_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw tables with column names of their own; `new.csv` holds three items that `items.csv` lacks."""
    shop = build_shop(tmp_path_factory.mktemp("shop") / "raw")
    gtcrec.train(shop / "built", "gtc", shop / "gtc", embedding_dim=8, epochs=1)
    gtcrec.train(shop / "built", "bpr", shop / "bpr", embedding_dim=8, epochs=1)
    return shop


@pytest.fixture(params=["l3ae", "gtc"])
def run(shop: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    shutil.copytree(shop / request.param, tmp_path / "run")
    yield tmp_path / "run"
    assert [child.name for child in tmp_path.iterdir()] == ["run"]


def test_new_items_are_encoded_and_listed(shop: Path, run: Path) -> None:
    before = gtcrec.Recommender.load(run)
    found = add_items_to_folder(run, shop / "new.csv")
    assert (found.added, found.known, found.missing_columns, found.failures) == (3, 0, {}, ())
    assert found.encoded["category"] == found.encoded["numbers"] == 3
    model = gtcrec.Recommender.load(run)
    assert model.item_ids == [*before.item_ids, *NEW]
    scores = [one.score("u0001", before.item_ids) for one in (before, model)]
    assert np.allclose(*scores, rtol=0, atol=1e-5)
    assert set(model.recommend("u0001", k=3, items=NEW)["item_id"].to_pylist()) == set(NEW)
    assert model.similar_items(NEW[0], k=2).num_rows == 2
    assert check_manifest(run)


def test_content_is_what_the_whole_catalog_would_have_had_by_the_same_encoders(shop: Path, run: Path) -> None:
    add_items_to_folder(run, shop / "new.csv")
    bundle = read_bundle(run)
    every = shop / "every.csv"
    lines = [line for name in ("items", "new") for line in (shop / f"{name}.csv").read_text().splitlines()]
    every.write_text("\n".join(line for place, line in enumerate(lines) if place == 0 or line != lines[0]) + "\n")
    assert bundle.encoders is not None
    x, _ = bundle.encoders.encode(bundle.encoders.read(every))
    ids = [line.split(",")[0] for line in every.read_text().splitlines()[1:]]
    order = [ids.index(one) for one in bundle.items.ids.tolist()]
    for name in bundle.features.names:
        assert np.array_equal(bundle.features.values[name], x[name][order])
        assert bundle.features.present[name].sum() > 40


def test_columns_of_new_items_can_be_filtered_by(shop: Path, run: Path) -> None:
    add_items_to_folder(run, shop / "new.csv")
    model = gtcrec.Recommender.load(run)
    with (shop / "new.csv").open(newline="") as file:
        one = next(csv.DictReader(file))
    row = model.item_columns.slice(model.item_ids.index(one["sku"]), 1).to_pylist()[0]
    assert (row["title"], row["price"], row["kind"]) == (one["name"], float(one["price"]), one["kind"])
    low, high = float(one["price"]) - 0.001, float(one["price"]) + 0.001
    where = f"price > {low} and price < {high} and kind = '{one['kind']}'"
    assert one["sku"] in model.recommend("u0001", k=50, where=where)["item_id"].to_pylist()


def test_a_second_call_changes_nothing(shop: Path, run: Path) -> None:
    add_items_to_folder(run, shop / "new.csv")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    left = run.with_name(f".{run.name}.4194304.writing")  # of a process that was killed behind the exchange
    left.mkdir()
    found = add_items_to_folder(run, shop / "new.csv")
    assert (found.added, found.known) == (0, 3)
    assert not left.exists()
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_saved_recommender_takes_new_items_as_a_run_does(shop: Path, run: Path, tmp_path: Path) -> None:
    saved = gtcrec.Recommender.load(run).save(tmp_path / "saved")
    for folder in (run, saved):
        add_items_to_folder(folder, shop / "new.csv")
    models = [gtcrec.Recommender.load(folder) for folder in (run, saved)]
    assert np.array_equal(*(model.score("u0001", model.item_ids) for model in models))
    shutil.rmtree(saved)


def test_a_server_of_a_folder_of_runs_takes_the_new_items_of_the_newest_alone(
    shop: Path, run: Path, tmp_path: Path
) -> None:
    """New items do not make an older run the newest."""
    shutil.copytree(run, tmp_path / "runs" / "newer")
    shutil.copytree(run, tmp_path / "runs" / "older")
    for name, time in (("older", 1_000_000), ("newer", 2_000_000)):
        os.utime(tmp_path / "runs" / name / "model.json", (time, time))
    live = LiveRun(tmp_path / "runs")
    add_items_to_folder(tmp_path / "runs" / "older", shop / "new.csv")
    assert not live.reload()
    add_items_to_folder(tmp_path / "runs" / "newer", shop / "new.csv")
    assert live.reload()
    assert set(NEW) <= set(live.current().recommender.item_ids)
    assert live.current().folder.name == "newer"
    shutil.rmtree(tmp_path / "runs")


def test_the_run_can_still_be_evaluated(shop: Path, run: Path) -> None:
    add_items_to_folder(run, shop / "new.csv")
    from gtcrec.experiments.run import Run

    Run.load(run).evaluate()
    assert "test" in json.loads((run / "report.json").read_text())
    assert len(gtcrec.Recommender.load(run).item_ids) == 50


def test_a_recommender_encodes_columns_in_memory(shop: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    with (shop / "new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {"title": [row["name"] for row in rows], "image": [row["picture"] for row in rows]}
    columns |= {"price": [float(row["price"]) for row in rows]}
    columns |= {name: [row[name] for row in rows] for name in ("kind", "shape")}
    model = gtcrec.Recommender.load(run).add_items(NEW, item_columns=columns)
    add_items_to_folder(run, shop / "new.csv")
    expected = gtcrec.Recommender.load(run)
    assert np.array_equal(model.score("u0001", NEW), expected.score("u0001", NEW))


def test_vectors_that_are_given_are_not_encoded(shop: Path, run: Path) -> None:
    model = gtcrec.Recommender.load(run)
    width = read_bundle(run).features.values["image"].shape[1]
    columns = {"price": [20.0], "kind": ["mug"], "shape": ["star"]}
    model.add_items("new", {"image": np.full((1, width), 0.5)}, item_columns=pa.table(columns))
    assert np.isfinite(model.score("u0001", "new")).all()


def test_columns_that_are_missing_are_named(shop: Path, run: Path, tmp_path: Path) -> None:
    (shop / "few.csv").write_text("sku,price\nx1,3.5\n")
    found = add_items_to_folder(run, shop / "few.csv")
    assert found.missing_columns == {"category": ["kind", "shape"], "image": ["image"]}
    assert found.encoded == {"category": 0, "image": 0, "numbers": 1}


def test_content_that_cannot_be_read_is_named(shop: Path, run: Path) -> None:
    (shop / "odd.csv").write_text("sku,name,picture,price,kind,shape\nx1,A,images/none.png,much,unheard,of\n")
    found = add_items_to_folder(run, shop / "odd.csv")
    reasons = {one["modality"]: one["reason"] for one in found.failures}
    assert {one["item"] for one in found.failures} == {"x1"}
    assert "were not there when it was fitted" in reasons["category"]
    assert (reasons["image"], reasons["numbers"]) == ("no such file", "price is not a number: 'much'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sku,price\n,3\n", r"sku is empty in line 2 of bad.csv: each row needs an item id"),
        ("sku,price\nx,3\nx,4\n", r"sku 'x' stands twice: line 2 of bad.csv and line 3 of bad.csv"),
        ("sku,price,picture\nx,3,../../x.png\n", r"must be a path inside"),
    ],
)
def test_a_faulty_table_is_refused_before_the_folder_changes(shop: Path, run: Path, text: str, message: str) -> None:
    (shop / "bad.csv").write_text(text)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(DataError, match=message):
        add_items_to_folder(run, shop / "bad.csv")
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_model_without_content_is_refused(shop: Path) -> None:
    with pytest.raises(RunError, match="bpr cannot score items that came after training"):
        add_items_to_folder(shop / "bpr", shop / "new.csv")


def test_content_of_another_origin_is_refused(shop: Path, tmp_path: Path) -> None:
    """The drawn catalog has matrices that `gtcrec data encode` did not make."""
    drawn = write_catalog(tmp_path / "drawn", n_users=60, n_items=40)
    run = gtcrec.train(drawn, "l3ae", tmp_path / "run").folder
    with pytest.raises(RunError, match="how its content 'image' was encoded is not known"):
        add_items_to_folder(run, shop / "new.csv")


def test_an_encoder_of_another_matrix_is_left_out(shop: Path, tmp_path: Path) -> None:
    """A matrix that was replaced by hand no longer belongs to the encoder beside it."""
    from gtcrec.data.features.extract import EncodeConfig, encode
    from gtcrec.data.features.item_encoders import read_folder_encoders

    (tmp_path / "items.csv").write_text("item_id,price\na,1\nb,3\n")
    out = tmp_path / "numbers_feat.npy"
    encode(tmp_path / "items.csv", out, EncodeConfig(numbers=("price",)))
    assert list(read_folder_encoders(tmp_path, ["numbers", "text"]).by_modality) == ["numbers"]
    np.save(out, np.ones((2, 2)))
    assert read_folder_encoders(tmp_path, ["numbers", "text"]).by_modality == {}
