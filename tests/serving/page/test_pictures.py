"""Which file is an item's picture, and which is none."""

from pathlib import Path

import pyarrow as pa
import pytest

from gtcrec.serving.page.pictures import Pictures, image_folder, media_type

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "a.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return tmp_path / "data"


def test_a_path_of_the_items_table_stays_in_the_folder(folder: Path) -> None:
    paths = ["images/a.png", "../secret.png", str(folder.parent / "secret.png"), "images/gone.png", None]
    found = Pictures(pa.table({"item_id": list("abcde"), "image": paths}), folder)
    assert [found.find(item) for item in "abcde"] == [folder / "images" / "a.png", None, None, None, None]


def test_the_first_folder_that_has_the_file_gives_it(folder: Path) -> None:
    (folder.parent / "more" / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder.parent / "more" / "images" / name).write_bytes(PNG)
    paths = ["images/a.png", "images/b.png", None, "../secret.png"]
    found = Pictures(pa.table({"item_id": ["x", "y", "b", "z"], "image": paths}), folder, folder.parent / "more")
    more = folder.parent / "more" / "images" / "b.png"
    assert [found.find(item) for item in ("x", "y", "b", "z")] == [folder / "images" / "a.png", more, more, None]


def test_an_item_without_a_path_has_the_file_of_its_id(folder: Path) -> None:
    found = Pictures(pa.table({"item_id": ["a", "b", "../../secret"]}), folder)
    assert found.find("a") == folder / "images" / "a.png"
    assert found.find("b") is None
    assert found.find("../../secret") is None


def test_the_folder_is_that_of_the_runs_data(shop: Path, tmp_path: Path) -> None:
    assert image_folder(shop / "runs" / "gtc") == shop / "shop"
    assert image_folder(tmp_path) is None
    (tmp_path / "config.yaml").write_text(f"data: {{path: {tmp_path / 'gone'}}}\n")
    assert image_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF1234WEBPVP8 ", "image/webp"),
        (b"<svg xmlns=", None),
        (b"", None),
    ],
)
def test_the_type_is_that_of_the_first_bytes(tmp_path: Path, start: bytes, kind: str | None) -> None:
    (tmp_path / "x.png").write_bytes(start)
    assert media_type(tmp_path / "x.png") == kind
