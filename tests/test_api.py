"""The public face: which names it has, what help says of them, and that importing it is cheap."""

import inspect
import subprocess
import sys

import pytest

import gtcrec

NAMES = {
    "Dataset", "GTC", "Interactions", "ItemFeatures", "Recommender", "Report", "Run", "Split",
    "benchmark", "compare", "evaluate", "load_dataset", "show_items", "split", "train", "tune",
    "data", "evaluation", "experiments", "losses", "models", "serving", "testing",
}  # fmt: skip
FUNCTIONS = ["benchmark", "compare", "evaluate", "load_dataset", "show_items", "split", "train", "tune"]
CLASSES = ["Dataset", "GTC", "Interactions", "ItemFeatures", "Recommender", "Report", "Run", "Split"]
VERBS = [
    "fit",
    "recommend",
    "score",
    "similar_items",
    "add_items",
    "explain",
    "save",
    "load",
    "get_params",
    "from_params",
]


def test_dir_shows_the_public_names_and_nothing_else():
    assert set(dir(gtcrec)) == NAMES
    assert all(getattr(gtcrec, name) is not None for name in NAMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No gtcrec attribute recommand"):
        gtcrec.recommand  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_of_a_function_has_parameters_returns_errors_and_an_example(name):
    doc = inspect.getdoc(getattr(gtcrec, name))
    assert [part for part in ("Parameters", "Returns", "Raises", "Examples") if f"{part}\n---" not in doc] == []


@pytest.mark.parametrize("name", CLASSES)
def test_help_of_a_class_has_parameters_and_an_example(name):
    doc = inspect.getdoc(getattr(gtcrec, name))
    assert [part for part in ("Parameters", "Examples") if f"{part}\n---" not in doc] == []


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_recommenders_verb_has_what_it_takes_returns_and_raises(name):
    doc = inspect.getdoc(getattr(gtcrec.Recommender, name))
    parts = ["Parameters", "Returns", "Examples"] + (["Raises"] if name != "get_params" else [])
    assert [part for part in parts if f"{part}\n---" not in doc] == []


def test_the_signature_of_gtc_lists_its_hyperparameters():
    parameters = inspect.signature(gtcrec.GTC).parameters
    assert {"preset", "seed", "embedding_dim", "num_layers", "alignment"} <= set(parameters)
    assert all(one.kind == one.KEYWORD_ONLY for one in parameters.values())


def test_the_package_and_its_list_of_models_load_without_torch():
    code = "import sys, gtcrec; gtcrec.models.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
