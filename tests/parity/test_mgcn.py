"""MGCN beside the code that its authors publish in MMRec, content frozen and trained.

Its L2 term is divided by the configured size of a batch, gtcrec's by the rows of the batch at hand: they differ in the
last batch of an epoch alone. Where a cosine below 0 makes the published graph NaN, gtcrec's has no edge.
"""

import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, KEYS, Parity, build, load_case, with_content

TERMS = {"bpr": ["bpr"], "contrast": ["contrast_items", "contrast_users"], "reg": ["reg"]}
LETTERS = {"image": "v", "text": "t"}


def names(published):
    found = {
        "users": published["user_embedding.weight"],
        "items": published["item_id_embedding.weight"],
        "fuser.query.0.weight": published["query_common.0.weight"],
        "fuser.query.0.bias": published["query_common.0.bias"],
        "fuser.query.2.weight": published["query_common.2.weight"],
    }
    for part in ("weight", "bias"):
        preferences = [published[f"gate_{name}_prefer.0.{part}"] for name in KEYS]
        found[f"fuser.preference.{part}"] = torch.cat(preferences)
        for name, key in KEYS.items():
            found[f"projections.{key}.{part}"] = published[f"{name}_trs.{part}"]
            found[f"gates.{key}.{part}"] = published[f"gate_{LETTERS[name]}.0.{part}"]
    return found


@pytest.fixture(params=[names, with_content(names)], ids=["frozen content", "trained content"])
def parity(request):
    return Parity(load_case("mgcn", "default"), request.param, TERMS)


@pytest.fixture
def model(parity):
    settings = parity.case.settings
    return build(
        "mgcn",
        parity.names(parity.case.parameters),
        train_content=parity.names is not names,
        num_layers=settings["n_ui_layers"],
        num_item_layers=settings["n_layers"],
        num_item_neighbors=settings["knn_k"],
        contrast_weight=settings["cl_loss"],
        temperature=settings["temperature"],
        reg=settings["reg_weight"],
    )


@pytest.mark.parametrize("name", KEYS)
def test_item_graphs_are_the_published_ones(name, parity, model):
    found = model.views[KEYS[name]].sides()[0].to_dense()
    torch.testing.assert_close(found, torch.tensor(parity.case.facts[f"{name}_graph"]), atol=1e-6, rtol=1e-5)


def test_scores_are_the_published_ones(parity, model):
    parity.check_scores(model)


def test_terms_and_gradients_are_the_published_ones(parity, model):
    found = model.loss(BATCH, stream())
    parity.check_terms(found)
    parity.check_gradients(model, found)
