"""Hidden content: how much, which, and that nothing else changes."""

from pathlib import Path

import numpy as np
import pytest

from gtcrec.data import ReadConfig, load, write_catalog
from gtcrec.data.filters import masked_items
from gtcrec.errors import ConfigError, DataError
from gtcrec.experiments.config import dump_yaml, load_config
from gtcrec.experiments.run_folder import read_stored_config


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of which 10 of 50 items have no image."""
    folder = write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=40, n_items=50)
    (folder / "manifest.json").unlink(missing_ok=True)  # its sums are those of other content
    content = np.random.default_rng(0).standard_normal((2, 50, 4)).astype(np.float32)
    content[0, :10] = 0
    for name, x in zip(("image", "text"), content, strict=True):
        np.save(folder / f"{name}_feat.npy", x)
    return folder


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.29, 29), (0.3, 30), (0.999, 99)])
def test_the_share_is_rounded_down_so_that_some_content_is_left(share: float, count: int) -> None:
    found = masked_items(np.ones(100, dtype=bool), share, "image", 0)
    assert (len(found), len(set(found.tolist()))) == (count, count)


def test_a_larger_share_hides_what_a_smaller_one_does_among_the_items_that_have_content() -> None:
    present = np.arange(200) % 3 > 0
    drawn = [set(masked_items(present, share, "image", 7).tolist()) for share in (0.1, 0.3, 0.6, 0.9)]
    assert [len(one) for one in drawn] == [13, 39, 79, 119]  # of 133
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3] < set(np.flatnonzero(present).tolist())


def test_another_seed_and_another_modality_hide_other_items() -> None:
    present = np.ones(1000, dtype=bool)
    first, seed, other = (
        set(masked_items(present, 0.5, m, s).tolist()) for m, s in (("image", 0), ("image", 1), ("text", 0))
    )
    for one in (seed, other):  # two independent halves of 1,000 share 250 ± 8
        assert 200 < len(first & one) < 300


def test_hidden_rows_are_absent_zeros_and_all_else_is_as_it_was(shop: Path) -> None:
    whole = load(shop)
    less = load(shop, ReadConfig(missing_rate={"image": 0.5}, missing_seed=3))
    before, after = whole.features.present["image"], less.features.present["image"]
    assert (before.sum(), after.sum()) == (40, 20)
    assert not (after & ~before).any()
    np.testing.assert_array_equal(less.features.values["image"][~after], 0)
    np.testing.assert_array_equal(less.features.values["image"][after], whole.features.values["image"][after])
    np.testing.assert_array_equal(less.features.values["text"], whole.features.values["text"])
    np.testing.assert_array_equal(less.features.present["text"], whole.features.present["text"])
    np.testing.assert_array_equal(less.interactions.users, whole.interactions.users)
    np.testing.assert_array_equal(less.interactions.items, whole.interactions.items)
    assert less.items.ids.tolist() == whole.items.ids.tolist()
    assert less.notes == {**whole.notes, "image: items whose content was hidden": 20}


def test_what_is_hidden_shows_in_the_fingerprint_and_nothing_hidden_does_not(shop: Path) -> None:
    configs = [
        ReadConfig(missing_rate={"image": share}, missing_seed=seed) for share, seed in ((0.5, 0), (0.5, 1), (0.6, 0))
    ]
    assert len({load(shop, one).fingerprint for one in [ReadConfig(), *configs]}) == 4
    assert load(shop, ReadConfig(missing_rate={"image": 0.0})).fingerprint == load(shop).fingerprint
    assert load(shop, configs[0]).fingerprint == load(shop, configs[0]).fingerprint


def test_the_share_is_of_the_items_that_the_core_keeps(shop: Path) -> None:
    kept = load(shop, ReadConfig(k_core=3))
    less = load(shop, ReadConfig(k_core=3, missing_rate={"text": 0.5}))
    assert len(kept.items) < 50
    assert less.features.present["text"].sum() == len(kept.items) - len(kept.items) // 2


def test_a_run_folder_says_what_was_hidden(shop: Path, tmp_path: Path) -> None:
    config = load_config(str(shop), "popular", assignments=["data.hidden={image: 0.3}", "data.hidden_seed=4"])
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert read_stored_config(tmp_path) == config
    assert (config.data.missing_rate, config.data.missing_seed) == ({"image": 0.3}, 4)


def test_what_cannot_be_hidden_is_refused(shop: Path) -> None:
    message = r"^data.missing_rate: no content 'imag' was read, found image, text \(did you mean 'image'\?\)$"
    with pytest.raises(ConfigError, match=message):
        load(shop, ReadConfig(missing_rate={"imag": 0.3}))
    with pytest.raises(ConfigError, match=r"data.missing_rate.image: Input should be less than 1, found 1.0"):
        load_config(str(shop), "gtc", assignments=["data.missing_rate={image: 1.0}"])
    with pytest.raises(
        DataError, match=r"^data.missing_rate: image stays on disk, where no row can be masked; leave memory"
    ):
        load(shop, ReadConfig(missing_rate={"image": 0.3}, memory_map=True))
