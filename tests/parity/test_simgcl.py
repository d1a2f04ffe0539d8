"""SimGCL beside the PyTorch code of its authors (SELFRec), with the stored uniform draws.

One difference stands: the published code adds 1e-5 to the sigmoid before its logarithm.
"""

import pytest
import torch

from gtcrec.ops.scorers import gather_batch
from helpers.training import stream
from parity.published import BATCH, TRAIN, Parity, build, load_case, stored_draws

CASE = load_case("simgcl", "default")
TERMS = {"bpr": ["bpr"], "contrast": ["contrast_users", "contrast_items"], "reg": ["reg"]}


def names(published):
    return {"users": published["embedding_dict.user_emb"], "items": published["embedding_dict.item_emb"]}


@pytest.fixture
def model():
    settings = CASE.settings
    return build(
        "simgcl",
        names(CASE.parameters),
        num_layers=settings["n_layer"],
        noise=settings["eps"],
        temperature=settings["temperature"],
        contrast_weight=settings["lambda"],
        reg=settings["reg.lambda"],
    )


def loss(model):
    """The loss with the stored draws: of all nodes after the first hop, of the batch's distinct ones after the last."""
    users, items = BATCH.users.unique(), TRAIN.n_users + BATCH.positives.unique()
    queue = []
    for view in (1, 2):
        first, last = (CASE.draws[f"uniform_view{view}_hop{hop}"] for hop in (1, 2))
        queue += [first[: TRAIN.n_users], first[TRAIN.n_users :], last[users], last[items]]
    with stored_draws(rand=[one.clone() for one in queue]):
        return model.loss(BATCH, stream())


def published_bpr(model):
    """-ln (1e-5 + sigmoid(difference)), the one formula that differs."""
    users, items = mean_of_hops(model)
    u, i, j = gather_batch(BATCH, users, items)
    return -(1e-5 + torch.sigmoid((u * i).sum(dim=1) - (u * j).sum(dim=1))).log().mean()


def mean_of_hops(model):
    a, b = model.users, model.items
    users, items = [], []
    for _ in range(CASE.settings["n_layer"]):
        a, b = model.r(b), model.r.transposed(a)
        users.append(a)
        items.append(b)
    return torch.stack(users).mean(dim=0), torch.stack(items).mean(dim=0)


def test_scores_are_the_published_ones(model):
    Parity(CASE, names, TERMS).check_scores(model)


def test_terms_and_gradients_are_the_published_ones_but_for_1e_5_in_a_logarithm(model):
    found = loss(model)
    assert found["bpr"].item() == pytest.approx(CASE.terms["bpr"], rel=5e-5)
    found["bpr"] = published_bpr(model)
    parity = Parity(CASE, names, TERMS)
    parity.check_terms(found)
    parity.check_gradients(model, found)
