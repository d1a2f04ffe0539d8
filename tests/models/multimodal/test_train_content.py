"""Raw content that is trained with the weights, of all models that offer it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.testing import model_checks
from helpers.training import a_batch, stream

NAMES = ("bm3", "freedom", "mgcn", "smore")


def make(name, split, **given):
    config = models.make_config(name, {"embedding_dim": 8, **given})
    return models.build_model(name, split.train, split.features, config, 0)


def checks():
    for name in NAMES:
        spec = models.get_spec(name)
        for claim, check in model_checks(replace(spec, small={**spec.small, "train_content": True})):
            yield pytest.param(check, id=f"{name} {claim}")


@pytest.mark.parametrize("check", list(checks()))
def test_a_model_that_trains_its_content_keeps_the_contract(check):
    check()


@pytest.mark.parametrize("name", NAMES)
def test_without_the_setting_content_is_no_weight(name, checkerboard):
    assert not [key for key in make(name, checkerboard()).state_dict() if key.startswith("x_")]


@pytest.mark.parametrize("name", NAMES)
def test_content_starts_as_given_is_trained_where_present_and_leaves_the_data_alone(name, checkerboard):
    split = checkerboard(missing=0.3)
    before = {m: x.copy() for m, x in split.features.values.items()}
    model = make(name, split, train_content=True)
    for m, key in model.keys.items():
        assert torch.equal(model.state_dict()[f"x_{key}"], torch.from_numpy(before[m]))
    sum(model.loss(a_batch(split), stream()).values()).backward()
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    for m, key in model.keys.items():
        changed = (getattr(model, f"x_{key}").detach().numpy() != before[m]).any(axis=1)
        assert changed.any()
        assert not changed[~split.features.present[m]].any()
        np.testing.assert_array_equal(split.features.values[m], before[m])


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_before_training_are_those_of_frozen_content(name, checkerboard):
    split = checkerboard()
    frozen, trained = (make(name, split, train_content=one).scorer()(torch.arange(40)) for one in (False, True))
    assert torch.equal(frozen, trained)
