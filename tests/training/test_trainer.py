"""Training: negatives, streams, early stopping, and a checkpoint that goes on exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from gtcrec import models
from gtcrec.errors import ConfigError, GtcrecError, RunError
from gtcrec.evaluation.evaluator import evaluate_split, validation_users
from gtcrec.experiments.config import load_config
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.training import checkpoint
from gtcrec.training.sampling import Batches
from gtcrec.training.trainer import Negatives, TrainConfig, Training, epochs, fit
from gtcrec.types import Batch, Interactions, ItemFeatures, Split, TrainableModel

FAST = {"batch_size": 64, "learning_rate": 0.02, "valid_metric": "recall@10"}


def bpr(split, seed=0):
    return models.build_model("bpr", split.train, split.features, models.make_config("bpr", {"embedding_dim": 8}), seed)


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=n - 1))))
@settings(max_examples=60, deadline=None)
def test_negatives_are_never_liked_and_reach_every_unliked_item(case):
    n, liked = case
    pairs = Interactions(np.ones(len(liked), dtype=np.int64), np.array(sorted(liked), dtype=np.int64), 3, n)
    drawn = Negatives(pairs).draw(torch.ones(2000, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(range(n)) - liked


def test_negatives_are_uniform_over_the_unliked_items():
    pairs = Interactions(np.array([0, 0, 1]), np.array([1, 3, 0]), 2, 6)
    drawn = Negatives(pairs).draw(torch.zeros(40_000, dtype=torch.int64), torch.Generator().manual_seed(1))
    counts = np.bincount(drawn.numpy(), minlength=6)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert np.abs(counts[[0, 2, 4, 5]] / 10_000 - 1).max() < 0.05  # 5 standard deviations


def test_negatives_that_are_met_are_uniform_over_the_unliked_items_with_a_training_pair():
    pairs = Interactions(np.array([0, 0, 1, 1, 2]), np.array([1, 4, 0, 4, 6]), 3, 8)  # items 0, 1, 4, 6 are met
    drawn = Negatives(pairs, warm_only=True).draw(
        torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(1)
    )
    counts = np.bincount(drawn.numpy(), minlength=8)
    assert np.flatnonzero(counts).tolist() == [0, 6]
    assert np.abs(counts[[0, 6]] / 10_000 - 1).max() < 0.05


def test_a_user_who_likes_every_met_item_has_no_negative_among_them():
    pairs = Interactions(np.array([0, 0, 1]), np.array([1, 2, 1]), 2, 4)
    assert Batches(pairs, 8, 0).steps == 1
    users = [batch.users.tolist() for batch, _, _ in Batches(pairs, 8, 0, warm_only=True).epoch(1, ProcessGroup())]
    assert users == [[1]]


@pytest.mark.parametrize("rows", [False, True], ids=["one optimiser", "row-sparse too"])
def test_a_resumed_training_equals_the_unbroken_one_to_the_last_bit(rows, checkerboard, row_bpr, tmp_path):
    split, config = checkerboard(), TrainConfig(epochs=6, seed=4, refresh_every=3, **FAST)

    def build(split, seed=0):
        return row_bpr(split.train, seed) if rows else bpr(split, seed)

    whole = build(split)
    unbroken = fit(whole, split, config)
    first = build(split)
    training = Training(first, config)
    for epoch in epochs(first, split, config, training):
        if epoch.number == 3:
            break
    training.save(tmp_path / "c.safetensors")
    second = build(split, seed=77)
    resumed = Training(second, config)
    resumed.load(tmp_path / "c.safetensors")
    list(epochs(second, split, config, resumed))
    assert [(e.losses, e.valid, e.best, e.stop) for e in resumed.history] == [
        (e.losses, e.valid, e.best, e.stop) for e in unbroken.history
    ]
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_training_stops_early_and_leaves_the_best_weights(checkerboard):
    split = checkerboard()
    model = bpr(split)
    config = TrainConfig(epochs=200, patience=3, **FAST)
    training = fit(model, split, config)
    best = max(training.history, key=lambda epoch: epoch.valid["recall@10"])  # the first of equals
    assert training.best == best
    assert training.history[-1].number == best.number + 3
    assert training.stop == "no better recall@10 in 3 validations"
    assert all(torch.equal(model.state_dict()[name], kept) for name, kept in training.best_weights.items())


def test_validation_can_be_less_frequent_than_epochs(checkerboard):
    split = checkerboard()
    training = fit(bpr(split), split, TrainConfig(epochs=5, valid_every=2, **FAST))
    assert [bool(epoch.valid) for epoch in training.history] == [False, True, False, True, True]
    assert training.stop == "all 5 epochs done"


def test_a_model_without_weights_has_nothing_to_train(checkerboard):
    split = checkerboard()
    model = models.build_model("popular", split.train, split.features, models.make_config("popular", {}), 0)
    training = fit(model, split, TrainConfig(valid_metric="recall@10"))
    assert [(e.number, e.losses, e.stop) for e in training.history] == [(1, {}, "nothing to train")]


@pytest.mark.parametrize(("every", "refreshed"), [(0, [0]), (3, [0, 3, 6])])
def test_what_steps_hold_fixed_is_refreshed_before_an_epoch_and_every_so_many_steps(
    every, refreshed, checkerboard, row_bpr
):
    seen = []

    class Watched(row_bpr):
        def loss(self, batch, rng):
            seen[-1][0] += 1
            assert not torch.equal(self.held, self.items) or seen[-1][0] == 1
            return super().loss(batch, rng)

        def refresh(self):
            assert not torch.is_grad_enabled()
            super().refresh()
            seen.append([0])

    split = checkerboard()
    size = -(-len(split.train) // 8)  # 8 steps
    config = TrainConfig(epochs=2, refresh_every=every, **FAST | {"batch_size": size})
    fit(Watched(split.train), split, config)
    gaps = [b - a for a, b in zip(refreshed, [*refreshed[1:], 8], strict=True)]
    assert [steps for (steps,) in seen] == gaps * 2


def test_rows_that_a_batch_does_not_name_stay_as_they_are(checkerboard, row_bpr):
    split = checkerboard()
    model = row_bpr(split.train)
    training = Training(model, TrainConfig(**FAST))
    before = model.users.detach().clone()
    some = Batch(torch.tensor([3, 5]), torch.tensor([1, 1]), torch.tensor([0, 2]))
    training.step(some, 1.0, torch.Generator(), ProcessGroup())
    assert (model.users != before).any(dim=1).nonzero().flatten().tolist() == [3, 5]
    assert [type(one).__name__ for one in training.optimizers] == ["Adam", "RowwiseAdam"]
    assert model.scale.item() != 1


def test_validation_on_few_users_is_the_evaluation_of_those(checkerboard):
    split = checkerboard()
    model = bpr(split)
    training = fit(model, split, TrainConfig(epochs=1, valid_users=7, seed=5, **FAST))
    users = validation_users(split, at_most=7, seed=5)
    found = evaluate_split(model.scorer(), split, "valid", metrics=["recall@10"], details=False, users=users)
    assert training.history[0].valid["recall@10"] == found["recall@10"]
    assert found.context.users == "7 of 40"
    everyone = evaluate_split(model.scorer(), split, "valid", metrics=["recall@10"], details=False)
    rows = np.isin(everyone.users, users)
    assert everyone.context.users == "all"
    assert found["recall@10"] == everyone.per_user["recall@10"][rows].mean()


@pytest.mark.parametrize("name", ["lightgcn", "gtc"])
def test_bfloat16_learns_what_float32_learns(name, checkerboard):
    split, last = checkerboard(), {}
    for precision in ("float32", "bfloat16"):
        model = models.build_model(name, split.train, split.features, models.make_config(name, {"embedding_dim": 8}), 0)
        training = fit(model, split, TrainConfig(epochs=10, precision=precision, **FAST))
        assert all(np.isfinite(value) for epoch in training.history for value in epoch.losses.values())
        assert all(p.dtype == torch.float32 for p in model.parameters())
        last[precision] = training.history[-1].losses["bpr"]
    assert last["float32"] < 0.3  # log 2 = 0.69 at chance
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=0.05)


def test_a_device_that_is_not_there_is_named(checkerboard):
    with pytest.raises(ConfigError, match=r"there is no device 'gpu'; torch sees cpu"):
        Training(bpr(checkerboard()), TrainConfig(device="gpu"))


class Explodes(nn.Module, TrainableModel):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def loss(self, batch, rng):
        return {"bpr": self.w.sum() * 0, "reg": self.w.sum() * float("inf")}


def test_a_loss_that_is_not_finite_is_named(checkerboard):
    with pytest.raises(GtcrecError, match="epoch 1, step 1 of 1: loss term 'reg' is inf, the sum must be"):
        fit(Explodes(), checkerboard(), TrainConfig(**FAST | {"batch_size": 10_000}))


def test_users_who_like_everything_are_left_out_and_nothing_else_is_an_error():
    everything = Interactions(np.array([0, 0]), np.array([0, 1]), 2, 2)
    split = Split(everything, everything, everything, ItemFeatures(2), {})
    with pytest.raises(ConfigError, match="nothing to train on: no user has both a positive and a negative item"):
        fit(bpr(split), split, TrainConfig(**FAST))


def test_a_checkpoint_may_be_read_by_whoever_may_read_other_files(checkerboard, tmp_path):
    Training(bpr(checkerboard()), TrainConfig(**FAST)).save(tmp_path / "c.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "c.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_damaged_checkpoint_is_refused(checkerboard, tmp_path):
    split, path = checkerboard(), tmp_path / "c.safetensors"
    training = Training(bpr(split), TrainConfig(**FAST))
    training.save(path)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # one bit of one weight: safetensors itself does not notice
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"c\.safetensors: damaged: its content differs from the sha256 sum"):
        training.load(path)
    path.write_bytes(content[:100])
    with pytest.raises(RunError, match=r"c\.safetensors: cannot be read"):
        training.load(path)


@pytest.mark.parametrize(
    "about", ['{"facts": "\\ud83d", "sha256": ""}', "[]", '{"facts": 1}', "[" * 5000, '"x"', "null"]
)
def test_a_checkpoint_that_says_something_odd_of_itself_is_refused(tmp_path, about):
    save_file({"w": torch.ones(3)}, tmp_path / "c.safetensors", metadata={"gtcrec": about})
    with pytest.raises(RunError, match=r"c\.safetensors: cannot be read"):
        checkpoint.load(tmp_path / "c.safetensors")


def test_the_learning_rate_falls_by_4_percent_in_50_epochs_a_little_in_each(checkerboard, row_bpr):
    training = Training(row_bpr(checkerboard().train), TrainConfig(learning_rate=0.1, lr_decay="exponential"))
    found = []
    for number in (1, 2, 51, 101):
        training.set_learning_rate(number)
        found.append({group["lr"] for optimizer in training.optimizers for group in optimizer.param_groups})
    assert [len(one) for one in found] == [1, 1, 1, 1]
    expected = [0.1, 0.1 * 0.96**0.02, 0.096, 0.09216]
    assert [one.pop() for one in found] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("model", ["mgcn", "smore"])
def test_models_are_trained_with_the_decay_that_they_publish(model):
    assert load_config("data", model).train.lr_decay == "exponential"
    assert load_config("data", model, assignments=["train.lr_decay=none"]).train.lr_decay == "none"


def test_the_learning_rate_falls_linearly_and_would_be_0_after_the_last_epoch(checkerboard, row_bpr):
    split = checkerboard()
    model = row_bpr(split.train)
    config = TrainConfig(epochs=4, batch_size=64, learning_rate=0.04, lr_decay="linear", valid_metric="recall@10")
    training = Training(model, config)
    rates = [
        {group["lr"] for optimizer in training.optimizers for group in optimizer.param_groups}
        for _ in epochs(model, split, config, training)
    ]
    assert [len(one) for one in rates] == [1, 1, 1, 1]
    assert [one.pop() for one in rates] == pytest.approx([0.04, 0.03, 0.02, 0.01])
