"""Shares of users, and intervals that hold however often one looks."""

import numpy as np
import pytest

from gtcrec.serving.http.events import VariantCounts
from gtcrec.serving.http.experiments import assign, click_through_rate, compare_variants, confidence_radius

LOOKS = np.unique(np.geomspace(20, 4000, 60).astype(int))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_each_run_gets_its_share_and_a_user_stays_with_it(share):
    users = [f"user {number}" for number in range(20_000)]
    chosen = [assign(user, [1 - share, share]) for user in users]
    assert np.mean(chosen) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(users)))
    assert chosen == [assign(user, [1 - share, share]) for user in users]


def test_a_grown_share_moves_no_user_away_from_the_variant():
    users = [f"user {number}" for number in range(1000)]
    before = {user for user in users if assign(user, [0.9, 0.1])}
    assert before < {user for user in users if assign(user, [0.7, 0.3])}


def visits(rng, rate, spread):
    """Shown and clicked lists of users who come again and again and differ in how gladly they click."""
    gladness = rng.beta(rate * spread, (1 - rate) * spread, size=300)
    user = rng.integers(300, size=LOOKS[-1])
    clicked = rng.random(LOOKS[-1]) < gladness[user]
    for look in LOOKS:
        shown, hit = (np.bincount(user[:look], x, 300) for x in (None, clicked[:look]))
        sums = tuple(float(x) for x in (shown @ shown, shown @ hit, hit @ hit))
        yield VariantCounts(int((shown > 0).sum()), int(shown.sum()), int(hit.sum()), sums)


@pytest.mark.parametrize("rate", [0.03, 0.2])
def test_the_interval_holds_at_all_looks_together_where_one_of_a_single_look_does_not(rate):
    missed = single = 0
    for seed in range(200):
        outside = naive = False
        for counts in visits(np.random.default_rng(seed), rate, spread=20.0):
            found, low, high = click_through_rate(counts)
            outside |= not low <= rate <= high
            naive |= abs(found - rate) > 1.96 * np.sqrt(found * (1 - found) / counts.lists)
        missed, single = missed + outside, single + naive
    assert missed <= 10  # of 200: at most one in twenty
    assert single > 40


def test_the_interval_narrows_to_a_few_standard_errors():
    counts = VariantCounts(100_000, 100_000, 10_000, (100_000, 10_000, 10_000))
    error = np.sqrt(0.1 * 0.9 / 100_000)
    assert 2 * error < confidence_radius(counts) < 5 * error


def test_lists_of_one_user_count_for_less_than_lists_of_many():
    many = VariantCounts(1000, 1000, 100, (1000, 100, 100))
    few = VariantCounts(10, 1000, 100, (100_000, 10_000, 10_000))  # one of ten users clicks whatever is shown
    assert confidence_radius(few) > 2 * confidence_radius(many)


def test_a_variant_that_showed_nothing_may_be_anything():
    result = compare_variants({}, ["a", "b"])["b"]
    assert (result.rate, result.interval, result.difference) == (None, (0.0, 1.0), None)


def test_a_clear_difference_is_seen_and_none_is_not():
    good = VariantCounts(10_000, 10_000, 2_000, (10_000, 2_000, 2_000))
    poor = VariantCounts(10_000, 10_000, 1_000, (10_000, 1_000, 1_000))
    results = compare_variants({"a": poor, "b": good, "c": poor}, ["a", "b", "c"])
    middle, low, high = results["b"].difference
    assert middle == pytest.approx(0.1)
    assert 0 < low < middle < high
    assert results["c"].difference[1] < 0 < results["c"].difference[2]
    assert results["a"].difference is None


def test_users_see_the_run_of_their_share_and_its_clicks_are_counted(serve, ease, bpr):
    client = serve(ease, variants=((bpr, 0.5),))
    versions = client.get("/health/ready").json()["versions"]
    shown = [client.get(f"/v1/recommend/u{number:04d}?n=2").json() for number in range(60)]
    assert {one["variant"] for one in shown} == {"a", "b"}
    assert all(one["version"] == versions[one["variant"]] for one in shown)
    first = next(one for one in shown if one["variant"] == "b")
    event = {"user": first["user"], "item": first["items"][0]["item"], "kind": "click"}
    client.post("/v1/events", json={"events": [{**event, "impression": first["impression"]}]})
    states = {one["name"]: one for one in client.get("/v1/experiments").json()["variants"]}
    assert (states["a"]["share"], states["b"]["share"]) == (0.5, 0.5)
    assert states["a"]["lists"] + states["b"]["lists"] == 60
    assert (states["a"]["clicked"], states["b"]["clicked"]) == (0, 1)
    assert states["b"]["rate"] == pytest.approx(1 / states["b"]["lists"])
