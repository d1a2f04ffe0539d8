"""On CUDA the same as on the CPU, within the tolerance of float32 sums in another order."""

import pytest
import torch

from gtcrec import models
from gtcrec.training.trainer import TrainConfig, Training, fit

pytestmark = pytest.mark.gpu

SMALL = {"bpr": {"dim": 8}, "lightgcn": {"dim": 8}, "freedom": {"dim": 8}, "gtc": {"dim": 8, "hidden": 16}}
TRAINED = [name for name in models.MODELS if name in SMALL]
FAST = {"batch_size": 64, "valid_metric": "recall@10"}


def make(name, split):
    return models.build(name, split.train, split.features, models.settings(name, SMALL[name]), 0)


@pytest.mark.parametrize("name", TRAINED)
def test_an_epoch_on_cuda_equals_one_on_the_cpu(name, checkerboard):
    split, losses, scores = checkerboard(), [], []
    for device in ("cpu", "cuda"):
        model = make(name, split)
        training = fit(model, split, TrainConfig(epochs=1, device=device, **FAST))
        assert {p.device.type for p in model.parameters()} == {device}
        losses.append(training.history[0].losses)
        scores.append(model.scorer()(torch.arange(40)).cpu())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
    # Adam's first steps have the size of the learning rate whatever the gradient: where it is nearly 0 they may differ.
    torch.testing.assert_close(scores[1], scores[0], rtol=0.05, atol=5e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_on_cuda_learns_what_float32_learns(name, checkerboard):
    split, last = checkerboard(), {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig(epochs=20, device="cuda", precision=precision, learning_rate=0.02, **FAST)
        last[precision] = fit(make(name, split), split, config).history[-1].losses["bpr"]
    assert last["float32"] < 0.5  # log 2 = 0.69 at chance
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=0.1)


def test_row_sparse_gradients_train_on_cuda_as_on_the_cpu(checkerboard, row_bpr):
    split = checkerboard()
    losses = [
        fit(row_bpr(split.train), split, TrainConfig(epochs=2, device=device, **FAST)).history[-1].losses
        for device in ("cpu", "cuda")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)


def test_a_checkpoint_from_cuda_goes_on_on_the_cpu(checkerboard, row_bpr, tmp_path):
    split = checkerboard()
    config = TrainConfig(epochs=2, device="cuda", **FAST)
    training = fit(row_bpr(split.train), split, config)
    training.save(tmp_path / "c.safetensors")
    model = row_bpr(split.train, seed=3)
    resumed = Training(model, config.model_copy(update={"device": "cpu"}))
    resumed.load(tmp_path / "c.safetensors")
    assert resumed.history == training.history
    assert all(torch.equal(a.cpu(), b) for a, b in zip(training.model.parameters(), model.parameters(), strict=True))
    devices = {
        slot.device.type for one in resumed.optimizers for state in one.state.values() for slot in state.values()
    }
    assert devices == {"cpu"}
