"""The comparison with published numbers finds small faults: each kind of it, on LightGCN."""

from dataclasses import replace

import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, DATA, Parity, build, load_case, stored_draws
from parity.test_lightgcn import names

CASE = load_case("lightgcn", "authors")
PARITY = Parity(CASE, names, {"bpr": ["bpr"], "reg": ["reg"]})


def make(**settings):
    return build("lightgcn", names(CASE.parameters), **{"num_layers": 3, "reg": 1e-4, **settings})


def test_a_batch_has_a_user_of_many_triples_and_items_on_both_sides():
    """What tells a mean over rows from one over distinct rows."""
    users, positives, negatives = (set(side.tolist()) for side in BATCH)
    assert (len(BATCH.users), len(users), len(positives), len(negatives)) == (24, 17, 15, 19)
    assert positives & negatives
    assert len(DATA["pairs"]) == 300


def test_a_weight_of_a_small_term_that_is_one_percent_off_is_found():
    found = make(reg=1.01e-4).loss(BATCH, stream())
    with pytest.raises(AssertionError, match=r"reg is 0\.000146.*published 0\.000144"):
        PARITY.check_terms(found)


def test_scores_of_fewer_hops_are_refused():
    with pytest.raises(AssertionError, match="scores differ by"):
        PARITY.check_scores(make(num_layers=2))


def test_a_constant_of_a_user_is_passed_over_only_where_that_is_asked_for():
    shift = torch.arange(6.0)[:, None]
    moved = Parity(replace(CASE, scores=CASE.scores + shift), names, PARITY.terms)
    moved.check_scores(make(), per_user_constant=True)
    with pytest.raises(AssertionError, match="scores differ by"):
        moved.check_scores(make())


def test_a_gradient_that_is_twice_the_published_one_is_refused():
    model = make()
    terms = {name: 2 * term for name, term in model.loss(BATCH, stream()).items()}
    with pytest.raises(AssertionError, match="d the loss / d users"):
        PARITY.check_gradients(model, terms)


def test_a_deliberate_factor_is_expected_in_the_term_and_in_its_gradients():
    model = make(reg=3e-4)
    found = model.loss(BATCH, stream())
    parity = Parity(CASE, names, PARITY.terms, factors={"reg": 3.0})
    parity.check_terms(found)
    parity.check_gradients(model, found)
    with pytest.raises(AssertionError, match="d reg / d users"):
        Parity(CASE, names, PARITY.terms, factors={"reg": 1.0}).check_gradients(model, found)


def test_a_parameter_without_published_weights_is_refused():
    weights = names(CASE.parameters)
    with pytest.raises(AssertionError, match=r"\['items'\]"):
        build("lightgcn", {"users": weights["users"]})


def test_stored_draws_must_all_be_asked_for():
    with stored_draws(rand=[torch.ones(2, 3)]):
        assert torch.equal(torch.rand(2, 3), torch.ones(2, 3))
    with pytest.raises(AssertionError, match="'rand': 1"), stored_draws(rand=[torch.ones(2)]):
        pass
    assert torch.rand(2).shape == (2,)
