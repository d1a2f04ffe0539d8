"""What every model of the table keeps to."""

import copy

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.training.trainer import TrainConfig, Training, epochs, fit
from gtcrec.types import Batch, ScoringModel

SMALL = {
    "bpr": {"dim": 8},
    "lightgcn": {"dim": 8},
    "simgcl": {"dim": 8},
    "vbpr": {"dim": 8, "content_dim": 8},
    "freedom": {"dim": 8},
    "bm3": {"dim": 8},
    "mgcn": {"dim": 8},
    "lgmrec": {"dim": 8},
    "diffmm": {"dim": 8, "hidden": 16},
    "smore": {"dim": 8},
    "gtc": {"dim": 8, "hidden": 16},
}
TRAINED = [name for name in models.MODELS if name in SMALL]


def make(name, split, seed=0, **more):
    return models.build(name, split.train, split.features, models.settings(name, SMALL.get(name, {}) | more), seed)


def scores(model, n=40):
    return model.scorer()(torch.arange(n))


def a_batch(split, seed=0):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(split.train), (32,), generator=rng)
    users, items = torch.from_numpy(split.train.users)[rows], torch.from_numpy(split.train.items)[rows]
    return Batch(users, items, (items + 1) % split.train.n_items)


def auc(model, split):
    """Chance that a held-out liked item scores above an item of the other colour, over all users."""
    s = scores(model).numpy()
    test = split.final_test()
    better = [
        np.mean(s[u, i] > s[u, np.arange((u + 1) % 2, test.n_items, 2)])
        for u, i in zip(test.users, test.items, strict=True)
    ]
    return float(np.mean(better))


@pytest.mark.parametrize("name", models.MODELS)
def test_learns_a_checkerboard(name, checkerboard):
    split = checkerboard()
    model = make(name, split)
    fit(model, split, TrainConfig(epochs=60, batch_size=64, learning_rate=0.02, valid_metric="recall@10"))
    found = auc(model, split)
    if name == "popular":  # it knows no users: the two colours are equally popular up to chance
        assert 0.3 < found < 0.7
    else:
        assert found > 0.95


@pytest.mark.parametrize("name", models.MODELS)
def test_weights_loaded_into_a_differently_seeded_model_score_equally(name, checkerboard):
    split = checkerboard()
    first, second = make(name, split, seed=1), make(name, split, seed=2)
    if name in TRAINED:
        assert not torch.equal(scores(first), scores(second))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(scores(first), scores(second))


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_receives_a_gradient(name, checkerboard):
    split = checkerboard()
    model = make(name, split)
    terms = model.loss(a_batch(split), torch.Generator().manual_seed(0))
    sum(value for key, value in terms.items() if not key.startswith("log.")).backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("name", TRAINED)
def test_loss_leaves_the_batch_unchanged(name, checkerboard):
    split = checkerboard()
    batch = a_batch(split)
    before = [side.clone() for side in batch]
    make(name, split).loss(batch, torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(batch, before, strict=True))


@pytest.mark.parametrize("name", models.MODELS)
def test_scorer_works_before_training_and_repeats_exactly(name, checkerboard):
    split = checkerboard()
    model = make(name, split)
    assert isinstance(model, ScoringModel)
    before = scores(model)
    assert before.shape == (40, 40)
    assert before.dtype == torch.float32
    assert before.isfinite().all()
    if name in TRAINED:
        model.loss(a_batch(split), torch.Generator().manual_seed(5))
    assert torch.equal(before, scores(model))


@pytest.mark.parametrize("name", TRAINED)
def test_a_scorer_is_a_snapshot_that_training_does_not_change(name, checkerboard):
    split = checkerboard()
    model = make(name, split)
    snapshot = model.scorer()
    before = snapshot(torch.arange(40))
    fit(model, split, TrainConfig(epochs=2, batch_size=64, valid_metric="recall@10"))
    assert torch.equal(before, snapshot(torch.arange(40)))
    assert not torch.equal(before, scores(model))


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(
    ("widths", "missing"),
    [({}, 0.0), ({"text": 5}, 0.0), ({"a": 3, "b": 4, "c": 5}, 0.4)],
    ids=["none", "one", "some missing"],
)
def test_works_with_any_number_of_modalities_and_items_that_miss_some(name, widths, missing, checkerboard):
    split = checkerboard(widths, missing)
    model = make(name, split)
    training = fit(model, split, TrainConfig(epochs=2, batch_size=64, valid_metric="recall@10"))
    assert all(np.isfinite(value) for epoch in training.history for value in epoch.losses.values())
    assert scores(model).isfinite().all()


@pytest.mark.parametrize("name", TRAINED)
def test_a_batch_of_one_pair_has_a_loss(name, checkerboard):
    split = checkerboard()
    one = Batch(*(side[:1] for side in a_batch(split)))
    terms = make(name, split).loss(one, torch.Generator().manual_seed(0))
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", TRAINED)
def test_any_file_name_makes_a_modality(name, checkerboard):
    split = checkerboard({"clip.v2": 4, "keys": 3, "": 2})
    terms = make(name, split).loss(a_batch(split), torch.Generator().manual_seed(0))
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", TRAINED)
def test_one_seed_gives_one_history_whatever_the_global_random_state(name, checkerboard):
    split = checkerboard()
    histories = []
    for state in (1, 99):
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002, the global state is the point
        model = make(name, split, seed=3)
        before = torch.random.get_rng_state()
        config = TrainConfig(epochs=3, batch_size=64, seed=3, valid_metric="recall@10")
        histories.append([(e.losses, e.valid) for e in epochs(model, split, config, Training(model, config))])
        assert torch.equal(before, torch.random.get_rng_state())
    assert histories[0] == histories[1]


@pytest.mark.parametrize("name", [*TRAINED, "gtc, identity", "gtc that averages", "gtc, identity, that averages"])
def test_a_resumed_training_ends_as_the_unbroken_one(name, checkerboard, tmp_path):
    name, *more = name.replace("gtc that", "gtc, that").split(", ")
    given = {"identity": {"condition": "identity"}, "that averages": {"ema": 0.9, "refine": True}}
    settings = {key: value for one in more for key, value in given[one].items()}
    split, config = checkerboard(), TrainConfig(epochs=4, batch_size=64, learning_rate=0.02, valid_metric="recall@10")
    whole, first, second = (make(name, split, seed=seed, **settings) for seed in (0, 0, 77))
    unbroken, begun = fit(whole, split, config), Training(first, config)
    for epoch in epochs(first, split, config, begun):
        if epoch.number == 2:
            break
    begun.save(tmp_path / "c.safetensors")
    resumed = Training(second, config)
    resumed.load(tmp_path / "c.safetensors")
    list(epochs(second, split, config, resumed))
    assert [(e.losses, e.valid) for e in resumed.history] == [(e.losses, e.valid) for e in unbroken.history]
    ends = whole.state_dict(), second.state_dict()
    assert any("average" in key for key in ends[0]) == ("that averages" in more)
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert torch.equal(scores(whole), scores(second))


@pytest.mark.parametrize("name", models.MODELS)
def test_an_unknown_setting_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{name} has no setting 'dimm'"):
        models.settings(name, {"dimm": 3})


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown model 'lightgnc' \(did you mean 'lightgcn'\?\); known: popular, "):
        models.find("lightgnc")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"gtc has no preset 'relesed' \(did you mean 'released'\?\)"):
        models.settings("gtc", {}, "relesed")


def test_a_setting_out_of_range_is_refused_with_what_was_found():
    with pytest.raises(ConfigError, match="gtc: dim: Input should be greater than or equal to 1, found 0"):
        models.settings("gtc", {"dim": 0})


@pytest.mark.parametrize("name", models.MODELS)
def test_each_candidate_of_a_space_is_accepted_and_the_default_is_one(name):
    for key, candidates in models.find(name).space.items():
        _, training, own = key.rpartition("train.")
        for value in candidates:
            config = TrainConfig(**{own: value}) if training else models.settings(name, {own: value})
            assert getattr(config, own) == value
        assert len(set(candidates)) == len(candidates) > 1
        assert getattr(TrainConfig() if training else models.settings(name, {}), own) in candidates


def test_every_model_with_settings_has_a_space():
    assert [name for name, entry in models.MODELS.items() if not entry.space] == ["popular"]
