"""LGMRec beside the code that its authors publish in MMRec.

The published code draws its Gumbel noise for scores too, so that they do not repeat; gtcrec scores without. The scores
of the case with noise are those of gtcrec's vectors with the stored noise put in.
"""

import pytest
import torch

from gtcrec.models.multimodal import lgmrec
from helpers.training import stream
from parity.published import BATCH, KEYS, Parity, build, load_case, stored_draws

TERMS = {"bpr": ["bpr"], "contrast": ["contrast_users", "contrast_items"], "reg": ["reg"]}
LETTERS = {"image": "v", "text": "t"}


def names(published):
    found = {"users": published["user_embedding.weight"], "items": published["item_id_embedding.weight"]}
    for name, key in KEYS.items():
        both = published[f"item_{name}_trs"].T, published[f"{LETTERS[name]}_hyper"].T
        found[f"projections.{key}.weight"] = torch.cat(both)
    return found


@pytest.fixture(params=["plain", "noise", "two_hops"])
def parity(request):
    return Parity(load_case("lgmrec", request.param), names, TERMS)


def make(case, **given):
    settings = case.settings
    return build(
        "lgmrec",
        names(case.parameters),
        num_layers=settings["n_ui_layers"],
        num_content_layers=settings["n_mm_layers"],
        num_hyperedges=settings["hyper_num"],
        num_hyper_layers=settings["n_hyper_layer"],
        temperature=settings["tau"],
        global_weight=settings["alpha"],
        contrast_weight=settings["cl_weight"],
        reg=settings["reg_weight"],
        **{"dropout": 1 - settings["keep_rate"], **given},
    )


@pytest.fixture
def noise(parity, monkeypatch):
    """The stored noise, or none, in place of a draw: of all modalities at once, the users' before the items'."""
    draws, queue = parity.case.draws, []
    for side, n in (("users", 40), ("items", 30)):
        stored = [draws.get(f"gumbel_{name}_{side}", torch.zeros(n, 4)) for name in KEYS]
        queue.append(torch.stack(stored))
    monkeypatch.setattr(lgmrec, "_gumbel_noise", lambda shape, rng: queue.pop(0))
    yield
    assert not queue


def kept(draws):
    """The stored masks: 1 is above every dropout."""
    if not draws:
        return []
    return [torch.stack([draws[f"kept_{name}_{side}"].float() for name in KEYS]) for side in ("users", "items")]


@pytest.mark.parametrize("name", ["plain", "two_hops"])
def test_scores_are_the_published_ones_without_noise(name):
    parity = Parity(load_case("lgmrec", name), names, TERMS)
    parity.check_scores(make(parity.case))


def test_scores_with_the_stored_noise_are_the_published_ones(parity, noise, monkeypatch):
    model = make(parity.case, dropout=0)
    embeddings = model._embeddings
    monkeypatch.setattr(model, "_embeddings", lambda rng: embeddings(stream()))
    parity.check_scores(model)


def test_terms_and_gradients_are_the_published_ones(parity, noise):
    model = make(parity.case)
    with stored_draws(rand=kept(parity.case.draws)):
        found = model.loss(BATCH, stream())
    parity.check_terms(found)
    parity.check_gradients(model, found)
