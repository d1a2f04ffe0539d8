"""gtcrec: multi-modal recommendation with user-aware diffusion filtering and total correlation.

The names below are loaded on first use, so that `import gtcrec` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtcrec.data import describe, load, split
    from gtcrec.evaluation.comparison import compare
    from gtcrec.experiments.config import RunConfig, resolve
    from gtcrec.experiments.run import RecommendedItem, Run, fit
    from gtcrec.types import Dataset, Interactions, ItemFeatures, Report, ScoringModel, Split, TopK

_PLACES = {
    "Dataset": "types",
    "Interactions": "types",
    "ItemFeatures": "types",
    "RecommendedItem": "experiments.run",
    "ScoringModel": "types",
    "Report": "types",
    "Run": "experiments.run",
    "RunConfig": "experiments.config",
    "Split": "types",
    "TopK": "types",
    "compare": "evaluation.comparison",
    "describe": "data",
    "fit": "experiments.run",
    "load": "data",
    "resolve": "experiments.config",
    "split": "data",
}

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Interactions",
    "ItemFeatures",
    "RecommendedItem",
    "Report",
    "Run",
    "RunConfig",
    "ScoringModel",
    "Split",
    "TopK",
    "compare",
    "describe",
    "fit",
    "load",
    "resolve",
    "split",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'gtcrec' has no attribute {name!r}")
    return getattr(import_module(f"gtcrec.{_PLACES[name]}"), name)
