"""gtcrec: multi-modal recommendation with user-aware diffusion filtering and total correlation.

The names below are loaded on first use, so that `import gtcrec` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtcrec.config import RunConfig, resolve
    from gtcrec.data import describe, load, split
    from gtcrec.evaluate import compare
    from gtcrec.run import Recommendation, Run, fit
    from gtcrec.types import Dataset, Interactions, ItemFeatures, Recommender, Report, Split, TopK

_PLACES = {
    "Dataset": "types",
    "Interactions": "types",
    "ItemFeatures": "types",
    "Recommendation": "run",
    "Recommender": "types",
    "Report": "types",
    "Run": "run",
    "RunConfig": "config",
    "Split": "types",
    "TopK": "types",
    "compare": "evaluate",
    "describe": "data",
    "fit": "run",
    "load": "data",
    "resolve": "config",
    "split": "data",
}

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Interactions",
    "ItemFeatures",
    "Recommendation",
    "Recommender",
    "Report",
    "Run",
    "RunConfig",
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
