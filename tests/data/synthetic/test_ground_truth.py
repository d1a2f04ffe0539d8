"""Plants hold what they say: the truth is in the data, and nowhere else."""

import numpy as np
import pytest

from gtcrec.data import split
from gtcrec.data.synthetic.ground_truth import disjoint_interests, null_interests, xor_interests
from gtcrec.errors import DataError


def values_of(plant, bits):
    """The codes [2, n_items, bits] of seed 0: the first that the plant draws."""
    rng = np.random.default_rng([7, 1, 0])
    codes = rng.integers(0, 2, (2, plant.dataset.interactions.n_items, bits))
    return codes


def test_a_user_of_parts_likes_two_clusters_of_the_part_that_is_relevant():
    plant = disjoint_interests(0, n_users=40, n_items=300, parts=3, width=4, clusters=10, train=5, held=2, noise=0.0)
    pairs, content = plant.dataset.interactions, plant.dataset.features.values["content"]
    assert pairs.user_counts.tolist() == [9] * 40
    for user in range(40):
        relevant = plant.relevant["content"][user]
        assert relevant.sum() == 4
        liked = content[pairs.items_of(user)]
        distinct = [len(np.unique(liked[:, columns], axis=0)) for columns in np.arange(12).reshape(3, 4)]
        cares = int(np.flatnonzero(relevant)[0]) // 4
        assert distinct[cares] <= 2  # without noise a cluster is one point
        assert all(count > 2 for part, count in enumerate(distinct) if part != cares)


def test_the_exclusive_or_of_both_codes_says_what_a_user_likes_and_neither_code_alone_does():
    plant = xor_interests(0, n_users=200, n_items=600, bits=3, train=4)
    image, text = values_of(plant, 3)
    pairs = plant.dataset.interactions
    for code, alike in ((image ^ text, True), (image, False), (text, False)):
        number = code @ np.array([1, 2, 4])
        kinds = np.array([len(np.unique(number[pairs.items_of(user)])) for user in range(200)])
        assert (kinds == 1).all() if alike else kinds.mean() > 3
    # The content shows its own code: a linear read-out recovers each bit.
    for name, code in (("image", image), ("text", text)):
        x = plant.dataset.features.values[name]
        signs = np.sign(x @ np.linalg.lstsq(x, 2.0 * code - 1, rcond=None)[0])
        assert (signs == 2 * code - 1).mean() > 0.95


def test_content_says_nothing_where_nothing_is_planted():
    plant = null_interests(0, n_users=300, n_items=200)
    pairs = plant.dataset.interactions
    for x in plant.dataset.features.values.values():
        centres = np.stack([x[pairs.items_of(user)].mean(axis=0) for user in range(300)])
        # The mean of n unrelated rows of variance 1 has variance 1/n in each column.
        assert centres.var() * 16 == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("draw", [disjoint_interests, xor_interests, null_interests])
def test_a_plant_is_the_same_for_a_seed_and_brings_its_own_split(draw):
    one, again, other = draw(1, n_users=50), draw(1, n_users=50), draw(2, n_users=50)
    assert one.dataset.fingerprint == again.dataset.fingerprint != other.dataset.fingerprint
    parts = split(one.dataset)
    held = len(parts.valid) // 50
    assert (parts.valid.user_counts == held).all()
    assert (parts.final_test().user_counts == held).all()
    assert (parts.train.user_counts == len(parts.train) // 50).all()


def test_too_few_items_for_a_plant_are_refused():
    with pytest.raises(DataError, match=r"expected at least 16 items in two clusters, found \d+; draw more items"):
        disjoint_interests(0, n_items=100)
    with pytest.raises(DataError, match=r"expected at least 6 items of each value, found \d+; draw more items"):
        xor_interests(0, n_items=100)
