"""VBPR beside MMRec's code, of two contents joined and of one. MMRec leaves out the paper's biases.

Each case is compared without biases, wholly, and with biases that are 0, where the rest must not differ.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, CONTENT, KEYS, Parity, build, load_case

TERMS = {"bpr": ["bpr"], "reg": ["reg"]}
FACTORS = 8
PLACES = {"joined": {"text": slice(0, 8), "image": slice(8, 20)}, "image": {"image": slice(0, 12)}}


def names(case, published):
    """Columns of the one linear layer are those of the contents side by side, text first."""
    users, weight = published["u_embedding"], published["item_linear.weight"]
    found = {
        "users": users[:, :FACTORS],
        "tastes.joined": users[:, FACTORS:],
        "items": published["i_embedding"],
        "offset": published["item_linear.bias"],
    }
    keys = KEYS if case == "joined" else {"image": "0_image"}
    return found | {f"projections.{key}.weight": weight[:, PLACES[case][m]] for m, key in keys.items()}


def without_content_bias(name, gradient):
    return gradient[:FACTORS] if name.startswith("projections") else gradient


@pytest.fixture(params=["joined", "image"])
def parity(request):
    translate = partial(names, request.param)
    return Parity(load_case("vbpr", request.param), translate, TERMS, common=without_content_bias)


def make(parity, biases, **given):
    weights = parity.names(parity.case.parameters)
    if biases:  # the last row of a projection is the bias of content
        weights |= {n: torch.cat([w, torch.zeros(1, w.shape[1])]) for n, w in weights.items() if n.startswith("proj")}
    contents = {m: CONTENT[m] for m in KEYS if f"projections.{KEYS[m]}.weight" in weights}
    settings = {"content_dim": FACTORS, "reg": parity.case.settings["reg_weight"], "biases": biases, **given}
    return build("vbpr", weights, contents, left=["bias"] if biases else [], **settings)


@pytest.mark.parametrize("biases", [False, True])
def test_scores_are_the_published_ones(parity, biases):
    parity.check_scores(make(parity, biases))


@pytest.mark.parametrize("biases", [False, True])
def test_terms_and_gradients_are_the_published_ones(parity, biases):
    model = make(parity, biases)
    found = model.loss(BATCH, stream())
    parity.check_terms(found)
    others = replace(
        parity, names=lambda published: {n: x for n, x in parity.names(published).items() if n != "offset"}
    )
    others.check_gradients(model, found, without=["bias", "offset"])


def test_only_the_l2_term_moves_the_offset_of_content(parity):
    """It cancels in BPR, where the published gradient is nothing but rounding."""
    model = make(parity, False)
    found = model.loss(BATCH, stream())
    bpr, reg = (torch.autograd.grad(found[term], model.offset, retain_graph=True)[0] for term in ("bpr", "reg"))
    published = {term: parity.case.term_gradients[term]["item_linear.bias"] for term in ("bpr", "reg")}
    torch.testing.assert_close(reg, published["reg"], rtol=2e-5, atol=1e-7)
    assert max(bpr.abs().max(), published["bpr"].abs().max()) < 1e-5 * reg.abs().max()


def test_half_squares_of_the_same_rows_are_the_l2_term_of_version_0_1(parity):
    model = make(parity, False, reg_form="half_squares")
    found = model.loss(BATCH, stream())["reg"].item()
    users, items = model.vectors()
    rows = users[BATCH.users, :-1], items[BATCH.positives], items[BATCH.negatives]
    squares = sum(one.square().sum().item() for one in rows)
    assert found == pytest.approx(model.config.reg * squares / (2 * len(BATCH.users)), rel=1e-5)
