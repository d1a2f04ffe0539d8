"""What was encoded once is not encoded again: after a kill, and for a table that has changed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtcrec.data import load, write_catalog
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime.files import check_manifest, write_manifest
from helpers.faults import count_events, die_at, places

SCRIPT = Path(__file__).with_name("encode_process.py")
LENGTHS = EncodeConfig(text=("title",), encoder="lengths", batch=2)
ASKED: list[str] = []


def lengths(texts: Sequence[str]) -> np.ndarray:
    ASKED.extend(texts)
    return np.array([[len(text)] for text in texts])


def others(texts: Sequence[str]) -> np.ndarray:
    return lengths(texts) * 10


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table that has been encoded."""
    write(tmp_path / "items.csv", "a", "bb", "ccc", "")
    encode(tmp_path / "items.csv", tmp_path / "text_feat.npy", LENGTHS, lengths)
    ASKED.clear()
    return tmp_path / "items.csv"


def write(table: Path, *titles: str) -> None:
    table.write_text("item_id,title\n" + "".join(f"{row},{title}\n" for row, title in enumerate(titles)))


def again(table: Path, config: EncodeConfig = LENGTHS, function=lengths, **more) -> list[float]:
    out = table.parent / "text_feat.npy"
    encode(table, out, config, function, **more)
    return np.load(out)[:, 0].tolist()


def test_a_kill_at_any_step_loses_at_most_one_batch(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    *killed, last = json.loads(done.stdout)
    assert len(killed) > 8
    new = ["eeeee", "ffffff", "ggggggg", "hhhhhhhh", "iiiiiiiii"]
    assert (last["status"], last["asked"]) == ([0, 0], new)
    for one in killed:
        assert one["status"] == [-9, 0]
        assert sorted(set(one["asked"])) == new
        assert len(one["asked"]) <= len(new) + 2
    for one in [*killed, last]:
        assert one["x"] == [3, 5, 1, 6, 7, 8, 9]
        made = ["text_feat.encoder.npz", "text_feat.json", "text_feat.keys.npy", "text_feat.npy"]
        assert one["files"] == ["asked", "items.csv", *made]


def test_only_new_contents_are_encoded(table: Path) -> None:
    write(table, "dddd", "ccc", "", "bb", "ccc")
    assert again(table) == [4, 3, 0, 2, 3]
    assert ASKED == ["dddd"]
    record = json.loads((table.parent / "text_feat.json").read_text())
    assert (record["present"], record["empty"], record["reused"]) == (4, 1, 3)
    assert record["encoder"]["name"] == "lengths"


def test_nothing_new_is_encoded_without_the_encoder(table: Path) -> None:
    write(table, "ccc", "a")
    assert again(table) == [3, 1]
    assert ASKED == []


@pytest.mark.parametrize("change", [{"encoder": "other"}, {"dtype": "float16"}])
def test_another_encoder_or_type_encodes_all(table: Path, change: dict[str, str]) -> None:
    assert again(table, LENGTHS.model_copy(update=change)) == [1, 2, 3, 0]
    assert sorted(ASKED) == ["a", "bb", "ccc"]


def test_a_function_that_may_depend_on_more_than_its_file_encodes_all(table: Path) -> None:
    for factor in (10, 20):
        assert again(table, function=lambda texts: lengths(texts) * factor) == [factor, 2 * factor, 3 * factor, 0]  # noqa: B023
    assert not (table.parent / "text_feat.keys.npy").exists()


@pytest.mark.parametrize("name", ["text_feat.npy", "text_feat.keys.npy", "text_feat.json"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_damaged_matrix_is_not_reused(table: Path, name: str, damage) -> None:
    damage(table.parent / name)
    assert again(table) == [1, 2, 3, 0]
    assert len(ASKED) == 3


def test_a_matrix_elsewhere_is_reused_if_asked_for(table: Path) -> None:
    shutil.move(table.parent / "text_feat.npy", table.parent / "old_feat.npy")
    with pytest.raises(DataError, match=r"old_feat\.npy: expected a matrix to reuse, with the \.json and \.keys\.npy"):
        again(table, reuse=table.parent / "old_feat.npy")
    shutil.move(table.parent / "old_feat.npy", table.parent / "text_feat.npy")
    (table.parent / "next").mkdir()
    write(table.parent / "next" / "items.csv", "eeeee", "bb")
    assert again(table.parent / "next" / "items.csv", reuse=table.parent / "text_feat.npy") == [5, 2]
    assert ASKED == ["eeeee"]


def test_images_are_known_by_their_content_not_by_their_name(tmp_path: Path) -> None:
    def picture(name: str, shade: int) -> None:
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / name)

    picture("1.png", 10)
    picture("2.png", 20)
    (tmp_path / "items.csv").write_text("item_id,image\na,1.png\nb,2.png\n")
    out = tmp_path / "image_feat.npy"
    assert encode(tmp_path / "items.csv", out, EncodeConfig(image="image")).reused == 0
    first = np.load(out)
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    picture("1.png", 30)
    (tmp_path / "items.csv").write_text("item_id,image\na,1.png\nb,3.png\n")
    assert encode(tmp_path / "items.csv", out, EncodeConfig(image="image")).reused == 1
    assert (np.load(out)[1] == first[1]).all()
    assert (np.load(out)[0] != first[0]).any()


def test_a_manifest_that_names_the_files_is_renewed_with_them(table: Path) -> None:
    folder = table.parent
    (folder / "interactions.csv").write_text("user_id,item_id\nu,0\nv,1\n")
    names = ["text_feat.json", "text_feat.keys.npy", "text_feat.npy"]
    write_manifest(folder, names, {"made_by": "gtcrec"})
    assert again(table, LENGTHS, others) == [10, 20, 30, 0]
    assert sorted(check_manifest(folder)["files"]) == names
    assert load(folder).features.values["text"][:, 0].tolist() == [10, 20, 30, 0]


def test_a_folder_in_the_place_of_the_file_is_refused(table: Path) -> None:
    (table.parent / "x_feat.npy").mkdir()
    with pytest.raises(ConfigError, match=r"x_feat\.npy: expected the name of a file to write, found a folder"):
        encode(table, table.parent / "x_feat.npy", EncodeConfig(tags=("title",)))


def test_a_folder_can_be_read_after_a_kill_at_any_file_event_of_an_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        encode(shop / "items.csv", shop / "text_feat.npy", EncodeConfig(text=("title",), encoder="one"), ones)

    shop = write_catalog(tmp_path / "whole", n_users=40, n_items=30)
    with monkeypatch.context() as patch:
        seen = count_events(patch, lambda number, name: None)
        work()
    for place in places(len(seen), 15):
        shop = write_catalog(tmp_path / str(place), n_users=40, n_items=30)
        before = load(shop).features.values["text"].shape[1]
        assert die_at(place, work) == 9
        assert load(shop).features.values["text"].shape[1] in (before, 3)
        work()
        assert load(shop).features.values["text"].shape[1] == 3
        assert [file.name for file in shop.iterdir() if file.name.startswith(".")] == []


def ones(texts: Sequence[str]) -> np.ndarray:
    return np.ones((len(texts), 3)) * [[len(text)] for text in texts]
