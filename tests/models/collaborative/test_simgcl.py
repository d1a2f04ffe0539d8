"""SimGCL's own claims: which hops it averages, what noise it adds, and what the contrast is."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.ops import graph
from gtcrec.types import Batch
from helpers.training import a_batch, stream


def make(split, seed=0, **given):
    config = models.make_config("simgcl", {"embedding_dim": 8, **given})
    return models.build_model("simgcl", split.train, split.features, config, seed)


def adjacency(split):
    """[[0, R], [R^T, 0]], float64 [users + items, users + items]."""
    r = torch.from_numpy(graph.bipartite(split.train).toarray()).double()
    a = torch.zeros(80, 80, dtype=torch.float64)
    a[:40, 40:], a[40:, :40] = r, r.T
    return a


def both(model):
    return torch.cat([model.users, model.items]).detach().double()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scores_are_of_the_mean_of_the_hops_without_the_embedding_itself(layers, checkerboard):
    split = checkerboard()
    model = make(split, num_layers=layers)
    a, e = adjacency(split), both(model)
    z = sum(torch.linalg.matrix_power(a, hop) @ e for hop in range(1, layers + 1)) / layers
    torch.testing.assert_close(model.scorer()(torch.arange(40)).double(), z[:40] @ z[40:].T, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_contrast_and_its_gradient_are_of_info_nce_of_two_noisy_passes(layers, checkerboard, monkeypatch):
    """Every node is in the batch and draws are replaced, so that each node's noise is known."""
    split = checkerboard()
    drawn = iter(torch.linspace(0.1, 0.9, 1000).tolist())
    lengths = []

    def flat(shape, **_):
        lengths.append(next(drawn))
        noise = torch.ones(shape)
        noise[:, 0] = lengths[-1]
        return noise

    model = make(split, num_layers=layers, noise=0.3, temperature=0.5, contrast_weight=0.7)
    every = torch.arange(40)
    batch = Batch(every, every, every.roll(1))
    monkeypatch.setattr(torch, "rand", flat)
    found = model.loss(batch, stream())["contrast"]
    monkeypatch.undo()
    found.backward()

    a, e, views = adjacency(split), both(model).requires_grad_(), []
    given = iter(lengths)
    for _ in range(2):
        x, total = e, torch.zeros_like(e)
        for _ in range(layers):
            x = a @ x
            noise = torch.ones(80, 8, dtype=torch.float64)
            noise[:40, 0], noise[40:, 0] = next(given), next(given)
            x = x + 0.3 * torch.nn.functional.normalize(noise, dim=1) * torch.sign(x)
            total = total + x
        views.append(torch.nn.functional.normalize(total / layers, dim=1))
    wanted = torch.zeros(())
    for side in (slice(40), slice(40, 80)):
        cosine = (views[0][side] @ views[1][side].T) / 0.5
        wanted = wanted - 0.7 * torch.log_softmax(cosine, dim=1).diagonal().mean()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    wanted.backward()
    grad = torch.cat([model.users.grad, model.items.grad]).double()
    torch.testing.assert_close(grad, e.grad, atol=1e-6, rtol=1e-4)


def test_added_noise_has_the_stated_length_and_stays_in_the_orthant(checkerboard):
    model = make(checkerboard(), noise=0.25)
    e = torch.randn(500, 8, generator=stream(1))
    (users, items) = model._add_noise((torch.zeros(500, 8), torch.zeros(500, 8)), (e, -e), stream())
    for noise, signs in ((users, e), (items, -e)):
        torch.testing.assert_close(noise.norm(dim=1), torch.full((500,), 0.25))
        assert torch.equal(noise.sign(), signs.sign())
    assert not torch.equal(users, -items)


def test_a_node_that_is_in_the_batch_twice_is_contrasted_once(checkerboard):
    split = checkerboard()
    model, batch = make(split), a_batch(split)
    twice = Batch(*(torch.cat([side, side]) for side in batch))
    one, other = (model.loss(given, stream(4))["contrast"].item() for given in (batch, twice))
    assert one == pytest.approx(other, abs=1e-7)


def test_no_more_nodes_are_contrasted_than_asked(checkerboard):
    """Of n noisy copies of nearly equal vectors each is told from n: the contrast of a side is about log n."""
    split = checkerboard()
    batch = a_batch(split)
    assert len(torch.unique(batch.users)) > 10
    model = make(split, contrast_batch_size=10, noise=0.0, temperature=1.0, contrast_weight=1.0)
    with torch.no_grad():
        model.users.copy_(torch.ones(40, 8))
        model.items.copy_(torch.ones(40, 8))
    assert model.loss(batch, stream())["contrast"].item() == pytest.approx(2 * np.log(10), abs=1e-5)


def test_without_contrast_weight_it_is_bpr_on_the_hops(checkerboard):
    split = checkerboard()
    model, batch = make(split, contrast_weight=0.0), a_batch(split)
    users, items = model.vectors()
    better, worse = ((users[batch.users] * items[side]).sum(1) for side in batch[1:])
    found = model.loss(batch, stream())
    assert set(found) == {"bpr", "reg"}
    assert found["bpr"].item() == pytest.approx(torch.nn.functional.softplus(worse - better).mean().item(), abs=1e-6)


def test_a_temperature_whose_exponentials_vanish_is_refused():
    with pytest.raises(ConfigError, match=r"simgcl: temperature: .* greater than or equal to 0.03, found 0.01"):
        models.make_config("simgcl", {"temperature": 0.01})
