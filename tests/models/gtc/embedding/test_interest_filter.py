"""GTC's content filtered by what a user liked: each formula against another way to the same number."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn
from torch.distributions import Normal

from gtcrec import models
from gtcrec.data import split as cut
from gtcrec.data.synthetic.ground_truth import disjoint_interests
from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.gtc.embedding.interest_filter import Interest, ModalityInterestFilter
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Interactions

N_USERS, N_ITEMS, WIDTH = 12, 20, 4


def liked_pairs(without=None):
    """Users 0 to 9 like some items, user 10 likes one and user 11 none; `without` is a pair that is left out."""
    liked = np.random.default_rng(3).random((N_USERS, N_ITEMS)) < 0.3
    liked[10:] = False
    liked[10, 4] = True
    if without is not None:
        liked[without] = False
    return Interactions(*np.nonzero(liked), N_USERS, N_ITEMS)


def liked_filter(pairs=None, **given):
    """A filter of random content, of which some items have none, with random prototypes."""
    rng = np.random.default_rng(4)
    x = rng.normal(2.0, 3.0, (N_ITEMS, WIDTH)).astype(np.float32)
    present = np.arange(N_ITEMS) % 5 != 0
    config = GTCConfig(**{"embedding_dim": 6, "hidden_dim": 8, "num_prototypes": 3} | given)
    torch.manual_seed(5)
    found = ModalityInterestFilter(config, pairs or liked_pairs(), x, present)
    with torch.no_grad():
        for name, scale in (("spreads", 1.0), ("prior", 0.5), ("temperature", 0.3), ("strength", 0.4)):
            if hasattr(found, name):
                getattr(found, name).copy_(scale * torch.randn(getattr(found, name).shape))
    return found


def interest_of_all(one):
    with torch.no_grad():
        return one.interest(torch.arange(N_USERS))


def contents(one, pairs, user):
    """What a user liked of it, [n, W]."""
    items = pairs.items[pairs.users == user]
    return one.y[items[one.present[items].numpy()]].double().numpy()


def restricted(y, v):
    """ln of the integral over the centre c of prod_j N(y_j; c, v): the restricted likelihood of y [n] by quadrature."""
    middle, wide = y.mean(), 12 * math.sqrt(v / len(y))
    top = stats.norm.logpdf(y, middle, math.sqrt(v)).sum()
    area, _ = integrate.quad(
        lambda c: math.exp(stats.norm.logpdf(y, c, math.sqrt(v)).sum() - top), middle - wide, middle + wide
    )
    return top + math.log(area)


def test_the_mix_is_the_tempered_posterior_under_the_restricted_likelihood():
    one, pairs = liked_filter(), liked_pairs()
    v, prior = special.expit(one.spreads.detach().double().numpy()), one.prior.detach().double().numpy()
    weight = math.exp(one.temperature.item())
    mix = interest_of_all(one).mix
    for user in range(N_USERS):
        y = contents(one, pairs, user)
        evidence = [sum(restricted(y[:, d], vk[d]) for d in range(WIDTH)) if len(y) else 0.0 for vk in v]
        wanted = special.softmax(prior + weight * np.array(evidence))
        np.testing.assert_allclose(mix[user], wanted, atol=2e-5)
    assert mix.std(dim=0).max() > 0.05  # users differ


@pytest.mark.parametrize("prototypes", [1, 3])
def test_interest_is_the_predictive_of_a_normal_with_unknown_mean(prototypes):
    """Prior N(0, 1 - v) of the centre and noise v, by adding precisions; several prototypes add up theirs first."""
    one, pairs = liked_filter(num_prototypes=prototypes), liked_pairs()
    found = interest_of_all(one)
    prototype = special.expit(one.spreads.detach().double().numpy())  # [K, W]
    for user in range(N_USERS):
        y = contents(one, pairs, user)
        v = 1 / (found.mix[user].double().numpy() @ (1 / prototype))
        precision = 1 / (1 - v) + len(y) / v
        centre = y.sum(axis=0) / v / precision
        np.testing.assert_allclose(found.mean[user], centre, atol=1e-5)
        np.testing.assert_allclose(found.spread[user], 1 / precision + v, atol=1e-5)


def test_who_liked_nothing_looks_for_the_population_and_scores_nothing():
    one = liked_filter()
    found = interest_of_all(one)
    assert found.mean[11].abs().max() == 0
    assert torch.equal(found.spread[11], torch.ones(WIDTH))
    rows = Interest(*(part[[11] * N_ITEMS] for part in found))
    score = one.score(one.score_coefficients(rows), torch.arange(N_ITEMS))
    torch.testing.assert_close(score, torch.zeros(N_ITEMS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("given", [{}, {"num_prototypes": 1}, {"filter": "off"}])
def test_leaving_an_item_out_is_a_model_of_data_without_that_pair(given):
    one, pairs = liked_filter(**given), liked_pairs()
    found = one.interest(torch.from_numpy(pairs.users), torch.from_numpy(pairs.items))
    whole = one.interest(torch.from_numpy(pairs.users))
    for row, pair in enumerate(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True)):
        wanted = liked_filter(liked_pairs(pair), **given).interest(torch.tensor(pair[:1]))
        for part, its in zip(found, wanted, strict=True):
            torch.testing.assert_close(part[row], its[0], atol=1e-5, rtol=1e-4)
        absent = pair[1] % 5 == 0
        assert torch.equal(found.mean[row], whole.mean[row]) == absent
    assert len(pairs) > 30


@pytest.mark.parametrize("echo", [False, True])
def test_training_sees_each_user_as_one_who_has_not_met_the_liked_item(echo, checkerboard):
    split = checkerboard()
    model = models.build_model(
        "gtc",
        split.train,
        split.features,
        models.make_config("gtc", {"embedding_dim": 8, "leave_one_out": not echo}, "embedding"),
        0,
    )
    users, items = torch.from_numpy(split.train.users[:50]), torch.from_numpy(split.train.items[:50])
    asked = torch.arange(40)
    rows = model.content.encode_step(model.views.encode(users, asked), users, asked, items)
    for m in ("image", "text"):
        wanted = model.content[m].interest(users, None if echo else items)
        assert all(torch.equal(one, its) for one, its in zip(rows.interests[m], wanted, strict=True))


@pytest.mark.parametrize("level", [0.0, 0.25, 0.9])
def test_the_score_is_the_log_density_ratio_of_the_noisy_content(level):
    one = liked_filter(noise_level=level)
    found = interest_of_all(one)
    kept = np.cumprod(1 - np.linspace(1e-4, 0.01, 600))[round(level * 599)]
    a, b2 = math.sqrt(kept), 1 - kept
    y = a * one.y.double()
    users = Normal(a * found.mean.double()[:, None], (a**2 * found.spread.double() + b2).sqrt()[:, None])
    ratio = (users.log_prob(y) - Normal(0.0, 1.0).log_prob(y)).sum(dim=2)  # [N_USERS, N_ITEMS]
    wanted = ratio * math.exp(one.strength.item()) / math.sqrt(WIDTH) * one.present
    with torch.no_grad():
        p, q, c = one.score_coefficients(found)
        score = torch.stack([one.score((p, q, c), torch.full((N_USERS,), item)) for item in range(N_ITEMS)], dim=1)
    torch.testing.assert_close(score, wanted.float(), atol=2e-5, rtol=1e-4)
    assert score[:, ::5].abs().max() == 0
    assert score.abs().max() > 0.05


def test_without_a_filter_the_score_is_the_shrunk_mean_of_what_the_user_liked():
    one, pairs = liked_filter(filter="off"), liked_pairs()
    with torch.no_grad():
        folded = one.score_coefficients(interest_of_all(one))
        score = one.score(folded, torch.full((N_USERS,), 7))
    for user in range(N_USERS):
        y = contents(one, pairs, user)
        wanted = y.sum(axis=0) / (len(y) + 1) @ one.y[7].double().numpy()
        assert score[user].item() == pytest.approx(wanted * math.exp(one.strength.item()) / 2, abs=1e-5)


class Ideal(nn.Module):
    """The best denoiser of standard normal content: E[x_0 | x_t] = a x_t, so that eps = b x_t."""

    def __init__(self, one):
        super().__init__()
        self.levels = one.schedule

    def forward(self, xt, t):
        return self.levels.noise[t][..., None] * xt


def test_the_guided_denoiser_of_normal_content_is_the_user_s_own():
    """By Bayes: precision 1 / s^2 of the user's content and a^2 / b^2 of what x_t says."""
    one = liked_filter()
    one.denoiser = Ideal(one)
    rng = torch.Generator().manual_seed(0)
    xt, t = torch.randn(50, WIDTH, generator=rng), torch.randint(20, 600, (50,), generator=rng)
    mean, spread = torch.randn(50, WIDTH, generator=rng), 0.1 + torch.rand(50, WIDTH, generator=rng)
    found = one.denoise(xt, t, Interest(mean, spread, torch.ones(50, 1)))
    a, b = one.schedule.signal[t, None].double(), one.schedule.noise[t, None].double()
    own = (mean / spread + a * xt / b**2) / (1 / spread + a**2 / b**2)
    torch.testing.assert_close(found, ((xt - a * own) / b).float(), atol=2e-4, rtol=1e-3)


def test_the_filter_keeps_what_the_denoiser_sees():
    """x_t = a y and E[x_0 | x_t] = a x_t: a step keeps a^2 of normal content."""
    one = liked_filter()
    one.denoiser = Ideal(one)
    a = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.01, 600)))
    torch.testing.assert_close(one.filtered(torch.arange(N_ITEMS)), float(a[150] ** 2) * one.y)


def test_conditioned_scores_add_what_the_network_gains_by_the_user():
    one = liked_filter(pair_diffusion_weight=1.0)
    user, items = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 2, 3], [5, 6, 7]])
    users, level = torch.tensor([3, 8]), 150
    a, b = one.schedule.signal[level], one.schedule.noise[level]
    with torch.no_grad():
        found = one.conditioned_scores(users, user, items)
        folded = [one.score(one.score_coefficients(one.interest(users)), column) for column in items.T]
        for row in range(2):
            for place, item in enumerate(items[row]):
                y, errors = one.y[item], []
                for condition in (torch.zeros(6), user[row]):
                    eps = one.denoiser(a * y[None], torch.tensor([level]), condition[None])[0]
                    errors.append(float((y - (a * y - b * eps) / a).square().sum()))
                gain = (errors[0] - errors[1]) * float(a**2 / (2 * b**2)) * bool(one.present[item])
                wanted = folded[place][row].item() + math.exp(one.strength.item()) / 2 * gain
                assert found[row, place].item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert (found - torch.stack(folded, dim=1)).abs().max() > 1e-3


@pytest.mark.parametrize(("x", "mean", "spread"), [(0.7, 1.2, 0.3), (-1.5, 0.8, 0.5), (2.0, 1.5, 0.1), (0.3, 0.0, 0.6)])
def test_the_log_density_ratio_is_what_the_guided_denoiser_gains_over_all_levels(x, mean, spread):
    """ln p_u(x) / p(x) = 1/2 int d snr [E |x - D(z)|^2 - E |x - D_u(z)|^2], z = a x + b eps, snr = a^2 / b^2.

    The pointwise form of I-MMSE (Guo et al. 2005; Kong et al. 2023): why ln rho is what the diffusion says of a user.
    """
    pairs = liked_pairs()
    config = GTCConfig(diffusion_steps=1000, beta_start=1e-6, beta_end=0.05, prototypes=1)
    one = ModalityInterestFilter(
        config, pairs, np.arange(N_ITEMS, dtype=np.float32)[:, None], np.ones(N_ITEMS, dtype=bool)
    )
    one.denoiser = Ideal(one)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = torch.from_numpy(weights / weights.sum())
    snr, gain = [], []
    interest = Interest(torch.full((8, 1), mean), torch.full((8, 1), spread), torch.ones(8, 1))
    for level in range(1000):
        a, b = one.schedule.signal[level], one.schedule.noise[level]
        z, t = (a * x + b * torch.from_numpy(nodes).float())[:, None], torch.full((8,), level)
        noises = one.predict(z, t), one.denoise(z, t, interest)
        plain, own = ((x - (z - b * eps) / a).square() for eps in noises)
        gain.append(float(weights @ (plain - own)[:, 0].double()))
        snr.append(float(a / b) ** 2)
    found = 0.5 * np.trapezoid(np.array(gain[::-1]) * snr[::-1], np.log(snr[::-1]))
    ratio = Normal(mean, math.sqrt(spread)).log_prob(torch.tensor(x)) - Normal(0.0, 1.0).log_prob(torch.tensor(x))
    assert found == pytest.approx(ratio.item(), rel=0.01, abs=0.002)


def auc(score, relevant):
    """Chance that a relevant column scores above another one."""
    places = stats.rankdata(score)[relevant]
    return (places.mean() - (relevant.sum() + 1) / 2) / (~relevant).sum()


def test_prototypes_recover_the_planted_relevance_and_serve_the_user_better():
    plant = disjoint_interests(1, n_users=600, n_items=500, parts=4, width=16, clusters=40, train=10)
    split, relevant = cut(plant.dataset), plant.relevant["content"]
    config = TrainConfig(epochs=30, batch_size=256, learning_rate=5e-3, valid_metric="ndcg@10", valid_every=5)
    found, spreads = {}, {}
    for prototypes in (1, 8):
        given = {"embedding_dim": 8, "hidden_dim": 16, "num_prototypes": prototypes, "content_weight": 1.0, "reg": 1e-2}
        given |= {"num_layers": 1, "num_item_neighbors": 0, "alignment": "none"}
        model = models.build_model("gtc", split.train, split.features, models.make_config("gtc", given, "embedding"), 0)
        found[prototypes] = fit(model, split, config).best.valid["ndcg@10"]
        spreads[prototypes] = model.content["content"].interest(torch.arange(600)).spread.detach().numpy()
    own, shared = (
        np.mean([auc(1 - spread, its) for spread, its in zip(spreads[k], relevant, strict=True)]) for k in (8, 1)
    )
    assert own >= 0.9
    assert shared < 0.6  # one prototype has one order of the columns for all users
    assert found[8] > 1.1 * found[1]
