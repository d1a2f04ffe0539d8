"""GTC of several parts: its score by its parts, what is trained, and what validation chooses."""

import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.models.gtc.blending import standard_scores
from gtcrec.models.gtc.embedding.model import EmbeddingGTC
from gtcrec.models.gtc.model import GTC
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.training.trainer import TrainConfig, Training, epochs, fit
from gtcrec.types import ItemFeatures, Split

FAST = TrainConfig(epochs=3, batch_size=256, learning_rate=1e-2)
EVERYONE = torch.arange(40)


def build(split: Split, preset: str = "default", **settings: object) -> GTC:
    config = models.make_config("gtc", {**models.get_spec("gtc").small, **settings}, preset)
    model = models.build_model("gtc", split.train, split.features, config, 0)
    assert isinstance(model, GTC)
    return model


def dot(vectors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return vectors[0] @ vectors[1].T


def test_the_score_is_the_weighted_sum_of_standardised_parts(checkerboard) -> None:
    weights = {"linear_weight": 0.5, "embedding_weight": 2.0, "history_weight": 1.5, "interest_weight": 0.4}
    model = build(checkerboard(), blend="fixed", **weights)
    assert model.linear
    assert model.embedding
    assert model.history
    assert model.interest
    expected = 0.5 * standard_scores(model.linear.scorer()(EVERYONE))
    expected += 2.0 * standard_scores(dot(model.embedding.vectors()))
    expected += 1.5 * standard_scores(dot(model.history.vectors()))
    expected += 0.4 * standard_scores(dot(model.interest.vectors()))
    torch.testing.assert_close(model.scorer()(EVERYONE), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["history", "interest"])
def test_what_diffusion_trains_takes_part_in_the_default_s_scores(checkerboard, name) -> None:
    model = build(checkerboard())
    fit(model, checkerboard(), FAST)
    model.part_weights.fill_(1.0)
    before = model.scorer()(EVERYONE)
    for kept in model.kept[name].buffers():
        if kept.ndim > 1:
            torch.nn.init.normal_(kept)
    assert (model.scorer()(EVERYONE) - before).abs().max() > 0.1


def test_new_users_score_as_known_ones_with_their_history(checkerboard) -> None:
    split = checkerboard()
    model = build(split, blend="fixed", embedding_weight=0.0)  # the embedding part knows users by more than that
    histories = split.train.matrix()
    torch.testing.assert_close(model.fold_in(histories), model.scorer()(EVERYONE), atol=1e-4, rtol=1e-4)


def test_known_items_score_as_new_ones_with_their_vectors(checkerboard) -> None:
    split = checkerboard()
    model = build(split, blend="fixed")
    found = model.score_new_items(split.train.matrix(), split.features)
    assert found.shape == (40, split.train.n_items)
    assert torch.isfinite(found).all()
    assert found.std() > 0


def test_the_parts_add_up_to_the_score(checkerboard) -> None:
    split = checkerboard()
    model = build(split)
    fit(model, split, FAST)
    model.part_weights.copy_(torch.tensor([0.3, 0.3, 0.2, 0.2]))
    items = torch.tensor([3, 0, 7])
    parts = model.score_parts(5, items)
    assert {name.partition(":")[0] for name in parts} == {"linear", "embedding", "history", "interest"}
    total = torch.stack(list(parts.values())).sum(dim=0)
    torch.testing.assert_close(total, model.scorer()(torch.tensor([5]))[0, items], atol=1e-5, rtol=1e-5)


def test_liked_items_add_up_to_the_linear_part_but_for_a_constant(checkerboard) -> None:
    split = checkerboard()
    model = build(split, blend="fixed", linear_weight=0.7)
    items = torch.arange(split.train.n_items)
    linear = model.score_parts(5, items)["linear"]
    rest = linear - model.linear_shares(5, items).sum(dim=1)
    torch.testing.assert_close(rest, rest[:1].expand_as(rest), atol=1e-5, rtol=1e-5)


def test_the_untrained_start_competes_as_epoch_0(checkerboard) -> None:
    model, split = build(checkerboard()), checkerboard()
    training = Training(model, TrainConfig(epochs=2, batch_size=256, learning_rate=1e-12))
    numbers = [(epoch.number, epoch.best) for epoch in epochs(model, split, training.config, training)]
    assert numbers[0] == (0, True)
    assert [number for number, _ in numbers] == [0, 1, 2]


def test_a_linear_preset_trains_nothing(checkerboard) -> None:
    model, split = build(checkerboard(), "linear"), checkerboard()
    training = fit(model, split, FAST)
    assert training.stop == "nothing to train"
    assert training.epochs_done == 0
    assert model.history is None
    assert float(model.part_weights.sum()) == pytest.approx(1.0)


def test_a_part_that_gets_no_better_is_trained_no_more(checkerboard) -> None:
    split = checkerboard()
    model = build(split, part_patience=1)
    training = Training(model, TrainConfig(epochs=60, batch_size=256, learning_rate=1e-1, patience=60))
    losses = [epoch.losses for epoch in epochs(model, split, training.config, training)][1:]
    assert "history" in losses[0]
    assert "bpr" in losses[0]
    assert "interest" in losses[0]
    assert training.stop == "nothing left to train"
    assert not losses[-1]


def test_parts_learn_at_their_own_rates(checkerboard) -> None:
    model = build(checkerboard(), history_rate=0.5)
    training = Training(model, TrainConfig(learning_rate=0.1))
    training.set_learning_rate(1)
    (adam,) = training.optimizers
    rates = {id(p): group["lr"] for group in adam.param_groups for p in group["params"]}
    assert model.history
    assert model.embedding
    assert rates[id(model.history.items)] == pytest.approx(0.05)
    assert rates[id(model.embedding.views.items)] == pytest.approx(0.1)
    assert model.interest
    assert rates[id(model.interest["image"].strength)] == pytest.approx(0.5)


def test_data_without_content_have_no_content_diffusion(checkerboard) -> None:
    split = checkerboard()
    bare = Split(split.train, split.valid, split.valid, ItemFeatures(split.train.n_items), {})
    model = build(bare, blend="fixed")
    assert model.interest is None
    assert "interest" not in {name.partition(":")[0] for name in model.score_parts(5, torch.tensor([3]))}


def test_without_validation_the_weights_stay_as_set(checkerboard) -> None:
    split = checkerboard()
    nothing = split.valid.where(split.valid.users < 0)
    model = build(split)
    fit(model, Split(split.train, nothing, nothing, split.features, {}), FAST)
    assert model.part_weights.tolist() == [1.0, 1.0, 2.0, 0.25]


def test_settings_that_do_not_fit_a_blend_are_refused(checkerboard) -> None:
    nothing = {"linear_weight": 0.0, "embedding_weight": 0.0, "history_weight": 0.0, "interest_weight": 0.0}
    with pytest.raises(ConfigError, match="blend=validation needs a part"):
        models.make_config("gtc", nothing)
    with pytest.raises(ConfigError, match="rerank_top_n needs blend=none"):
        models.make_config("gtc", {"rerank_top_n": 3})
    split = checkerboard()
    config = models.make_config("gtc", {"init": "random", "propagation": "sampled"})
    with pytest.raises(ConfigError, match="needs blend=none"):
        models.build_model("gtc", split.train, split.features, config, 0, ProcessGroup())


def test_stored_settings_of_earlier_versions_mean_the_embedding_alone(checkerboard) -> None:
    stored = models.complete_settings("gtc", {"embedding_dim": 8})
    split = checkerboard()
    model = models.build_model("gtc", split.train, split.features, models.make_config("gtc", stored), 0)
    assert isinstance(model, EmbeddingGTC)
