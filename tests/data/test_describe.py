"""The description of a data set counts what is in it."""

import json
from pathlib import Path

import numpy as np
import pytest

from gtcrec.data import SplitConfig, describe, load
from gtcrec.types import Dataset


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    (tmp_path / "x.inter").write_text(
        "userID\titemID\tx_label\ttimestamp\n0\t0\t0\t5\n0\t1\t2\t6\n1\t0\t0\t7\n1\t2\t1\t8\n2\t3\t2\t9\n"
    )
    image = np.array([[1, 7], [1, 7], [2, 7], [0, 0], [2, 7]], dtype=np.float32)
    np.save(tmp_path / "image_feat.npy", image)
    (tmp_path / "items.csv").write_text("itemID,title\n0,nil\n1,one\n")
    return load(tmp_path / "x.inter")


def test_counts_are_those_of_the_files(data: Dataset) -> None:
    found = describe(data)
    assert (found["users"], found["items"], found["interactions"]) == (3, 5, 5)
    assert found["density"] == 5 / 15
    assert found["per user"] == {
        "min": 1.0, "25 %": 1.5, "median": 2.0, "75 %": 2.0, "99 %": 2.0, "max": 2.0, "mean": 5 / 3,
    }  # fmt: skip
    assert found["labels"] == found["parts"] == {"train": 2, "valid": 1, "test": 2}
    assert found["times"] == [5.0, 9.0]
    assert found["share of the top 1 % items"] == 2 / 5
    assert found["titles"] == 2
    assert found["fingerprint"] == data.fingerprint
    assert found["notes"] == {"image: items without content": 1}


def test_traps_are_counted(data: Dataset) -> None:
    found = describe(data)
    assert found["users without training pairs"] == 1
    assert found["items without interactions"] == 1
    assert found["test items without training pairs"] == 2
    assert found["test pairs of items without training pairs"] == 2
    assert found["modalities"] == {"image": {"width": 2, "present": 0.8, "duplicate rows": 2, "constant columns": 1}}


def test_parts_follow_the_split_that_is_asked_for(data: Dataset) -> None:
    assert describe(data, SplitConfig(strategy="leave_one_out"))["parts"] == {
        "train": 3,
        "valid": 0,
        "test": 2,
    }


def test_a_description_can_be_written_as_json(data: Dataset) -> None:
    assert json.loads(json.dumps(describe(data), allow_nan=False))["items"] == 5
