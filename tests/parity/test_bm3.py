"""BM3 beside the code that its authors publish in MMRec, content frozen and trained.

The published masks are drawn for all users and items at once, so that a user of many pairs has one mask in them all;
gtcrec draws one for each pair. The test gives each pair the mask of its user and item.
"""

import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, KEYS, Parity, build, load_case, stored_draws, with_content

TERMS = {
    "reconstruction": ["user_item", "item_user"],
    "between": ["text_item", "image_item"],
    "within": ["text_text", "image_image"],
    "reg": ["reg"],
}


def names(published):
    found = {
        "users": published["user_embedding.weight"],
        "items": published["item_id_embedding.weight"],
        "predictor.weight": published["predictor.weight"],
        "predictor.bias": published["predictor.bias"],
    }
    for name, key in KEYS.items():
        found |= {f"projections.{key}.{part}": published[f"{name}_trs.{part}"] for part in ("weight", "bias")}
    return found


@pytest.fixture(params=["plain", "masks"])
def case(request):
    return load_case("bm3", request.param)


@pytest.fixture(params=[names, with_content(names)], ids=["frozen content", "trained content"])
def parity(request, case):
    return Parity(case, request.param, TERMS)


@pytest.fixture
def model(parity):
    settings = parity.case.settings
    return build(
        "bm3",
        parity.names(parity.case.parameters),
        train_content=parity.names is not names,
        num_layers=settings["n_layers"],
        dropout=settings["dropout"],
        reg=settings["reg_weight"],
        content_weight=settings["cl_weight"],
    )


def loss(model, draws):
    """The loss with the stored masks: a draw of 1 is above every dropout, one of 0 below."""
    if not draws:
        return model.loss(BATCH, stream())
    rows = {"users": BATCH.users, "items": BATCH.positives, "image": BATCH.positives, "text": BATCH.positives}
    with stored_draws(rand=[draws[f"kept_{name}"][some].float() for name, some in rows.items()]):
        return model.loss(BATCH, torch.Generator())


def test_scores_are_the_published_ones(parity, model):
    parity.check_scores(model)


def test_terms_and_gradients_are_the_published_ones(parity, model):
    found = loss(model, parity.case.draws)
    parity.check_terms(found)
    parity.check_gradients(model, found)
