"""Writing MMRec's and RecBole's folders: what is written is read back, by us and as those libraries read it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gtcrec.cli.main import app
from gtcrec.data import SplitConfig, load, split
from gtcrec.data.formats import export as writing
from gtcrec.data.formats.export import write_mmrec, write_recbole
from gtcrec.errors import DataError, WriteError
from gtcrec.types import Dataset, Interactions, ItemFeatures, ItemMetadata, Vocabulary

PNG = b"\x89PNG\r\n\x1a\nnot really"


def toy(folder: Path, users: list[object] | None = None, items: list[object] | None = None) -> Dataset:
    """4 users, 5 items; item 1 has an image of zeros, item 3 has none; item 4 no interaction."""
    picture = folder / "a picture.png"
    picture.write_bytes(PNG)
    image = np.array([[1.5, -2], [0, 0], [3, 1e-7], [0, 0], [7, 8]], dtype=np.float32)
    text = np.array([[0.1], [0], [0.3], [np.float32(1) / 3], [0]], dtype=np.float32)
    return Dataset(
        "toy",
        Interactions(np.array([0, 0, 0, 1, 2, 3]), np.array([0, 1, 3, 2, 0, 1]), 4, 5),
        ItemFeatures(
            5,
            {"image": image, "text": text},
            {"image": np.array([True, True, True, False, True]), "text": np.array([True, False, True, True, False])},
        ),
        Vocabulary(np.array(users or ["007", "7", "Ann Å", 'q"uote']), "user"),
        Vocabulary(np.array(items or ["a", "b|c", "d e", "é", "ü,v"]), "item"),
        np.array([0, 1, 2, 0, 0, 0], dtype=np.int8),
        np.array([1.0, 2.5, 1e-3, 1_600_000_000.123456, 5.0, 1 / 3]),
        ItemMetadata(("A mug", 'The "best"\tlamp', "", "x", "y"), (picture, None, None, None, picture)),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_mmrec_folder_is_read_back_identical_masks_ids_times_and_cards_included(tmp_path: Path) -> None:
    data = toy(tmp_path)
    back = load(write_mmrec(data, tmp_path / "out" / "shop"))
    assert back.fingerprint == data.fingerprint
    assert back.features.present["image"].tolist() == [True, True, True, False, True]
    assert back.users.ids.tolist() == data.users.ids.tolist()
    assert back.name == "shop"
    assert back.item_metadata is not None
    assert back.item_metadata.titles == data.item_metadata.titles
    assert [image and image.read_bytes() for image in back.item_metadata.images] == [PNG, None, None, None, PNG]


def test_writing_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_mmrec(toy(tmp_path), tmp_path / "one" / "shop")
    second = write_mmrec(load(first), tmp_path / "two" / "shop")
    assert files(first) == files(second)
    assert len(files(first)) == 11


def test_pandas_reads_an_mmrec_folder_as_mmrec_does(tmp_path: Path) -> None:
    data = toy(tmp_path)
    folder = write_mmrec(data, tmp_path / "shop")
    rows = pd.read_csv(folder / "shop.inter", sep="\t", usecols=["userID", "itemID", "x_label"])
    assert {str(kind) for kind in rows.dtypes} == {"int64"}
    assert list(zip(rows.userID, rows.itemID, rows.x_label, strict=True)) == [
        (0, 0, 0), (0, 1, 1), (0, 3, 2), (1, 2, 0), (2, 0, 0), (3, 1, 0),
    ]  # fmt: skip
    assert sorted(rows.userID.unique()) == list(range(rows.userID.max() + 1))
    timed = pd.read_csv(folder / "shop.inter", sep="\t", dtype={"timestamp": str})
    assert [float(one) for one in timed.timestamp] == np.asarray(data.times).tolist()
    for name in ("image", "text"):
        x = np.load(folder / f"{name}_feat.npy", allow_pickle=True)
        np.testing.assert_array_equal(x, data.features.values[name])
        assert x.dtype == np.float32
    ids = pd.read_csv(folder / "i_id_mapping.csv", sep="\t", dtype={"item_id": str})
    assert ids.item_id.tolist() == data.items.ids.tolist()
    assert ids.itemID.tolist() == [0, 1, 2, 3, 4]


def test_users_and_items_without_interactions_at_the_end_survive_without_content(tmp_path: Path) -> None:
    pairs = Interactions(np.array([0, 1]), np.array([1, 0]), 4, 6)
    data = Dataset(
        "few", pairs, ItemFeatures(6), Vocabulary(np.arange(10, 14)), Vocabulary(np.arange(6)),
        np.zeros(2, dtype=np.int8), np.array([3.0, 4.0]),
    )  # fmt: skip
    folder = write_mmrec(data, tmp_path / "few")
    back = load(folder)
    assert (back.interactions.n_users, back.interactions.n_items) == (4, 6)
    assert back.fingerprint == data.fingerprint
    assert back.users.ids.dtype == np.int64
    assert back.notes == {}
    assert (folder / "few.inter").read_text() == "userID\titemID\ttimestamp\tx_label\n0\t1\t3\t0\n1\t0\t4\t0\n"


def test_data_without_labels_is_divided_as_the_config_says(tmp_path: Path) -> None:
    data = replace(toy(tmp_path), labels=None)
    config = SplitConfig(strategy="random", seed=5)
    back = load(write_mmrec(data, tmp_path / "shop", config))
    wanted = split(data, config)
    assert back.interactions.where(back.labels == 2).items.tolist() == wanted.final_test().items.tolist()
    assert back.interactions.where(back.labels == 1).items.tolist() == wanted.valid.items.tolist()
    assert replace(back, labels=None).fingerprint == data.fingerprint


def test_numbers_in_rows_that_are_absent_are_not_written(tmp_path: Path) -> None:
    data = toy(tmp_path)
    values = {"image": data.features.values["image"].copy(), "text": data.features.values["text"]}
    values["image"][3] = 9
    dirty = replace(data, features=ItemFeatures(5, values, data.features.present))
    assert load(write_mmrec(dirty, tmp_path / "shop")).fingerprint == data.fingerprint
    assert values["image"][3].tolist() == [9, 9]


def test_recbole_files_are_read_back_identical_where_ids_are_sorted(tmp_path: Path) -> None:
    data = toy(tmp_path)
    folder = write_recbole(data, tmp_path / "shop")
    back = load(folder)
    assert back.fingerprint == data.fingerprint
    assert back.item_metadata is not None
    assert back.item_metadata.titles == ("A mug", "The 'best' lamp", "", "x", "y")
    assert [image and image.read_bytes() for image in back.item_metadata.images] == [PNG, None, None, None, PNG]
    assert (folder / "shop.valid.inter").read_text() == (
        "user_id:token\titem_id:token\ttimestamp:float\n007\tb|c\t2.5\n"
    )
    assert (folder / "shop.item").read_text().splitlines()[:2] == [
        "item_id:token\ttitle:token_seq\timage:token", "a\tA mug\timages/0.png",
    ]  # fmt: skip


def test_recbole_files_keep_pairs_labels_and_contents_by_id_where_ids_are_not_sorted(tmp_path: Path) -> None:
    data = toy(tmp_path, users=[30, 4, 2, 1], items=["z", "y", "x", "w", "v"])
    back = load(write_recbole(data, tmp_path / "shop"))

    def facts(one: Dataset) -> set[tuple[object, ...]]:
        users, items = one.users.external(one.interactions.users), one.items.external(one.interactions.items)
        return set(zip(users.tolist(), items.tolist(), one.labels.tolist(), one.times.tolist(), strict=True))

    assert back.items.ids.tolist() == ["v", "w", "x", "y", "z"]
    assert facts(back) == facts(data)
    for name in ("image", "text"):
        np.testing.assert_array_equal(back.features.values[name], data.features.values[name][::-1])
        assert back.features.present[name].tolist() == data.features.present[name][::-1].tolist()


def test_pandas_reads_recbole_files_as_recbole_does(tmp_path: Path) -> None:
    folder = write_recbole(toy(tmp_path), tmp_path / "shop")
    items = pd.read_csv(folder / "shop.item", delimiter="\t", dtype=str, keep_default_na=False)
    assert items["title:token_seq"].tolist() == ["A mug", "The 'best' lamp", "", "x", "y"]
    rows = pd.read_csv(folder / "shop.train.inter", delimiter="\t", dtype={"user_id:token": str})
    assert rows["user_id:token"].tolist() == ["007", "7", "Ann Å", 'q"uote']


@pytest.mark.parametrize("write", [write_mmrec, write_recbole])
def test_ids_that_a_tab_separated_file_cannot_hold_are_refused(tmp_path: Path, write) -> None:
    for wrong in ("a\tb", "a\nb", "", "x" * 257):
        data = toy(tmp_path, items=["a", "b", "c", "d", wrong])
        with pytest.raises(DataError, match=r"item '.*' cannot stand in a tab-separated file: expected 1 to 256"):
            write(data, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_recbole_refuses_ids_that_begin_with_a_quote_and_users_without_interactions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="user '\"x' begins with \", which RecBole takes for a quotation"):
        write_recbole(toy(tmp_path, users=['"x', "b", "c", "d"]), tmp_path / "shop")
    data = toy(tmp_path)
    more = replace(
        data,
        interactions=Interactions(data.interactions.users, data.interactions.items, 5, 5),
        users=Vocabulary(np.array(["a", "b", "c", "d", "nobody"]), "user"),
    )
    with pytest.raises(DataError, match="know users by their interactions, user 'nobody' has none"):
        write_recbole(more, tmp_path / "shop")


@pytest.mark.parametrize("write", [write_mmrec, write_recbole])
def test_a_folder_in_use_is_refused_and_a_failure_leaves_nothing(tmp_path: Path, write, monkeypatch) -> None:
    data = toy(tmp_path)
    used = tmp_path / "used"
    used.mkdir()
    (used / "x").touch()
    with pytest.raises(DataError, match="used: expected a new or empty folder, found one in use"):
        write(data, used)

    def fail(*given: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(writing, "write_manifest", fail)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(WriteError, match="cannot be written: the disk is full"):
        write(data, tmp_path / "shop")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.inter").write_text("userID\titemID\tx_label\n0\t2\t0\n0\t0\t1\n")
    np.save(folder / "image_feat.npy", np.array([[1.0], [0], [2]]))
    for mask, said in (
        (np.array([True, False]), r"image_present.npy: expected bool \[3\], .* found bool \[2\]"),
        (np.array([1, 0, 1]), r"image_present.npy: expected bool \[3\], .* found int64 \[3\]"),
        (np.array([True, False, False]), "image_feat.npy: row 2 holds numbers, though image_present.npy says"),
    ):
        np.save(folder / "image_present.npy", mask)
        with pytest.raises(DataError, match=said):
            load(folder)
    (folder / "image_present.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"image_present\.npy: damaged or not a \.npy file"):
        load(folder)
    with (folder / "image_present.npy").open("wb") as stream:
        np.savez(stream, np.ones(3))
    with pytest.raises(DataError, match=r"image_present\.npy: damaged or not a \.npy file"):
        load(folder)
    np.save(folder / "image_present.npy", np.array([True, True, True]))
    assert load(folder).features.present["image"].tolist() == [True, True, True]


@pytest.mark.parametrize("to", ["mmrec", "recbole"])
def test_the_command_writes_a_folder_that_is_read_back(tmp_path: Path, to: str) -> None:
    data = write_mmrec(toy(tmp_path), tmp_path / "shop")
    result = CliRunner().invoke(app, ["data", "export", str(data), "--to", to, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "out").fingerprint == load(data).fingerprint


def test_the_command_refuses_ratios_that_do_not_add_up(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = CliRunner().invoke(app, ["data", "export", "x", "--to", "mmrec", "--out", out, "--ratios", "0.5,0.1,0.1"])
    assert result.exit_code != 0
    assert "ratios must add up to 1" in str(result.exception)
