"""What the losses of several views find where the total correlation is known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gtcrec.ops import losses

LN2 = math.log(2)


def of_kind(kind, views, scale, rng):
    if kind == "n":
        return losses.total_correlation(views, scale, [losses.derangement(len(views[0]), rng) for _ in views])
    return {"n_squared": losses.n_squared, "chain": losses.chain, "pairwise": losses.pairwise}[kind](views, scale)


def train(loss, parameters, steps, rate):
    optimiser = torch.optim.Adam(parameters, rate)
    slowing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        slowing.step()


def learn_xor(kind, bits, n, steps, seed=0, dim=16, items=10_000):
    """Train a linear encoder for each of the views a, b and a xor b, rows of +-1 bits.

    Return the items' views [items, bits], the encoders, and the bound in nats on items that training has not seen.
    """
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, 2, (2, 2 * items, bits), generator=rng) * 2.0 - 1
    data = [a, b, a * b]
    layers = [nn.Linear(bits, dim) for _ in data]
    for one in (p for layer in layers for p in layer.parameters()):
        nn.init.normal_(one, generator=rng)
    encode = [lambda x, layer=layer: F.normalize(layer(x), dim=1) * math.sqrt(dim) for layer in layers]
    log_scale = nn.Parameter(torch.zeros(()))

    def loss(first=0):
        at = first + torch.randint(items, (n,), generator=rng)
        return of_kind(kind, [one(x[at]) for one, x in zip(encode, data, strict=True)], log_scale.exp() / dim, rng)

    train(loss, [log_scale, *(p for layer in layers for p in layer.parameters())], steps, rate=0.02)
    with torch.no_grad():
        unseen = torch.stack([loss(items) for _ in range(20)]).mean().item()
    return [x[items:] for x in data], encode, losses.ceiling(kind, n, 3) - unseen


@torch.no_grad()
def accuracies(kind, data, encode):
    """For each view, how often the logits of an item's other two find it among all values, and against another's."""
    rng = torch.Generator().manual_seed(0)
    found = []
    for m, x in enumerate(data):
        one, two = (encode[k](data[k]) for k in range(3) if k != m)
        query = one + two if kind == "pairwise" else one * two  # [items, dim]
        values = torch.unique(x, dim=0)  # [2^bits, bits]
        among = (values[(query @ encode[m](values).T).argmax(dim=1)] == x).all(dim=1)
        rival = x[torch.randperm(len(x), generator=rng)]
        logits = [(query * encode[m](which)).sum(dim=1) for which in (x, rival)]
        differs = (rival != x).any(dim=1)
        found.append((among.float().mean().item(), (logits[0] > logits[1])[differs].float().mean().item()))
    return found


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize(("kind", "n", "steps"), [("n", 256, 300), ("n_squared", 48, 300), ("chain", 256, 300)])
def test_total_correlation_solves_the_xor_of_three_views(kind, n, steps, bits):
    data, encode, bound = learn_xor(kind, bits, n, steps)
    assert min(among for among, _ in accuracies(kind, data, encode)) >= 0.98
    assert 0.9 * bits * LN2 < bound < bits * LN2 + 0.01  # two views tell all of the third: bits * ln 2


@pytest.mark.parametrize("bits", [1, 4])
def test_pairwise_stays_at_chance_on_the_xor_of_three_views(bits):
    data, encode, bound = learn_xor("pairwise", bits, 256, 300)
    for among, against in accuracies("pairwise", data, encode):
        assert 0.45 < against < 0.6
        assert 0.5 / 2**bits < among < (0.6 if bits == 1 else 0.15)  # chance is 1/2, and 1/16
    assert abs(bound) < 0.01


def equally_correlated(r, views):
    return (1 - r) * torch.eye(views) + r


CHAIN_OF_THREE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.6], [0.0, 0.6, 1.0]])


def learn_gaussian(kind, correlation, n, steps, seed=0, width=32, dim=16):
    """Train a small network for each scalar view, and return its bounds in nats on 100 fresh batches of n items."""
    rng = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(correlation)
    encoders = [nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, dim)) for _ in correlation]
    for layer in (one for encoder in encoders for one in encoder if isinstance(one, nn.Linear)):
        for p in layer.parameters():
            nn.init.uniform_(p, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=rng)
    log_scale = nn.Parameter(torch.zeros(()))

    def loss():
        x = torch.randn(n, len(root), generator=rng) @ root.T
        views = [encoder(x[:, [m]]) for m, encoder in enumerate(encoders)]
        return of_kind(kind, views, log_scale.exp() / dim, rng)

    train(loss, [log_scale, *(p for encoder in encoders for p in encoder.parameters())], steps, rate=5e-3)
    with torch.no_grad():
        return losses.ceiling(kind, n, len(correlation)) - torch.stack([loss() for _ in range(100)])


def check(bounds, truth, share):
    """At least a share of the truth, and no more than it within three standard errors."""
    mean, error = bounds.mean().item(), bounds.std().item() / math.sqrt(len(bounds))
    assert share * truth < mean < truth + 3 * error


@pytest.mark.parametrize("correlation", [equally_correlated(0.7, 3), CHAIN_OF_THREE], ids=["equal", "chain"])
@pytest.mark.parametrize(("kind", "n", "steps"), [("n", 256, 300), ("n_squared", 64, 150), ("chain", 256, 300)])
def test_the_bound_is_close_below_the_total_correlation_of_gaussian_views(kind, n, steps, correlation):
    truth = -torch.linalg.slogdet(correlation)[1].item() / 2
    assert 0.6 < truth < 1
    check(learn_gaussian(kind, correlation, n, steps), truth, share=0.8)


def test_pairwise_bounds_the_mean_mutual_information_of_a_pair():
    bounds = learn_gaussian("pairwise", equally_correlated(0.7, 3), 256, 300)
    check(bounds, -math.log(1 - 0.7**2) / 2, share=0.9)


@pytest.mark.parametrize(("kind", "n", "steps"), [("n", 16, 300), ("n_squared", 16, 300), ("chain", 16, 300)])
def test_a_bound_stays_below_its_ceiling_where_the_truth_is_far_above_it(kind, n, steps):
    strong = equally_correlated(0.99999, 3)
    ceiling = losses.ceiling(kind, n, 3)
    assert -torch.linalg.slogdet(strong.double())[1].item() / 2 > 1.9 * ceiling
    bounds = learn_gaussian(kind, strong, n, steps)
    assert bounds.max().item() <= ceiling
    assert 0.5 * ceiling < bounds.mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "share"), [("n", 0.9), ("chain", 0.8)])
@pytest.mark.parametrize("correlation", [equally_correlated(0.5, 3), equally_correlated(0.5, 4), CHAIN_OF_THREE])
def test_the_bound_is_close_below_the_truth_of_three_and_four_views_for_any_seed(kind, share, correlation, seed):
    truth = -torch.linalg.slogdet(correlation)[1].item() / 2
    check(learn_gaussian(kind, correlation, 256, 800, seed), truth, share)
