"""LightGCN beside its authors' code; MMRec's, which takes norms that are not squared, shares all but the L2 term."""

import pytest

from helpers.training import stream
from parity.published import BATCH, Parity, build, load_case


def names(published):
    return {"users": published["embedding_dict.user_emb"], "items": published["embedding_dict.item_emb"]}


@pytest.fixture
def parity():
    return Parity(load_case("lightgcn", "authors"), names, {"bpr": ["bpr"], "reg": ["reg"]})


@pytest.fixture
def model(parity):
    settings = parity.case.settings
    return build(
        "lightgcn", names(parity.case.parameters), num_layers=settings["lightGCN_n_layers"], reg=settings["decay"]
    )


def test_scores_are_the_published_ones(parity, model):
    parity.check_scores(model)


def test_terms_and_gradients_are_the_published_ones(parity, model):
    found = model.loss(BATCH, stream())
    parity.check_terms(found)
    parity.check_gradients(model, found)
