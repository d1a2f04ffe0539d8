"""GTC's own claims: the folded score, the registered denoiser, and the faults it must not have."""

import copy
import math

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.gtc.embedding import graph_encoder
from gtcrec.ops.least_squares import factorize
from gtcrec.ops.sharded import xavier_rows
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Interactions, ItemFeatures
from helpers.training import a_batch

SMALL = {"embedding_dim": 8, "hidden_dim": 16}
ALL = np.ones(6000, dtype=bool)


def make(split, seed=0, preset="plain", **given):
    return models.build_model(
        "gtc", split.train, split.features, models.make_config("gtc", SMALL | given, preset), seed
    )


def total(terms):
    return sum(value for key, value in terms.items() if not key.startswith("log."))


IDENTITY, AUDIENCE = {"condition": "item_id"}, {"condition": "item_audience"}
SIDES = {"liked": {}, "identity": IDENTITY}

CASES = {
    "default": {},
    "released": {"preset": "released"},
    "paper": {"preset": "paper"},
    "one prototype": {"num_prototypes": 1},
    "off": {"filter": "off"},
    "off, identity": IDENTITY | {"filter": "off"},
    "noise only": {"filter": "noise_only"},
    "noise only, identity": IDENTITY | {"filter": "noise_only"},
    "few directions": {"content_dim": 3},
    "every step": IDENTITY | {"content_refresh": "step", "num_content_layers": 2},
    "sampled": {"propagation": "sampled"},
    "sampled, identity": IDENTITY | {"propagation": "sampled"},
    "pairwise": {"alignment": "pairwise"},
    "chain": {"alignment": "chain"},
    "n squared": {"alignment": "n_squared", "alignment_batch_size": 6},
    "no alignment": {"alignment": "none"},
    "refined": {"attention_refinement": True, "alignment": "none"},
    "leave_one_out": {"leave_one_out": False},
    "pair": {"pair_diffusion_weight": 0.5},
    "pair alone": {"pair_diffusion_weight": 0.5, "diffusion_weight": 0.0},
    "identity": IDENTITY,
    "audience": AUDIENCE | {"num_prototypes": 3, "pair_diffusion_weight": 0.5},
    "bare": IDENTITY
    | {"num_item_neighbors": 0, "num_content_layers": 0, "alignment": "none", "modality_preference": "learned"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_folded_score_equals_the_pair_by_pair_one(case, missing, checkerboard):
    split = checkerboard(missing=missing)
    model = make(split, **CASES[case])
    fit(model, split, TrainConfig(epochs=2, batch_size=64, learning_rate=0.02, valid_metric="recall@10"))
    n = split.train.n_users
    users, items = (side.flatten() for side in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    with torch.no_grad():
        pairwise = model.pair_scores(users, items).reshape(n, n)
    torch.testing.assert_close(model.scorer()(torch.arange(n)), pairwise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "widths"),
    [
        ("default", [2 * 6 + 1, 2 * 5 + 1]),  # content and its squares, and whether an item has it
        ("few directions", [2 * 3 + 1, 2 * 3 + 1]),
        ("off", [6 + 1, 5 + 1]),
        ("identity", [8 * 8, 8 * 8]),
        ("audience", [3 * 8, 3 * 8]),
        ("off, identity", [8, 8]),
    ],
)
def test_the_vectors_are_the_identity_view_and_what_each_modality_needs(case, widths, checkerboard):
    model = make(checkerboard(), **CASES[case])
    assert model.content.widths() == widths
    assert [side.shape for side in model.vectors()] == [(40, 8 + sum(widths))] * 2


@pytest.mark.parametrize("case", CASES)
def test_every_weight_that_is_to_be_trained_receives_a_gradient(case, checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, **CASES[case])
    total(model.loss(a_batch(split), torch.Generator().manual_seed(0))).backward()
    trained = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert [key for key, grad in trained.items() if grad is None or not grad.to_dense().abs().sum() > 0] == []


def of_denoisers(model):
    return [name for name, _ in model.named_parameters() if {"denoiser", "denoisers"} & set(name.split("."))]


@pytest.mark.parametrize("side", SIDES)
def test_the_denoisers_are_in_the_module_tree_and_move_in_training(side, checkerboard):
    split = checkerboard()
    model = make(split, **SIDES[side])
    before = copy.deepcopy(model.state_dict())
    names = of_denoisers(model)
    assert all(any(f".{key}." in name for name in names) for key in ("0_image", "1_text"))
    fit(model, split, TrainConfig(epochs=1, batch_size=64, valid_metric="recall@10"))
    assert all(not torch.equal(before[name], model.state_dict()[name]) for name in names)


@pytest.mark.parametrize("side", SIDES)
def test_noise_only_keeps_its_untrained_denoisers(side, checkerboard):
    split = checkerboard()
    model = make(split, filter="noise_only", **SIDES[side])
    before = copy.deepcopy(model.state_dict())
    terms = model.loss(a_batch(split), torch.Generator().manual_seed(0))
    assert "diffusion" not in terms
    fit(model, split, TrainConfig(epochs=1, batch_size=64, valid_metric="recall@10"))
    frozen = of_denoisers(model)
    assert frozen
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in frozen)


def everything(model):
    with torch.no_grad():
        return model.encode(torch.arange(40), torch.arange(40)).content


def test_a_user_s_prototypes_change_what_the_filter_keeps(checkerboard):
    split = checkerboard()
    filtered = everything(make(split, num_prototypes=3, **IDENTITY)).filtered["image"]
    assert filtered.shape == (40, 3, 8)
    assert (filtered[:, 0] - filtered[:, 1]).abs().max() > 1e-3
    interest = everything(make(split, num_prototypes=3)).interests["image"]
    assert interest.mix.shape == (40, 3)
    assert (interest.spread[0] - interest.spread[1]).abs().max() > 1e-3


@pytest.mark.parametrize("side", SIDES)
def test_absent_content_adds_nothing_of_its_own(side, checkerboard):
    split = checkerboard(missing=0.4)
    model = make(split, **SIDES[side])
    absent = torch.from_numpy(~split.features.present["image"])
    assert absent.any()
    with torch.no_grad():
        aligned = model.content.aligned(everything(model), torch.arange(40))[0]
    assert aligned[absent].abs().max() == 0
    assert aligned[~absent].abs().max() > 0
    if side == "liked":
        assert model.vectors()[1][:, 8 : 8 + 13][absent].abs().max() == 0


@pytest.mark.parametrize(("alignment", "times"), [("n", 1), ("pairwise", 1), ("chain", 2), ("n_squared", 2)])
def test_the_bound_on_total_correlation_stays_below_its_ceiling(alignment, times, checkerboard):
    split = checkerboard()
    model = make(split, alignment=alignment)
    terms = model.loss(a_batch(split), torch.Generator().manual_seed(0))
    n = len(a_batch(split).positives.unique())
    assert terms["log.tc_ceiling_nats"].item() == pytest.approx(times * math.log(n))
    assert terms["log.tc_bound_nats"] <= terms["log.tc_ceiling_nats"]
    loss = terms["alignment"] / model.config.alignment_weight
    torch.testing.assert_close(terms["log.tc_bound_nats"] + loss, terms["log.tc_ceiling_nats"])
    assert terms["log.tc_scale"].item() == pytest.approx(5.0 / model.config.embedding_dim)


@pytest.mark.parametrize("alignment", ["n", "pairwise"])
def test_the_scale_of_the_alignment_ends_at_100(alignment, checkerboard):
    split = checkerboard()
    model = make(split, alignment=alignment)
    found = []
    for scale in (90.0, 100.0, 1000.0):
        with torch.no_grad():
            model.log_scale.fill_(torch.tensor(scale).log())
        found.append(model.loss(a_batch(split), torch.Generator().manual_seed(0))["alignment"].item())
    assert found[1] == pytest.approx(found[2], rel=1e-4)
    assert found[0] != pytest.approx(found[1], rel=1e-2)


@pytest.mark.parametrize(("given", "absent"), [({"alignment": "none"}, "alignment"), ({"filter": "off"}, "diffusion")])
def test_a_part_that_is_switched_off_has_no_loss_term(given, absent, checkerboard):
    split = checkerboard()
    terms = make(split, **given).loss(a_batch(split), torch.Generator().manual_seed(0))
    assert absent not in terms
    assert "bpr" in terms


def test_a_sampled_step_estimates_the_whole_one_without_bias(checkerboard):
    """The identity views of a step, averaged over many draws, are those of the whole graph, far from a refresh too."""
    split = checkerboard()
    model = make(split, propagation="sampled", num_walks=200)
    model.refresh()
    with torch.no_grad():
        for table in (model.views.users, model.views.items):
            table.add_(torch.randn(table.shape, generator=torch.Generator().manual_seed(1)))
        users, items = torch.arange(5), torch.arange(7)
        exact = model.views.encode(users, items)
        rng = torch.Generator().manual_seed(2)
        draws = [model.views.encode_step(users, items, rng) for _ in range(300)]
    for view in ("users", "items", "conditions"):
        mean = torch.stack([getattr(one, view) for one in draws]).mean(dim=0)
        torch.testing.assert_close(mean, getattr(exact, view), atol=0.03, rtol=0)


@pytest.mark.parametrize("given", [{}, {"id_dropout": 0.3}, {"num_layers": 1, "init": "als"}])
def test_a_step_of_a_large_catalogue_is_that_of_a_small_one(given, checkerboard, monkeypatch):
    """Of the last hop it computes the batch's rows alone: the same terms and gradients to 1e-6."""
    split, found = checkerboard(missing=0.3), {}
    for rows_pay in (0, 10**9):
        monkeypatch.setattr(graph_encoder, "_ROWS_PAY", rows_pay)
        model = make(split, **given)
        terms = model.loss(a_batch(split), torch.Generator().manual_seed(0))
        total(terms).backward()
        found[rows_pay] = [*terms.values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    torch.testing.assert_close(*found.values(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_right_after_a_refresh_a_sampled_step_is_exact(side, checkerboard):
    split = checkerboard(missing=0.3)
    batch = a_batch(split)
    sampled, full = (make(split, propagation=how, num_walks=1, **SIDES[side]) for how in ("sampled", "full"))
    for model in (sampled, full):
        model.refresh()
    found, wanted = (model.loss(batch, torch.Generator().manual_seed(0))["bpr"] for model in (sampled, full))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("given", [{}, IDENTITY, AUDIENCE | {"num_user_neighbors": 3}])
def test_a_sampled_step_gives_row_sparse_gradients_and_learns(given, checkerboard):
    split = checkerboard()
    model = make(split, propagation="sampled", **given)
    total(model.loss(a_batch(split), torch.Generator().manual_seed(0))).backward()
    assert all(p.grad.is_sparse for p in model.sparse_parameters())
    config = TrainConfig(epochs=60, batch_size=64, learning_rate=0.02, valid_metric="recall@10")
    valid = max(epoch.valid["recall@10"] for epoch in fit(model, split, config).history)
    assert valid > 0.4  # ten of the twenty items of a user's colour; ten of all forty would be 0.25


REFUSED = [
    (
        {"condition": "user_history", "modality_preference": "learned"},
        "modality_preference=learned needs condition=item_id or item_audience, found condition=user_history",
    ),
    (
        {"propagation": "sampled", "content_refresh": "step"},
        "propagation=sampled needs content_refresh=epoch, found content_refresh=step",
    ),
    (
        IDENTITY | {"propagation": "sampled", "modality_preference": "learned"},
        "propagation=sampled needs modality_preference=content, found modality_preference=learned",
    ),
    (
        {"propagation": "sampled", "alignment_batch_size": 0},
        "propagation=sampled needs alignment_batch_size > 0, found 0: the whole catalogue",
    ),
    ({"rerank_top_n": 5}, "rerank_top_n needs filter=trained and pair_diffusion_weight > 0, which trains what it asks"),
    (
        {"rerank_top_n": 5, "pair_diffusion_weight": 1.0, "filter": "noise_only"},
        "rerank_top_n needs filter=trained and pair_diffusion_weight > 0, which trains what it asks",
    ),
    (
        {"beta_start": 0.999, "beta_end": 0.999},  # a_t = 10^(-1.5 (t + 1)), and float32 ends near 10^-45
        "betas must lie in (0, 1) and leave signal and noise at each level, "
        "found beta 0.999 at level 30: signal 0, noise 1",
    ),
    (
        {"alignment": "n_squared", "alignment_batch_size": 5000},
        "alignment=n_squared of 3 views needs alignment_batch_size from 1 to 4096, "
        "found 5000, which is 5000 items and 5000^2 combinations of the other views",
    ),
    (
        {"alignment": "n_squared", "alignment_batch_size": 0},
        "alignment=n_squared of 3 views needs alignment_batch_size from 1 to 4096, "
        "found 0, which is 6000 items and 6000^2 combinations of the other views",
    ),
    ({"noise_level": 1.0}, "noise_level: Input should be less than 1, found 1.0"),
    ({"condition": "x0"}, "condition: Input should be 'user_history', 'item_id' or 'item_audience', found 'x0'"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said.split(",")[0][:40] for _, said in REFUSED])
def test_settings_that_do_not_fit_together_are_refused(given, said):
    pairs = Interactions(np.arange(4), np.arange(4), 4, 6000)
    content = ItemFeatures(6000, dict.fromkeys("ab", np.ones((6000, 1), np.float32)), dict.fromkeys("ab", ALL))
    with pytest.raises(ConfigError) as error:
        models.build_model("gtc", pairs, content, models.make_config("gtc", SMALL | given, "embedding"), 0)
    assert str(error.value) == f"gtc: {said}"


@pytest.mark.parametrize(
    ("given", "said"), [({"ema": 0.9}, "ema=0, found 0.9"), ({"prediction": "clean"}, "prediction=noise, found clean")]
)
def test_another_value_of_a_removed_setting_is_refused(given, said):
    with pytest.raises(ConfigError) as error:
        models.make_config("gtc", SMALL | given, "embedding")
    assert str(error.value) == f"the setting {next(iter(given))} was removed: expected {said}; version 0.1 runs it"


def test_removed_settings_of_stored_configs_load_at_their_former_defaults():
    stored = dict(GTCConfig.removed_settings) | {"min_snr": 0.0, "guidance": 1.0, "ema": 0.0}
    assert models.make_config("gtc", stored | SMALL) == models.make_config("gtc", SMALL)


def test_n_squared_counts_the_items_that_there_are(checkerboard):
    make(checkerboard(), alignment="n_squared", alignment_batch_size=5000)  # of 40 items


def test_an_approximate_search_of_all_cells_finds_the_same_item_graph(checkerboard):
    split = checkerboard(missing=0.3)
    exact, approximate = (make(split, neighbor_search=how).views.item_graph for how in ("exact", "approximate"))
    assert torch.equal(exact.a_columns, approximate.a_columns)
    torch.testing.assert_close(exact.a_values, approximate.a_values)


def test_new_weights_make_the_next_step_forget_what_it_held(checkerboard):
    split = checkerboard()
    one, other = make(split, seed=1), make(split, seed=2)
    batch = a_batch(split)
    one.refresh()
    one.load_state_dict(other.state_dict())
    found, wanted = (model.loss(batch, torch.Generator().manual_seed(0))["bpr"] for model in (one, other))
    assert torch.equal(found, wanted)


def test_released_has_the_published_settings():
    config = models.make_config("gtc", {}, "released")
    published = {
        "embedding_dim": 64,
        "diffusion_weight": 0.7,
        "alignment_weight": 0.4,
        "reg": 1e-3,
        "diffusion_steps": 600,
    }
    assert {key: getattr(config, key) for key in published} == published
    assert models.get_spec("gtc").presets["released"][1] == {"learning_rate": 1e-4, "batch_size": 2048}


@pytest.mark.parametrize("taste", ["content", "learned"])
def test_training_takes_a_liked_item_s_own_content_out_of_its_user_s_taste(taste, checkerboard):
    """With one hop the score of a liked pair must be that of the same weights on a graph without their edge's echo."""
    split = checkerboard()
    model = make(
        split,
        filter="off",
        num_item_neighbors=0,
        alignment="none",
        modality_preference=taste,
        content_weight=1.0,
        **IDENTITY,
    )
    users, items = torch.from_numpy(split.train.users[:7]), torch.from_numpy(split.train.items[:7])
    with torch.no_grad():
        v = model.encode(users, items)
        plain = model.score(v, users, torch.arange(7))
        without = model.score(v, users, torch.arange(7), positive=True)
    wanted = torch.zeros(7)
    degree_u, degree_i = split.train.user_counts[split.train.users[:7]], split.train.item_counts[split.train.items[:7]]
    for m in ("image", "text"):
        h = v.content.content[m] / 8**0.5
        echo = h * torch.from_numpy(1 / (2 * (degree_u * degree_i) ** 0.5)).float()[:, None]
        wanted += (echo * (v.content.filtered[m][:, 0] / 8**0.5 + v.content.neighbors[m])).sum(dim=1)
    torch.testing.assert_close(plain - without, wanted)


def test_embeddings_may_start_at_the_factors_of_least_squares(checkerboard):
    split = checkerboard()
    train = split.train
    model = make(split, init="als", unobserved_weight=3.0, als_reg=0.02)
    torch.manual_seed(0)
    for n in (train.n_users, train.n_items):
        xavier_rows(n, model.config.embedding_dim, ProcessGroup())  # drawn before, and replaced
    density = len(train) / (train.n_users * train.n_items)
    users, items = factorize(train, model.config.embedding_dim, 3.0 * density, 0.02)
    torch.testing.assert_close(model.views.users.detach() @ model.views.items.detach().T, 16 * users @ items.T)
    assert model.views.users.abs().max() > 0.1


def test_an_item_takes_from_its_neighbours_as_much_as_the_graph_weighs(checkerboard):
    split = checkerboard()
    whole, half = (make(split, item_graph_weight=w).vectors()[1] for w in (1.0, 0.5))
    none = make(split, num_item_neighbors=0).vectors()[1]
    torch.testing.assert_close(half, (whole + none) / 2)
