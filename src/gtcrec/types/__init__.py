"""The values that travel between the parts. Users and items are integers from 0 here; a `Vocabulary` has their ids.

Nothing in this package needs torch.
"""

from gtcrec.types.arrays import Floats, Ints, Masks
from gtcrec.types.data import Dataset, Interactions, ItemFeatures, ItemMetadata, Split, Vocabulary
from gtcrec.types.protocols import (
    AddsItems,
    Batch,
    FoldsIn,
    Scorer,
    ScoresNewItems,
    ScoringModel,
    SolvesItems,
    TrainableModel,
)
from gtcrec.types.results import Report, ReportContext, TopK

__all__ = [
    "AddsItems",
    "Batch",
    "Dataset",
    "Floats",
    "FoldsIn",
    "Interactions",
    "Ints",
    "ItemFeatures",
    "ItemMetadata",
    "Masks",
    "Report",
    "ReportContext",
    "Scorer",
    "ScoresNewItems",
    "ScoringModel",
    "SolvesItems",
    "Split",
    "TopK",
    "TrainableModel",
    "Vocabulary",
]
