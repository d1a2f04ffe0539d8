"""BM3's own claims: targets without gradient, no negatives, and an alignment of contents that no score reads."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.types import ItemFeatures, Split
from helpers.training import a_batch, stream


def make(split, seed=0, **given):
    config = models.make_config("bm3", {"embedding_dim": 8, **given})
    return models.build_model("bm3", split.train, split.features, config, seed)


def propagated(split, p, layers):
    """h of users and items [n, dim] from the dense adjacency of the whole graph."""
    n_users, n_items = split.train.n_users, split.train.n_items
    a = torch.zeros(n_users + n_items, n_users + n_items, dtype=torch.float64)
    a[split.train.users, n_users + split.train.items] = 1
    a = a + a.T
    degree = a.sum(1).clamp(min=1)
    a = a / (degree[:, None] * degree).sqrt()
    e = torch.cat([p["users"], p["items"]])
    h = sum(torch.linalg.matrix_power(a, hop) @ e for hop in range(layers + 1)) / (layers + 1)
    return h[:n_users], h[n_users:] + p["items"]


def cosine_gap(a, b):
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def by_hand(model, split, batch, rng, stop=torch.Tensor.detach):
    """The loss in float64 from dense matrices and the numbers of `rng`, and the weights that it was computed from."""
    config = model.config
    p = {name: one.detach().double().requires_grad_() for name, one in model.named_parameters()}
    users, items = propagated(split, p, config.num_layers)

    def predicted(h):
        return h @ p["predictor.weight"].T + p["predictor.bias"]

    def target(h):
        return stop(h) * (torch.rand(h.shape, generator=rng) >= config.dropout) / (1 - config.dropout)

    u, i = users[batch.users], items[batch.positives]
    target_u, target_i = target(u), target(i)
    terms = {
        "reconstruction": (cosine_gap(predicted(u), target_i) + cosine_gap(predicted(i), target_u)).mean(),
        "reg": config.reg * (users.square().sum().sqrt() + items.square().sum().sqrt()) / split.train.n_items,
    }
    for m, key in model.keys.items():
        x = torch.from_numpy(split.features.values[m]).double()
        h = (x @ p[f"projections.{key}.weight"].T + p[f"projections.{key}.bias"])[batch.positives]
        has = torch.from_numpy(split.features.present[m])[batch.positives]
        for term, aim in (("between", target_i), ("within", target(h))):
            gap = cosine_gap(predicted(h), aim)[has].sum() / len(has)
            terms[term] = terms.get(term, 0) + config.content_weight * gap
    return terms, p


def test_projections_and_the_predictor_start_xavier_normal(checkerboard):
    model = make(checkerboard({"text": 400}), embedding_dim=200)
    for layer in (model.predictor, model.projections["0_text"]):
        outputs, inputs = layer.weight.shape
        deviation = (2 / (inputs + outputs)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert layer.weight.abs().max() > 3 * deviation  # no uniform draw is that far out
        assert layer.bias.abs().max() <= inputs**-0.5  # as torch has it


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_score_is_of_predicted_vectors_with_the_item_s_residual(layers, checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, num_layers=layers)
    p = {name: one.detach().double() for name, one in model.named_parameters()}
    users, items = (h @ p["predictor.weight"].T + p["predictor.bias"] for h in propagated(split, p, layers))
    torch.testing.assert_close(model.scorer()(torch.arange(40)), (users @ items.T).float(), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_paper_s_over_the_modalities_that_items_have(checkerboard):
    split = checkerboard(missing=0.4)
    model, batch = make(split, content_weight=0.5, dropout=0.4, num_layers=2), a_batch(split)
    found = model.loss(batch, stream(3))
    wanted, _ = by_hand(model, split, batch, stream(3))
    assert set(found) == {"reconstruction", "between", "within", "reg"}
    for term, value in found.items():
        assert value.item() == pytest.approx(wanted[term].item(), abs=1e-5), term


def test_no_gradient_passes_through_a_target(checkerboard):
    split = checkerboard(missing=0.4)
    model, batch = make(split), a_batch(split)
    sum(model.loss(batch, stream(3)).values()).backward()
    terms, stopped = by_hand(model, split, batch, stream(3))
    sum(terms.values()).backward()
    terms, through = by_hand(model, split, batch, stream(3), stop=lambda h: h)
    sum(terms.values()).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, stopped[name].grad.float(), atol=1e-5, rtol=1e-4)
        if "predictor" not in name:  # a target is not predicted
            assert not torch.allclose(p.grad, through[name].grad.float(), atol=1e-3, rtol=1e-2), name


def test_negatives_are_not_read(checkerboard):
    split = checkerboard()
    model, batch = make(split), a_batch(split)
    other = batch._replace(negatives=(batch.negatives + 2) % 40)
    for term, value in model.loss(batch, stream(1)).items():
        assert torch.equal(value, model.loss(other, stream(1))[term])


def test_a_modality_that_an_item_lacks_adds_nothing_whatever_its_row_says(checkerboard):
    split = checkerboard(missing=0.4)
    values = {
        m: np.where(split.features.present[m][:, None], x, np.float32(7)) for m, x in split.features.values.items()
    }
    features = ItemFeatures(split.features.n_items, values, split.features.present)
    other = Split(split.train, split.valid, split.final_test(), features, split.how)
    terms = [make(one).loss(a_batch(one), stream(1)) for one in (split, other)]
    assert all(torch.equal(value, terms[1][term]) for term, value in terms[0].items())


def test_items_without_any_content_leave_the_reconstruction_alone(checkerboard):
    split = checkerboard(missing=1.0)
    terms = make(split).loss(a_batch(split), stream())
    assert terms["between"] == 0
    assert terms["within"] == 0
    assert terms["reconstruction"] > 0


def test_the_drawn_views_depend_on_the_stream_alone(checkerboard):
    split = checkerboard()
    model, batch = make(split), a_batch(split)
    first, again, other = (model.loss(batch, stream(seed))["within"].item() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("widths", "given"), [({}, {}), (None, {"content_weight": 0})])
def test_without_content_there_is_the_reconstruction_alone(widths, given, checkerboard):
    split = checkerboard(widths)
    model = make(split, **given)
    assert {name for name, _ in model.named_parameters()} == {"users", "items", "predictor.weight", "predictor.bias"}
    assert set(model.loss(a_batch(split), stream())) == {"reconstruction", "reg"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dropout": 1}, "bm3: dropout: .* less than 1, found 1"),
        ({"content_weight": -1}, "bm3: content_weight: .* greater than or equal to 0, found -1"),
    ],
)
def test_settings_out_of_range_are_refused(given, message, checkerboard):
    with pytest.raises(ConfigError, match=message):
        make(checkerboard(), **given)
