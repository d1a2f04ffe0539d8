"""FREEDOM beside the code that its authors publish in MMRec, content frozen and trained, edges whole and pruned."""

import numpy as np
import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, KEYS, TRAIN, Parity, build, content_names, load_case

TERMS = {"bpr": ["bpr"], "content": ["text", "image"]}


def names(published):
    found = {"users": published["user_embedding.weight"], "items": published["item_id_embedding.weight"]}
    return found | {f"projections.{key}.weight": published[f"{name}_trs.weight"] for name, key in KEYS.items()}


def names_of_all(published):
    return names(published) | content_names(published)


@pytest.fixture(params=["whole", "pruned"])
def case(request):
    return load_case("freedom", request.param)


def make(case, weights, **given):
    settings = case.settings
    image = settings["mm_image_weight"]
    model = build(
        "freedom",
        weights,
        num_layers=settings["n_ui_layers"],
        num_item_layers=settings["n_mm_layers"],
        num_item_neighbors=settings["knn_k"],
        modality_weights={"image": image, "text": 1 - image},
        edge_dropout=settings["dropout"],
        content_weight=settings["reg_weight"],
        **given,
    )
    if "kept_pairs" in case.draws:
        pairs = {tuple(pair) for pair in case.draws["kept_pairs"].long().tolist()}
        kept = torch.tensor([pair in pairs for pair in zip(TRAIN.users.tolist(), TRAIN.items.tolist(), strict=True)])
        model.graph.draw = lambda share, rng: kept
    return model


def test_scores_are_the_published_ones(case):
    Parity(case, names, TERMS).check_scores(make(case, names(case.parameters)))


@pytest.mark.parametrize(("trained", "own"), [(False, names), (True, names_of_all)], ids=["frozen", "trained"])
def test_terms_and_gradients_are_the_published_ones(case, trained, own):
    """The published projections have a bias too, which cancels."""
    model = make(case, own(case.parameters), train_content=trained)
    found, parity = model.loss(BATCH, stream()), Parity(case, own, TERMS)
    parity.check_terms(found)
    parity.check_gradients(model, found)


def test_the_item_graph_is_the_published_one_each_item_its_own_neighbour():
    case = load_case("freedom", "whole")
    found = make(case, names(case.parameters)).item_graph.sides()[0].to_dense()
    np.testing.assert_allclose(found.numpy(), np.array(case.facts["item_graph"]), atol=1e-6)
    assert found.diagonal().numpy() == pytest.approx(0.1)


def test_as_many_edges_are_kept_as_published_in_floating_point():
    """300 * (1 - .8) is 59.99..., of which the whole part is taken."""
    case = load_case("freedom", "pruned")
    model = build("freedom", names(case.parameters), edge_dropout=case.settings["dropout"])
    assert len(case.draws["kept_pairs"]) == 59
    assert model.graph.draw(1 - case.settings["dropout"], stream()).sum() == 59
