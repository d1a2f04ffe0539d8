"""GTC's own claims: the folded score, the registered denoiser, and the faults it must not have."""

import copy

import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.train import TrainConfig, fit
from gtcrec.types import Batch

SMALL = {"dim": 8, "hidden": 16}


def make(split, seed=0, preset="default", **given):
    return models.build("gtc", split.train, split.features, models.settings("gtc", SMALL | given, preset), seed)


def a_batch(split):
    rows = torch.arange(0, len(split.train), 3)
    users, items = torch.from_numpy(split.train.users)[rows], torch.from_numpy(split.train.items)[rows]
    return Batch(users, items, (items + 1) % split.train.n_items)


CASES = {
    "default": {},
    "released": {"preset": "released"},
    "one prototype": {"prototypes": 1},
    "off": {"filter": "off"},
    "every step": {"content_refresh": "step", "content_layers": 2},
    "sampled": {"propagation": "sampled"},
    "pairwise": {"alignment": "pairwise"},
    "audience": {"condition": "audience", "prototypes": 3, "filter_steps": 3},
    "bare": {"item_neighbours": 0, "user_neighbours": 0, "content_layers": 0, "alignment": "none", "taste": "own"},
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
    assert model.vectors()[0].shape[1] == 8 * (1 + 2 * (model.config.prototypes if model.config.filter != "off" else 1))


def test_the_denoisers_are_in_the_module_tree_and_move_in_training(checkerboard):
    split = checkerboard()
    model = make(split)
    before = copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_parameters() if name.startswith("denoisers.")]
    assert {name.split(".")[1] for name in names} == {"0_image", "1_text"}
    fit(model, split, TrainConfig(epochs=1, batch_size=64, valid_metric="recall@10"))
    assert all(not torch.equal(before[name], model.state_dict()[name]) for name in names)


def test_noise_only_keeps_its_untrained_denoisers(checkerboard):
    split = checkerboard()
    model = make(split, filter="noise_only")
    before = copy.deepcopy(model.state_dict())
    terms = model.loss(a_batch(split), torch.Generator().manual_seed(0))
    assert "diffusion" not in terms
    fit(model, split, TrainConfig(epochs=1, batch_size=64, valid_metric="recall@10"))
    frozen = [name for name in before if name.startswith("denoisers.")]
    assert frozen
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in frozen)


def test_a_user_s_prototypes_change_what_the_filter_keeps(checkerboard):
    split = checkerboard()
    model = make(split, prototypes=3)
    with torch.no_grad():
        filtered = model.filtered("image")
    assert filtered.shape == (40, 3, 8)
    assert (filtered[:, 0] - filtered[:, 1]).abs().max() > 1e-3


def test_absent_content_adds_nothing_of_its_own(checkerboard):
    split = checkerboard(missing=0.4)
    model = make(split)
    absent = torch.from_numpy(~split.features.present["image"])
    with torch.no_grad():
        assert absent.any()
        assert model.filtered("image")[absent].abs().max() == 0


def test_the_bound_on_total_correlation_stays_below_its_ceiling(checkerboard):
    split = checkerboard()
    terms = make(split).loss(a_batch(split), torch.Generator().manual_seed(0))
    n = len(a_batch(split).positives.unique())
    assert terms["log.tc_bound_nats"] <= torch.log(torch.tensor(float(n)))


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
    model = make(split, propagation="sampled", walks=50)
    model.refresh()
    with torch.no_grad():
        for table in (model.views.users, model.views.items):
            table.add_(torch.randn(table.shape, generator=torch.Generator().manual_seed(1)))
        users, items = torch.arange(5), torch.arange(7)
        exact = model.views.exact(users, items)
        rng = torch.Generator().manual_seed(2)
        draws = [model.views.step(users, items, rng) for _ in range(300)]
    for view in ("user", "item", "condition"):
        mean = torch.stack([getattr(one.identity, view) for one in draws]).mean(dim=0)
        torch.testing.assert_close(mean, getattr(exact.identity, view), atol=0.03, rtol=0)


def test_right_after_a_refresh_a_sampled_step_is_exact(checkerboard):
    split = checkerboard(missing=0.3)
    batch = a_batch(split)
    sampled, full = (make(split, propagation=how, walks=1) for how in ("sampled", "full"))
    for model in (sampled, full):
        model.refresh()
    found, wanted = (model.loss(batch, torch.Generator().manual_seed(0))["bpr"] for model in (sampled, full))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("given", [{}, {"condition": "audience", "user_neighbours": 3}])
def test_a_sampled_step_gives_row_sparse_gradients_and_learns(given, checkerboard):
    split = checkerboard()
    model = make(split, propagation="sampled", **given)
    terms = model.loss(a_batch(split), torch.Generator().manual_seed(0))
    sum(value for key, value in terms.items() if not key.startswith("log.")).backward()
    assert all(p.grad.is_sparse for p in model.sparse_parameters())
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.to_dense().abs().sum() > 0]
    assert silent == []
    config = TrainConfig(epochs=60, batch_size=64, learning_rate=0.02, valid_metric="recall@10")
    valid = max(epoch.valid["recall@10"] for epoch in fit(model, split, config).history)
    assert valid > 0.4  # ten of the twenty items of a user's colour; ten of all forty would be 0.25


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"content_refresh": "step"},
            "gtc: propagation=sampled needs content_refresh=epoch, found content_refresh=step",
        ),
        ({"taste": "own"}, "gtc: propagation=sampled needs taste=content, found taste=own"),
        ({"aligned_items": 0}, "gtc: propagation=sampled needs aligned_items > 0, found 0: the whole catalogue"),
    ],
)
def test_what_a_sampled_step_cannot_do_is_refused(given, said, checkerboard):
    with pytest.raises(ConfigError) as error:
        make(checkerboard(), propagation="sampled", **given)
    assert str(error.value) == said


def test_an_approximate_search_of_all_cells_finds_the_same_item_graph(checkerboard):
    split = checkerboard(missing=0.3)
    exact, approximate = (make(split, item_search=how).views.item_graph for how in ("exact", "approximate"))
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
    config = models.settings("gtc", {}, "released")
    published = {
        "dim": 64,
        "diffusion_weight": 0.7,
        "alignment_weight": 0.4,
        "reg": 1e-3,
        "diffusion_steps": 600,
    }
    assert {key: getattr(config, key) for key in published} == published
    assert models.MODELS["gtc"].presets["released"][1] == {"learning_rate": 1e-4, "batch_size": 2048}


@pytest.mark.parametrize("taste", ["content", "own"])
def test_training_takes_a_liked_item_s_own_content_out_of_its_user_s_taste(taste, checkerboard):
    """With one hop the score of a liked pair must be that of the same weights on a graph without their edge's echo."""
    split = checkerboard()
    model = make(split, filter="off", item_neighbours=0, alignment="none", taste=taste, content_weight=1.0)
    users, items = torch.from_numpy(split.train.users[:7]), torch.from_numpy(split.train.items[:7])
    with torch.no_grad():
        v = model._exact(users, items)
        plain = model._pair_scores(v, users, torch.arange(7))
        without = model._pair_scores(v, users, torch.arange(7), liked=True)
    wanted = torch.zeros(7)
    degree_u, degree_i = split.train.user_counts[split.train.users[:7]], split.train.item_counts[split.train.items[:7]]
    for m in ("image", "text"):
        h = v.views.content[m] / 8**0.5
        echo = h * torch.from_numpy(1 / (2 * (degree_u * degree_i) ** 0.5)).float()[:, None]
        wanted += (echo * (v.filtered[m][:, 0] / 8**0.5 + v.views.common[m])).sum(dim=1)
    torch.testing.assert_close(plain - without, wanted)
