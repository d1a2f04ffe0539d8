"""LightGCN beside its authors' code, and beside MMRec's, whose L2 term is of norms that are not squared."""

import pytest

from helpers.training import stream
from parity.published import BATCH, Parity, build, load_case

CASES = {
    "authors": {"layers": "lightGCN_n_layers", "reg": "decay", "reg_form": "half_squares"},
    "mmrec": {"layers": "n_layers", "reg": "reg_weight", "reg_form": "norms"},
}


def names(published):
    return {"users": published["embedding_dict.user_emb"], "items": published["embedding_dict.item_emb"]}


@pytest.fixture(params=CASES)
def parity(request):
    return Parity(load_case("lightgcn", request.param), names, {"bpr": ["bpr"], "reg": ["reg"]})


@pytest.fixture
def model(parity, request):
    case, settings = CASES[request.node.callspec.params["parity"]], parity.case.settings
    return build(
        "lightgcn",
        names(parity.case.parameters),
        num_layers=settings[case["layers"]],
        reg=settings[case["reg"]],
        reg_form=case["reg_form"],
    )


def test_scores_are_the_published_ones(parity, model):
    parity.check_scores(model)


def test_terms_and_gradients_are_the_published_ones(parity, model):
    found = model.loss(BATCH, stream())
    parity.check_terms(found)
    parity.check_gradients(model, found)
