"""The start from least squares, an option of several models, is the same one and is solved for once."""

from dataclasses import replace

import pytest
import torch

from gtcrec import models
from gtcrec.models import embeddings
from gtcrec.testing import model_checks

SETTINGS = {"init": "als", "embedding_dim": 8}
MODELS = ("lightgcn", "mgcn")


def make(name, split, seed=3, init_weights=True, **settings):
    config = models.make_config(name, {**SETTINGS, **settings}, "embedding" if name == "gtc" else "default")
    return models.build_model(name, split.train, split.features, config, seed, init_weights=init_weights)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("settings", [{}, {"unobserved_weight": 2.0, "als_reg": 0.1}])
def test_embeddings_start_from_the_factors_that_gtc_starts_from(name, settings, checkerboard):
    split = checkerboard()
    model, gtc = make(name, split, **settings), make("gtc", split, **settings)
    assert torch.equal(model.users, gtc.views.users)
    assert torch.equal(model.items, gtc.views.items)


@pytest.mark.parametrize("name", MODELS)
def test_defaults_of_the_start_are_those_of_gtc(name):
    fields, gtc = (models.get_spec(one).config.model_fields for one in (name, "gtc"))
    for setting in ("init", "unobserved_weight", "als_reg"):
        assert fields[setting].default == gtc[setting].default


@pytest.mark.parametrize("name", MODELS)
def test_the_start_tells_positives_from_the_rest_before_any_training(name, checkerboard):
    split = checkerboard()
    positive = torch.from_numpy(split.train.matrix().toarray() > 0)
    scores = {init: make(name, split, init=init).scorer()(torch.arange(40)) for init in ("als", "random")}
    margin = {init: (s[positive].mean() - s[~positive].mean()) / s.std() for init, s in scores.items()}
    assert margin["als"] > margin["random"] + 0.5


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_solved_for_where_weights_are_loaded_next(name, checkerboard, monkeypatch):
    split, solved = checkerboard(), []
    monkeypatch.setattr(embeddings, "factorize", lambda *given: solved.append(given) or (torch.ones(40, 8),) * 2)
    make(name, split, init_weights=False)
    assert solved == []
    make(name, split)
    assert len(solved) == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_run_from_this_start_resumes_exactly(name):
    spec = models.get_spec(name)
    dict(model_checks(replace(spec, small={**spec.small, "init": "als"})))[
        "a resumed training ends as the unbroken one"
    ]()
