"""Files in the hub's layouts: a published split is kept or its loss is noted, types are unified."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gtcrec.data.sources.convert import convert
from gtcrec.data.sources.huggingface import HuggingFaceConfig
from gtcrec.errors import DataError

ROW = {"user_id": ["a"], "item_id": ["x"]}
UNUSED = {"files named after a part, such as train, whose parts are not used": 1}


def put(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(ROW | columns), path)


def interactions(folder: Path) -> pa.Table:
    return pq.read_table(folder / "out/interactions.parquet")


@pytest.mark.parametrize(
    "names",
    [
        {"default/train/0000.parquet": 0, "default/validation/0000.parquet": 1, "default/test/0000.parquet": 2},
        {"train-00000-of-00001.parquet": 0, "test-00000-of-00001.parquet": 2},
        {"Train.parquet": 0, "TEST.parquet": 2},
        {"data/userTrain.parquet": 0, "data/userTest.parquet": 2},
        {"trainset.parquet": 0, "testset.parquet": 2},
        {"training/a.parquet": 0, "evaluation/a.parquet": 1, "testing/a.parquet": 2},
        {"test/x_train.parquet": 0, "test/x_dev.parquet": 1},
        {"v1.train.parquet": 0, "v1.eval.parquet": 1},
    ],
)
def test_a_split_that_paths_say_is_kept(tmp_path: Path, names: dict[str, int]) -> None:
    for name in names:
        put(tmp_path / "in" / name)
    convert("hf", [tmp_path / "in"], tmp_path / "out")
    labels = [names[name] for name in sorted(names)]
    assert interactions(tmp_path)["x_label"].to_pylist() == labels


def test_a_column_of_labels_is_kept_and_other_columns_are_noted(tmp_path: Path) -> None:
    put(tmp_path / "in/clicks.parquet", x_label=[2], session=[1])
    put(tmp_path / "in/goods.parquet")
    settings = HuggingFaceConfig(interactions="clicks*", items="goods*")
    report = convert("hf", [tmp_path / "in"], tmp_path / "out", config=settings)
    assert interactions(tmp_path)["x_label"].to_pylist() == [2]
    assert report["notes"] == {"column session of interactions left out": 1}


def test_two_sources_of_a_split_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        put(tmp_path / f"in/{part}.parquet", x_label=[0])
    with pytest.raises(DataError, match="found a column x_label, though the files' names say the part"):
        convert("hf", [tmp_path / "in"], tmp_path / "out")


@pytest.mark.parametrize("names", [["train.parquet", "more.parquet"], ["train.parquet"]])
def test_words_of_a_split_that_are_not_used_are_noted(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        put(tmp_path / "in" / name)
    assert convert("hf", [tmp_path / "in"], tmp_path / "out")["notes"] == UNUSED
    assert "x_label" not in interactions(tmp_path).column_names


@pytest.mark.parametrize(
    "values",
    [
        [pa.nulls(1), pa.array([1.5])],
        [pa.array([1.5]), pa.nulls(1)],
        [pa.array([2**53]), pa.array([0.5])],
        [pa.array([[]], pa.list_(pa.null())), pa.array([["x"]])],
        [pa.array(["x"]), pa.array(["y"], pa.large_string())],
        [pa.array(["x"]).dictionary_encode(), pa.array(["y"])],
        [pa.array([1], pa.int8()), pa.array([300], pa.int16())],
    ],
)
def test_columns_of_several_files_get_a_type_that_holds_all(tmp_path: Path, values: list[Any]) -> None:
    for k, value in enumerate(values):
        put(tmp_path / f"in/{k}.parquet", thing=value)
    convert("hf", [tmp_path / "in"], tmp_path / "out")
    found = pq.read_table(tmp_path / "out/items.parquet")["thing"].to_pylist()
    expected = [value.to_pylist()[0] for value in values]
    assert found == expected


def test_ids_may_be_numbers_in_one_file_and_text_in_another(tmp_path: Path) -> None:
    put(tmp_path / "in/a.parquet", user_id=[7])
    put(tmp_path / "in/b.parquet", item_id=[8])
    convert("hf", [tmp_path / "in"], tmp_path / "out")
    assert interactions(tmp_path).to_pydict() == {"user_id": ["7", "a"], "item_id": ["x", "8"]}


def test_files_without_rows_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(ROW).slice(0, 0), tmp_path / "in/a.parquet")
    with pytest.raises(DataError, match="found no interactions in in"):
        convert("hf", [tmp_path / "in"], tmp_path / "out")
