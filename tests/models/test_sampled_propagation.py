"""Models whose steps walk from their own users and items: the same in the mean as over the whole graph."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Batch
from helpers.training import a_batch, stream

PEERS = ("lightgcn", "freedom", "mgcn")


def make(name, split, **given):
    config = models.make_config(name, {"embedding_dim": 8, **given})
    return models.build_model(name, split.train, split.features, config, 0)


def move(model):
    """Let all weights drift from where they were at the last refresh."""
    rng = stream(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))


@pytest.mark.parametrize("name", PEERS)
def test_right_after_a_refresh_a_sampled_loss_is_that_of_the_whole_graph(name, checkerboard):
    split = checkerboard(missing=0.3)
    batch = a_batch(split)
    sampled, full = (make(name, split, propagation=how) for how in ("sampled", "full"))
    found, expected = (model.loss(batch, stream()) for model in (sampled, full))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", PEERS)
def test_loaded_weights_are_propagated_anew(name, checkerboard):
    split = checkerboard(missing=0.3)
    sampled, full = (make(name, split, propagation=how) for how in ("sampled", "full"))
    sampled.loss(a_batch(split), stream())
    move(full)
    sampled.load_state_dict(full.state_dict())
    torch.testing.assert_close(sampled.loss(a_batch(split), stream()), full.loss(a_batch(split), stream()))


def gradients(model, terms):
    """The gradients of a step's sum of terms, dense, by name."""
    model.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    dense = {n: p.grad.to_dense() if p.grad.is_sparse else p.grad for n, p in model.named_parameters()}
    return {name: grad.clone() for name, grad in dense.items()}


@pytest.mark.parametrize("name", ["lightgcn", "freedom"])
def test_the_mean_gradient_of_many_draws_is_nearly_that_of_the_whole_graph(name, checkerboard):
    """Within 3 % of its length, far from a refresh: the loss bends a little between the draws."""
    split = checkerboard()
    rows = torch.arange(0, len(split.train), 9)
    users, items = torch.from_numpy(split.train.users)[rows], torch.from_numpy(split.train.items)[rows]
    batch = Batch(users, items, (items + 1) % split.train.n_items)
    given = {"edge_dropout": 0.0} if name == "freedom" else {}
    sampled, full = (make(name, split, propagation=how, **given) for how in ("sampled", "full"))
    sampled.config = sampled.config.model_copy(update={"num_walks": 64})
    sampled.loss(batch, stream())
    for model in (sampled, full):
        move(model)
    exact = gradients(full, full.loss(batch, stream()))
    rng, draws = stream(2), 60
    mean = {n: torch.zeros_like(g) for n, g in exact.items()}
    for _ in range(draws):
        for n, grad in gradients(sampled, sampled.loss(batch, rng)).items():
            mean[n] += grad / draws
    for n, grad in exact.items():
        assert torch.linalg.vector_norm(mean[n] - grad) < 0.03 * torch.linalg.vector_norm(grad) + 1e-7, n


def test_what_mgcn_fuses_is_estimated_without_bias(checkerboard):
    """Behaviour and content of each side, before the fusion, which bends what it is given."""
    split = checkerboard(missing=0.3)
    sampled, full = (make("mgcn", split, propagation=how, num_walks=256) for how in ("sampled", "full"))
    sampled.loss(a_batch(split), stream())
    for model in (sampled, full):
        move(model)
    places, rng, draws = [torch.arange(20), torch.arange(15)], stream(2), 400
    for step in ("_step_behaviors", "_step_contents"):
        with torch.no_grad():
            exact = getattr(full, step)(places, rng)
            drawn = [getattr(sampled, step)(places, rng) for _ in range(draws)]
        for side in range(2):
            mean = torch.stack([one[side] for one in drawn]).mean(dim=0)
            error = torch.linalg.vector_norm(mean - exact[side]) / torch.linalg.vector_norm(exact[side])
            assert error < 0.03, (step, side)


@pytest.mark.parametrize("name", PEERS)
def test_a_sampled_step_touches_few_rows_and_learns(name, checkerboard):
    split = checkerboard()
    model = make(name, split, propagation="sampled")
    config = TrainConfig(epochs=40, batch_size=64, learning_rate=0.02, valid_metric="recall@10")
    valid = max(epoch.valid["recall@10"] for epoch in fit(model, split, config).history)
    assert valid > 0.4  # ten of the twenty items of a user's colour; ten of all forty would be 0.25
    sampled = make(name, split, propagation="sampled", num_walks=1)
    one = Batch(*(torch.tensor([place]) for place in (3, 5, 6)))
    torch.stack(list(sampled.loss(one, stream()).values())).sum().backward()
    tables = sampled.sparse_parameters()
    assert [len(np.unique(p.grad._indices())) < len(p) / 2 for p in tables] == [True, True]


@pytest.mark.parametrize("name", ["freedom", "mgcn"])
@pytest.mark.parametrize(("key", "value", "expected"), [("num_item_layers", 2, 1), ("train_content", True, False)])
def test_what_a_sampled_step_cannot_do_is_refused(name, key, value, expected):
    message = f"propagation=sampled needs {key}={expected}, found {key}={value}"
    with pytest.raises(ConfigError, match=message):
        models.make_config(name, {"propagation": "sampled", key: value})
