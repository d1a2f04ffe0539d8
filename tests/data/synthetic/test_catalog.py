"""SyntheticCatalog catalogues: the truth is in the data, the files are the same for a seed and can be read back."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gtcrec.data import SyntheticCatalog, load, make_catalog, split, write_catalog
from gtcrec.data.synthetic.catalog import CARES
from gtcrec.data.synthetic.rendering import ATTRIBUTES, encode_png, text_features
from gtcrec.errors import DataError, WriteError
from gtcrec.runtime.files import check_manifest
from gtcrec.types import Ints
from helpers.faults import count_events, fail_at

SMALL = {"n_users": 60, "n_items": 50, "per_user": 8, "seed": 3}


@cache
def truth() -> SyntheticCatalog:
    return make_catalog()


def liked(group: int, attribute: str) -> float:
    """Share of a group's interactions whose item is among the user's two most frequent values."""
    made = truth()
    pairs = made.dataset.interactions
    n_values = len(ATTRIBUTES[attribute])
    table = np.zeros((pairs.n_users, n_values))
    np.add.at(table, (pairs.users, made.attributes[attribute][pairs.items]), 1)
    chosen = table[made.groups == group]
    return float(np.sort(chosen, axis=1)[:, -2:].sum() / chosen.sum())


def test_default_size_is_sparse_and_has_items_that_few_know() -> None:
    pairs = truth().dataset.interactions
    assert (pairs.n_users, pairs.n_items) == (1200, 600)
    assert 10 <= pairs.user_counts.mean() <= 12
    assert pairs.user_counts.min() >= 4
    assert (split(truth().dataset).train.item_counts == 0).sum() >= 20


@pytest.mark.parametrize("group", range(len(CARES)))
def test_each_group_chooses_by_the_attribute_that_it_cares_about(group: int) -> None:
    own = liked(group, CARES[group])
    others = [liked(group, name) for name in ATTRIBUTES if name != CARES[group]]
    assert own > 0.8
    assert own > max(others) + 0.1


def test_tastes_are_two_distinct_values_and_match_what_users_chose() -> None:
    made = truth()
    pairs = made.dataset.interactions
    assert (made.tastes[:, 0] != made.tastes[:, 1]).all()
    values = np.stack([made.attributes[name] for name in CARES])[made.groups[pairs.users], pairs.items]
    hit = (values[:, None] == made.tastes[pairs.users]).any(axis=1)
    assert 0.8 < hit.mean() < 0.98


def readable(modality: str, attribute: str) -> float:
    """Accuracy of a linear read-out of the attribute from the content, on items that it was not fitted on."""
    made = truth()
    x = made.dataset.features.values[modality].astype(np.float64)
    there = np.flatnonzero(made.dataset.features.present[modality])
    x = np.concatenate([x - x[there].mean(axis=0), np.ones((len(x), 1))], axis=1)
    answers: Ints = made.attributes[attribute]
    target = np.eye(int(answers.max()) + 1)[answers]
    fit, held = there[:400], there[400:]
    weights = np.linalg.solve(x[fit].T @ x[fit] + 0.1 * np.eye(x.shape[1]), x[fit].T @ target[fit])
    return float(((x[held] @ weights).argmax(axis=1) == answers[held]).mean())


def test_images_show_colour_and_shape_and_texts_tell_kind_and_material() -> None:
    for modality, attributes in {"image": ("colour", "shape"), "text": ("kind", "material")}.items():
        for attribute in ATTRIBUTES:
            accuracy = readable(modality, attribute)
            assert accuracy > 0.75 if attribute in attributes else accuracy < 0.4, (
                modality,
                attribute,
                accuracy,
            )


def test_an_image_is_missing_here_and_there() -> None:
    features = truth().dataset.features
    assert (~features.present["image"]).sum() == 24
    assert not features.values["image"][~features.present["image"]].any()
    assert features.present["text"].all()


def test_the_written_folder_reads_back_as_the_planted_data(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "shop", **SMALL)
    made, read = make_catalog(**SMALL), load(folder)
    assert read.fingerprint == made.dataset.fingerprint
    assert read.name == "shop"
    assert read.users.ids[0] == "u0000"
    assert read.item_metadata is not None
    assert read.item_metadata.titles == made.titles
    assert read.notes == {"image: items without content": 2}
    for item, image in enumerate(read.item_metadata.images):
        assert (image is not None) == bool(read.features.present["image"][item])
        if image is not None:
            np.testing.assert_array_equal(np.asarray(Image.open(image)), made.images[item])


def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    one, two, three = (
        check_manifest(write_catalog(tmp_path / str(k), **{**SMALL, "seed": seed})) for k, seed in enumerate((3, 3, 4))
    )
    assert (tmp_path / "0" / "manifest.json").read_bytes() == (tmp_path / "1" / "manifest.json").read_bytes()
    assert one == two
    assert one["files"]["items.csv"] != three["files"]["items.csv"]
    assert one["files"]["images/p0000.png"] != three["files"]["images/p0000.png"]


def test_a_written_catalogue_that_was_damaged_is_refused(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path, **SMALL)
    broken = bytearray((folder / "image_feat.npy").read_bytes())
    broken[-1] ^= 1
    (folder / "image_feat.npy").write_bytes(broken)
    with pytest.raises(DataError, match=r"image_feat.npy: damaged or edited: its sha256 sum differs"):
        load(folder)


def test_a_folder_in_use_and_impossible_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="expected a new or empty folder, found one in use"):
        write_catalog(tmp_path)
    with pytest.raises(DataError, match=r"expected at least 1 user, 20 items and 4 to n_items / 2.*found 10, 20, 11"):
        make_catalog(n_users=10, n_items=20)


def test_png_bytes_decode_to_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(encode_png(pixels))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), pixels)


def test_text_features_are_tf_idf_of_length_one() -> None:
    # Words a, b, c; "a" is in both texts: idf log(3/3) = 0; "b" twice and "c" once: idf log(3/2).
    found = text_features(("A b, b; c", "a"))
    np.testing.assert_allclose(found, [[0, 2 / 5**0.5, 1 / 5**0.5], [0, 0, 0]], atol=1e-6)


def test_a_catalogue_that_could_not_be_written_does_not_block_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        count_events(patch, fail_at(30))
        with pytest.raises(WriteError) as failed:
            write_catalog(tmp_path / "shop", **SMALL)
    assert str(failed.value) == f"{tmp_path / 'shop'}: cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []
    assert len(load(write_catalog(tmp_path / "shop", **SMALL)).interactions)
