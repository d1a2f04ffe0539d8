"""BPR beside MMRec's code, whose L2 term is of norms that are not squared; the paper's, the default, is of squares."""

import pytest

from gtcrec.ops.scorers import gather_batch
from helpers.training import stream
from parity.published import BATCH, Parity, build, load_case

CASE = load_case("bpr", "default")


def names(published):
    return {"users": published["user_embedding.weight"], "items": published["item_embedding.weight"]}


def dense(_, gradient):
    return gradient.to_dense()


PARITY = Parity(CASE, names, {"bpr": ["bpr"], "reg": ["reg"]}, common=dense)


def make(**settings):
    return build("bpr", names(CASE.parameters), reg=CASE.settings["reg_weight"], **settings)


@pytest.mark.parametrize("sparse", [False, True])
def test_scores_terms_and_gradients_are_the_published_ones(sparse):
    model = make(reg_form="norms", sparse=sparse)
    PARITY.check_scores(model)
    found = model.loss(BATCH, stream())
    PARITY.check_terms(found)
    PARITY.check_gradients(model, found)


def test_by_default_the_squares_are_weighed_as_in_the_paper():
    """Rendle et al. 2009, eq. of BPR-Opt: lambda |Theta|^2, here halved and averaged over the batch as BPR is."""
    model = make()
    found = model.loss(BATCH, stream())["reg"].item()
    squares = sum(rows.square().sum().item() for rows in gather_batch(BATCH, model.users, model.items))
    assert found == pytest.approx(CASE.settings["reg_weight"] * squares / (2 * len(BATCH.users)))
    assert abs(found - CASE.terms["reg"]) > 0.1 * CASE.terms["reg"]
