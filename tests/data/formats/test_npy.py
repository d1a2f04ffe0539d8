"""Content matrices: converted exactly, refused when anything is wrong with them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from gtcrec.data.formats import npy as features
from gtcrec.data.formats.npy import count_rows, feature_files, read_features, read_matrix
from gtcrec.errors import DataError


def saved(folder: Path, array: np.ndarray) -> Path:
    path = folder / "image_feat.npy"
    np.save(path, array)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_matrix(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f8", "<i4", "|u1", "<i8"])
def test_numbers_of_any_width_become_float32(tmp_path: Path, kind: str) -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], dtype=kind)
    for stored in (x, np.asfortranarray(x)):
        read = read_matrix(saved(tmp_path, stored))
        assert read.dtype == np.float32
        assert read.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_reading_in_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    monkeypatch.setattr(features, "_BLOCK", 20)
    np.testing.assert_array_equal(read_matrix(saved(tmp_path, x)), x)
    x[30, 2] = np.nan
    assert "found nan at row 30, column 2" in refused(saved(tmp_path, x))


def test_a_memory_mapped_matrix_stays_on_disk_and_is_not_written_to(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = saved(tmp_path, x)
    read, _ = read_features({"image": path}, np.arange(4), memory_map=True)
    mapped = read.values["image"]
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, x)
    mapped[0, 0] = 99
    np.testing.assert_array_equal(np.load(path), x)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.ones((2, 3)), "float64 in row order"),
        (np.asfortranarray(np.ones((2, 3), dtype=np.float32)), "float32 in column order"),
    ],
)
def test_memory_mapping_refuses_what_would_have_to_be_converted(tmp_path: Path, stored: np.ndarray, said: str) -> None:
    path = saved(tmp_path, stored)
    with pytest.raises(DataError) as caught:
        read_matrix(path, memory_map=True)
    assert f"data.memory_map wants float32 in row order, found {said}; leave memory_map out" in str(caught.value)


def test_memory_mapping_refuses_another_order_of_items(tmp_path: Path) -> None:
    path = saved(tmp_path, np.ones((2, 3), dtype=np.float32))
    with pytest.raises(DataError, match="found 2 rows for 2 items or another order"):
        read_features({"image": path}, np.array([1, 0]), memory_map=True)


def test_a_row_of_zeros_is_content_that_is_not_there(tmp_path: Path) -> None:
    saved(tmp_path, np.array([[1.0, 0.0], [0.0, 0.0], [0.0, -2.0]]))
    read, notes = read_features(feature_files(tmp_path), np.array([2, 1, 0]))
    assert read.present["image"].tolist() == [True, False, True]
    assert read.values["image"].tolist() == [[0.0, -2.0], [0.0, 0.0], [1.0, 0.0]]
    assert notes == {"image: items without content": 1}


def test_no_file_means_no_rows(tmp_path: Path) -> None:
    assert count_rows(feature_files(tmp_path)) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_place(tmp_path: Path, value: float) -> None:
    x = np.ones((4, 3))
    x[2, 1] = value
    text = refused(saved(tmp_path, x))
    assert text.endswith(f"expected finite numbers, found {value} at row 2, column 1 (counted from 0)")


def test_numbers_beyond_float32_are_refused(tmp_path: Path) -> None:
    assert "found 1e+300 beyond the range of float32 at row 0, column 0" in refused(
        saved(tmp_path, np.full((1, 1), 1e300))
    )


def test_objects_are_refused_without_unpickling(tmp_path: Path) -> None:
    path = tmp_path / "image_feat.npy"
    np.save(path, np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    assert refused(path).endswith("holds Python objects, which need pickle; pickle is not read: save numbers")
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "damaged or not a .npy file" in refused(path)


@pytest.mark.parametrize("array", [np.array([["a"]]), np.array([[1j]]), np.array([[True]])])
def test_other_types_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    assert f"expected float16/32/64 or integers, found dtype {array.dtype}" in refused(saved(tmp_path, array))


@pytest.mark.parametrize("shape", [(3,), (3, 2, 1), (0, 4), (4, 0)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert f"expected a matrix [items, width], found shape {list(shape)}" in refused(saved(tmp_path, np.ones(shape)))


def test_a_truncated_or_lengthened_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.ones((4, 3), dtype=np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert f"truncated: [4, 3] float32 needs {len(whole)} bytes, the file has {len(whole) - 5}" in refused(path)
    path.write_bytes(whole + b"xx")
    assert "longer than its header says" in refused(path)
    path.write_bytes(whole[:20])
    assert "damaged or not a .npy file" in refused(path)


def test_a_header_that_claims_more_than_memory_is_refused_before_loading(tmp_path: Path) -> None:
    path = saved(tmp_path, np.ones((4, 3), dtype=np.float32))
    path.write_bytes(path.read_bytes().replace(b"(4, 3)", b"(4000000000, 3)").replace(b" " * 9 + b"\n", b"\n"))
    assert "truncated: [4000000000, 3] float32 needs 480000001" in refused(path)


@pytest.mark.parametrize("claim", [b"(4,(3)", b"(-4,-3)", b"{4, 3'"])
def test_a_broken_header_is_refused(tmp_path: Path, claim: bytes) -> None:
    path = saved(tmp_path, np.ones((4, 3), dtype=np.float32))
    whole = path.read_bytes()
    at = whole.index(b"(4, 3)")
    path.write_bytes(whole[:at] + claim + whole[at + len(claim) :])
    text = refused(path)
    assert "damaged" in text or "found shape" in text


def test_damage_anywhere_in_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = saved(tmp_path, np.ones((4, 3), dtype=np.float32))
    whole = path.read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        broken = bytearray(whole)
        for at in rng.integers(0, 128, int(rng.integers(1, 4))):
            broken[at] = int(rng.integers(256))
        path.write_bytes(broken)
        try:
            assert read_matrix(path).size == 12
            outcomes["read"] += 1
        except DataError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 150


def test_both_versions_of_the_format_are_read_and_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "image_feat.npy"
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, np.array([[1.0, 2.0]]), version=(2, 0))
    assert read_matrix(path).tolist() == [[1.0, 2.0]]
    path.write_bytes(path.read_bytes().replace(b"NUMPY\x02", b"NUMPY\x09"))
    assert "unknown version (9, 0) of the format" in refused(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "damaged or not a .npy file" in refused(tmp_path / "gone_feat.npy")
