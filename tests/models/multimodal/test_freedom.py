"""FREEDOM's own claims: pruning in training only, a frozen item graph, and one ranking loss per modality."""

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.multimodal.freedom import PrunableGraph
from gtcrec.ops import graph
from gtcrec.ops import neighbors as similarity
from gtcrec.training.trainer import TrainConfig, fit
from gtcrec.types import Interactions
from helpers.training import a_batch, stream


def make(split, seed=0, **given):
    config = models.make_config("freedom", {"embedding_dim": 8, **given})
    return models.build_model("freedom", split.train, split.features, config, seed)


def by_hand(model, split, block, layers=2, item_layers=1):
    """User and item vectors [n, dim] in float64 from dense matrices; `block` is the user-item block."""
    e_u, e_i = model.users.detach().double(), model.items.detach().double()
    r = torch.from_numpy(block).double()
    users, items, u, i = e_u, e_i, e_u, e_i
    for _ in range(layers):
        u, i = r @ i, r.T @ u
        users, items = users + u, items + i
    s = torch.from_numpy(similarity.item_graph(split.features, 10, include_self=True).toarray()).double()
    return users / (layers + 1), items / (layers + 1) + torch.linalg.matrix_power(s, item_layers) @ e_i


@pytest.mark.parametrize("item_layers", [1, 2])
def test_prediction_uses_the_full_graph_whatever_was_drawn_in_training(item_layers, checkerboard):
    split = checkerboard(missing=0.3)
    model = make(split, edge_dropout=0.9, num_item_layers=item_layers)
    model.loss(a_batch(split), stream(5))
    users, items = by_hand(model, split, graph.bipartite(split.train).toarray(), item_layers=item_layers)
    torch.testing.assert_close(model.scorer()(torch.arange(40)), (users @ items.T).float(), atol=1e-6, rtol=1e-5)


def test_the_loss_is_both_ranking_terms_on_the_graph_that_its_stream_draws(checkerboard):
    split = checkerboard(missing=0.4)
    model, batch = make(split, edge_dropout=0.7, content_weight=0.25), a_batch(split)
    found = model.loss(batch, stream(3))

    kept = model.graph.draw(1 - 0.7, stream(3)).numpy()
    part = split.train.where(kept)
    assert len(part) == int((1 - 0.7) * len(split.train))
    users, items = by_hand(model, split, graph.bipartite(part).toarray())
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives]
    bpr = -torch.log(torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean()
    content = torch.zeros(())
    for m in ("image", "text"):
        x, has = split.features.values[m], split.features.present[m]
        h = torch.from_numpy(x).double() @ model.projections[model.keys[m]].weight.detach().double().T
        both = torch.from_numpy(has[batch.positives] & has[batch.negatives])
        assert 0 < both.sum() < len(both)
        gap = (u * h[batch.positives]).sum(1) - (u * h[batch.negatives]).sum(1)
        content = content - torch.log(torch.sigmoid(gap))[both].sum() / len(both)
    assert set(found) == {"bpr", "content"}
    assert found["bpr"].item() == pytest.approx(bpr.item(), abs=1e-6)
    assert found["content"].item() == pytest.approx(0.25 * content.item(), abs=1e-6)


def test_the_drawn_edges_depend_on_the_stream_of_the_first_step_alone(checkerboard):
    split = checkerboard()
    model, batch = make(split), a_batch(split)
    found = []
    for seed in (1, 1, 2):
        model.refresh()
        found.append([model.loss(batch, stream(step))["bpr"].item() for step in (seed, 3)])
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]
    assert found[0] != found[2]


@pytest.mark.parametrize(("refresh_every", "draws"), [(0, 3), (1, 6)])
def test_edges_are_drawn_once_an_epoch_or_as_often_as_training_refreshes(refresh_every, draws, checkerboard):
    split, kept = checkerboard(), []
    model = make(split)
    draw = model.graph.draw
    model.graph.draw = lambda share, rng: kept.append(draw(share, rng)) or kept[-1]
    size = -(-len(split.train) // 2)
    fit(model, split, TrainConfig(epochs=3, batch_size=size, refresh_every=refresh_every))
    assert len(kept) == draws
    assert not any(torch.equal(kept[0], other) for other in kept[1:])


def test_an_item_may_be_left_out_of_its_own_neighbours(checkerboard):
    split = checkerboard(missing=0.4)
    own = {one: make(split, self_neighbor=one).item_graph(torch.eye(40)) for one in (True, False)}
    some = torch.from_numpy(np.any([split.features.present[m] for m in split.features.names], axis=0))
    assert torch.equal(own[True].diagonal() > 0, some)
    assert not own[False].diagonal().any()
    torch.testing.assert_close(own[False], torch.from_numpy(similarity.item_graph(split.features, 10).toarray()))


def test_a_stored_configuration_without_the_setting_means_the_graph_of_then():
    """Runs of version 0.1 were trained on the graph without loops, and that graph is no part of their weights."""
    then = {"dim": 8, "item_neighbours": 10}
    assert not models.make_config("freedom", models.complete_settings("freedom", then)).self_neighbor
    assert models.make_config("freedom", models.complete_settings("freedom", {"self_neighbor": True})).self_neighbor


def test_nothing_pruned_gives_the_loss_of_the_full_graph(checkerboard):
    split = checkerboard()
    model, batch = make(split, edge_dropout=0.0), a_batch(split)
    users, items = model.vectors()
    better, worse = ((users[batch.users] * items[side]).sum(1) for side in (batch.positives, batch.negatives))
    wanted = torch.nn.functional.softplus(worse - better).mean()
    assert model.loss(batch, stream())["bpr"].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_the_item_graph_is_frozen_and_no_part_of_the_weights(checkerboard):
    model = make(checkerboard())
    names = {"users", "items", "projections.0_image.weight", "projections.1_text.weight"}
    assert {name for name, _ in model.named_parameters()} == names
    assert set(model.state_dict()) == names


def test_without_modalities_it_is_lightgcn_on_pruned_edges(checkerboard):
    split = checkerboard({})
    model = make(split, seed=4)
    config = models.make_config("lightgcn", {"embedding_dim": 8, "num_layers": 2})
    light = models.build_model("lightgcn", split.train, split.features, config, 4)
    assert set(model.loss(a_batch(split), stream())) == {"bpr"}
    assert torch.equal(model.scorer()(torch.arange(40)), light.scorer()(torch.arange(40)))


def test_without_content_weight_nothing_projects(checkerboard):
    split = checkerboard()
    model = make(split, content_weight=0)
    assert {name for name, _ in model.named_parameters()} == {"users", "items"}
    assert set(model.loss(a_batch(split), stream())) == {"bpr"}


def test_modality_weights_weigh_the_item_graph(checkerboard):
    split = checkerboard()
    model = make(split, modality_weights={"image": 0.1, "text": 0.9})
    image, text = (
        similarity.content_neighbors(
            split.features.values[m], split.features.present[m], 10, include_self=True
        ).toarray()
        for m in ("image", "text")
    )
    wanted = torch.from_numpy(0.1 * image + 0.9 * text).float()
    torch.testing.assert_close(model.item_graph(torch.eye(40)), wanted)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"imag": 1, "text": 1}, r"modality_weights names 'imag' \(did you mean 'image'\?\); .* image, text$"),
        (
            {"image": 1},
            r"modality_weights lacks 'text'; expected a weight for each of image, text \(0 leaves one out\)",
        ),
        ({"image": 0, "text": 0}, "modality_weights must not all be 0, found {'image': 0.0, 'text': 0.0}"),
        ({"image": -1, "text": 1}, "freedom: modality_weights.image: .* greater than or equal to 0, found -1"),
    ],
)
def test_wrong_modality_weights_are_refused(weights, message, checkerboard):
    with pytest.raises(ConfigError, match=message):
        make(checkerboard(), modality_weights=weights)


def test_weights_without_any_modality_are_refused(checkerboard):
    with pytest.raises(ConfigError, match="modality_weights names 'text'; the data's modalities: none"):
        make(checkerboard({}), modality_weights={"text": 1})


@pytest.mark.parametrize("share", [0.1, 0.2, 1 / 3, 0.45, 0.9, 1.0])
def test_pruning_keeps_exactly_the_stated_number_of_edges(share, checkerboard):
    prunable = PrunableGraph(checkerboard().train)
    edges = len(prunable.full.a_values)
    for seed in range(20):
        assert prunable.draw(share, stream(seed)).sum() == int(share * edges)


def test_the_chance_of_the_first_draw_is_proportional_to_one_over_root_of_degrees():
    pairs = Interactions(np.array([0, 0, 0, 0, 1, 2]), np.array([0, 1, 2, 3, 3, 3]), 3, 4)
    prunable = PrunableGraph(pairs)
    weights = 1 / np.sqrt(pairs.user_counts[pairs.users] * pairs.item_counts[pairs.items])
    rng, n = stream(), 20_000
    counts = sum(prunable.draw(1 / 6, rng).int() for _ in range(n)).numpy()
    chance = weights / weights.sum()
    assert counts.sum() == n
    spread = np.sqrt(n * chance * (1 - chance))
    assert np.all(np.abs(counts - n * chance) < 4 * spread)


def test_pairs_are_drawn_without_replacement_as_one_after_the_other():
    pairs = Interactions(np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 3]), 2, 4)
    p = 1 / np.sqrt(pairs.user_counts[pairs.users] * pairs.item_counts[pairs.items])
    p /= p.sum()
    chance = np.array([p[e] + sum(p[f] * p[e] / (1 - p[f]) for f in range(5) if f != e) for e in range(5)])
    prunable, rng, n = PrunableGraph(pairs), stream(1), 20_000
    counts = sum(prunable.draw(0.4, rng).int() for _ in range(n)).numpy()
    assert np.all(np.abs(counts - n * chance) < 4 * np.sqrt(n * chance * (1 - chance)))


def test_pruning_prefers_edges_of_low_degree_as_much_as_numpy_s_weighted_choice():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((200, 100)) < np.linspace(0.01, 0.4, 100))
    pairs = Interactions(users, items, 200, 100)
    product = pairs.user_counts[users] * pairs.item_counts[items]
    weights, low = product**-0.5, product < np.median(product)
    n = round(0.2 * len(pairs))
    wanted = [low[rng.choice(len(pairs), n, replace=False, p=weights / weights.sum())].mean() for _ in range(100)]
    prunable = PrunableGraph(pairs)
    found = [low[prunable.draw(0.2, stream(seed)).numpy()].mean() for seed in range(100)]
    error = np.sqrt(np.var(wanted) / 100 + np.var(found) / 100)
    assert abs(np.mean(found) - np.mean(wanted)) < 4 * error
    assert np.mean(found) - low.mean() > 20 * error
