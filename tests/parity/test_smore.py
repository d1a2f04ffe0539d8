"""SMORE beside the code that its authors publish in MMRec, content frozen and trained.

Its L2 term is divided by the configured size of a batch, gtcrec's by the rows of the batch at hand: they differ in the
last batch of an epoch alone. Where a cosine below 0 makes the published graph NaN, gtcrec's has no edge. Published
masks are drawn for all users and items, gtcrec's for the rows of a batch; the test gives each row its node's.
"""

import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, KEYS, Parity, build, load_case, stored_draws, with_content

TERMS = {"bpr": ["bpr"], "contrast": ["contrast_items", "contrast_users"], "reg": ["reg"]}
VIEWS = {"image": ("0_image", "v"), "text": ("1_text", "t"), "fusion": ("fused", "f")}


def names(published):
    found = {"users": published["user_embedding.weight"], "items": published["item_id_embedding.weight"]}
    for name, (key, letter) in VIEWS.items():
        found[f"filters.{key}"] = published[f"{name}_complex_weight"][0]
        for part in ("weight", "bias"):
            found[f"content_gates.{key}.{part}"] = published[f"gate_{letter}.0.{part}"]
            found[f"behaviour_gates.{key}.{part}"] = published[f"gate_{name}_prefer.0.{part}"]
            if name in KEYS:
                found[f"projections.{key}.{part}"] = published[f"{name}_trs.{part}"]
                found[f"queries.{key}.0.{part}"] = published[f"query_{letter}.0.{part}"]
        if name in KEYS:
            found[f"queries.{key}.2.weight"] = published[f"query_{letter}.2.weight"]
    return found


@pytest.fixture(params=["plain", "masks"])
def case(request):
    return load_case("smore", request.param)


@pytest.fixture(params=[names, with_content(names)], ids=["frozen content", "trained content"])
def parity(request, case):
    return Parity(case, request.param, TERMS)


@pytest.fixture
def model(parity):
    settings = parity.case.settings
    return build(
        "smore",
        parity.names(parity.case.parameters),
        train_content=parity.names is not names,
        num_layers=settings["n_ui_layers"],
        num_item_layers=settings["n_layers"],
        num_item_neighbors=settings["image_knn_k"],
        temperature=settings["temperature"],
        dropout=settings["dropout_rate"],
        contrast_weight=settings["cl_loss"],
        reg=settings["reg_weight"],
    )


def kept(draws):
    """The stored masks of the batch's users, then of its items, which follow the 40 users; 1 is above every dropout."""
    if not draws:
        return []
    nodes = BATCH.users, 40 + torch.cat([BATCH.positives, BATCH.negatives])
    return [draws[f"kept_{name}"][some].float() for some in nodes for name in ("fusion", "image", "text")]


def test_scores_are_the_published_ones(parity, model):
    parity.check_scores(model)


def test_terms_and_gradients_are_the_published_ones(parity, model):
    with stored_draws(rand=kept(parity.case.draws)):
        found = model.loss(BATCH, stream())
    parity.check_terms(found)
    parity.check_gradients(model, found)
