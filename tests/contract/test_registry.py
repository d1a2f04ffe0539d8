"""Adding a model: one file and one line, or an entry point."""

import runpy
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gtcrec import models
from gtcrec.cli.main import execute
from gtcrec.errors import ConfigError
from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.ops.scorers import dot_scorer
from gtcrec.testing import check_model
from gtcrec.types import TrainableModel


class ToyConfig(ModelConfig):
    """Settings of a toy."""

    dim: int = 8


class Toy(nn.Module, TrainableModel):
    """Matrix factorization by logistic loss."""

    def __init__(self, config, train, features):
        super().__init__()
        self.users = nn.Parameter(torch.randn(train.n_users, config.dim) / 10)
        self.items = nn.Parameter(torch.randn(train.n_items, config.dim) / 10)

    def scorer(self):
        return dot_scorer(self.users.detach(), self.items.detach())

    def loss(self, batch, rng):
        u = F.embedding(batch.users, self.users)
        i, j = F.embedding(batch.positives, self.items), F.embedding(batch.negatives, self.items)
        return {"logistic": F.softplus((u * (j - i)).sum(dim=1)).mean()}


SPEC = ModelSpec("toy", Toy, ToyConfig, "a toy", search_space={"dim": (4, 8)})


@pytest.fixture
def offered(monkeypatch):
    """The toy as an installed package offers it."""

    def offer(value, name="toy"):
        points = [EntryPoint(name, value, "gtcrec.models")]
        monkeypatch.setattr("gtcrec.models.registry.entry_points", lambda group: points)

    monkeypatch.setitem(sys.modules, "toy_package", sys.modules[__name__])
    return offer


def test_a_line_of_the_registry_adds_a_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_package", sys.modules[__name__])
    monkeypatch.setitem(models.registry.MODELS, "toy", ("toy_package", "one line"))
    assert models.list_models()["toy"] == "one line"
    assert models.get_spec("toy") == replace(SPEC, summary="one line")


def test_a_models_line_shows_it_in_the_list_the_readme_and_the_docs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "toy_package", sys.modules[__name__])
    monkeypatch.setitem(models.registry.MODELS, "toy", ("toy_package", "one line"))
    assert execute(["models"]) == 0
    assert "toy         one line" in capsys.readouterr().out
    reference = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "reference.py"))
    assert "| `toy` | one line |" in reference["models_table"]()
    assert "### toy\n\nOne line.\n\n| key | default | range | meaning |" in reference["settings_page"]()


def test_an_entry_point_adds_a_model(offered):
    offered("toy_package:SPEC")
    assert list(models.list_models())[-1] == "toy"
    assert models.get_spec("toy") is SPEC
    assert models.make_config("toy", {"dim": 4}).dim == 4


def test_a_toy_model_passes_the_checks():
    check_model(SPEC)


def test_a_failed_check_says_which_and_what():
    with pytest.raises(AssertionError, match=r"^toy: learns a checkerboard: expected an AUC near 0\.5 .*, found 1\."):
        check_model(replace(SPEC, personalized=False))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_package:SPEC", "No module named 'no_such_package'"),
        ("toy_package:NOTHING", "has no attribute 'NOTHING'"),
        ("toy_package:Toy", "expected a ModelSpec, found the class Toy"),
    ],
)
def test_an_entry_point_that_is_no_model_is_refused_by_name(value, said, offered):
    offered(value)
    with pytest.raises(ConfigError, match=f"the entry point toy = '{value}' of gtcrec.models.*{said}"):
        models.get_spec("toy")


def test_an_entry_point_does_not_replace_a_model(offered):
    offered("toy_package:SPEC", "bpr")
    assert models.get_spec("bpr").name == "bpr"
    assert list(models.list_models()).count("bpr") == 1


def test_specs_agree_with_the_registry():
    for name in models.list_models():
        spec = models.get_spec(name)
        assert (spec.name, spec.summary) == (name, models.list_models()[name])
        assert "default" in spec.presets


def test_models_are_listed_without_torch():
    program = "import sys, gtcrec.models as m; m.list_models(); print({'torch', 'numpy', 'pydantic'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
