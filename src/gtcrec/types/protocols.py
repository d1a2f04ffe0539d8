"""What a model offers, by ability."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from gtcrec.types.arrays import Floats, Ints
from gtcrec.types.data import Interactions, ItemFeatures

__all__ = ["AddsItems", "Batch", "FoldsIn", "Scorer", "ScoresNewItems", "ScoringModel", "SolvesItems", "TrainableModel"]

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_array

Scorer = Callable[["torch.Tensor"], "torch.Tensor"]
"""A frozen snapshot of a model: user indices int64 [b] -> scores float32 [b, n_items]."""


class Batch(NamedTuple):
    """One training step's triples, int64 [b] each: users, items they like, items they do not like."""

    users: "torch.Tensor"
    positives: "torch.Tensor"
    negatives: "torch.Tensor"


@runtime_checkable
class ScoringModel(Protocol):
    """What every model offers. Models that are trained by gradient add `loss(batch, rng)`."""

    def scorer(self) -> Scorer:
        """Return a snapshot of the model as it is now; later training does not change it."""
        ...


@runtime_checkable
class TrainableModel(Protocol):
    """What a model offers to be trained by gradient. It inherits this class, and overrides the hooks that it needs."""

    def scorer(self) -> Scorer:
        """Return a snapshot of the model as it is now; later training does not change it."""
        ...

    def loss(self, batch: "Batch", rng: "torch.Generator") -> "dict[str, torch.Tensor]":
        """Return the weighted loss terms of a batch by name; one named `log.…` is shown and not trained on."""
        ...

    def refresh(self) -> None:
        """Recompute from the weights what steps hold fixed; training calls it before an epoch."""
        return

    def evaluates_start(self) -> bool:
        """Whether the model is validated before the first epoch too, as epoch 0, which may be the best."""
        return False

    def calibrate(self, valid: Interactions) -> None:
        """Choose by held-out interactions what no gradient reaches; training calls it before a validation."""
        return

    def learning_rate_factors(self) -> "list[tuple[list[torch.nn.Parameter], float]]":
        """Return the parameters that are trained at another rate, and times what of `train.learning_rate`."""
        return []

    def sparse_parameters(self) -> "list[torch.nn.Parameter]":
        """Return the parameters whose gradients are row-sparse."""
        return []

    def sharded_tables(self) -> Sequence[Any]:
        """Return the `RowShardedEmbedding` over the sparse parameters, of which each worker holds its own rows."""
        return ()


@runtime_checkable
class FoldsIn(Protocol):
    """What models offer that can score users whom the training did not have."""

    def fold_in(self, history: "csr_array") -> "torch.Tensor":
        """Return the scores float32 [b, n_items] of users by their histories: binary [b, n_items]."""
        ...


@runtime_checkable
class AddsItems(Protocol):
    """What models offer that can score items which came after training, by their content."""

    def vectors(self) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Return user vectors [n_users, d] and item vectors [n_items, d] whose inner product is the score."""
        ...

    def add_items(self, features: ItemFeatures) -> "torch.Tensor":
        """Return the vectors [n, d] of new items from their content."""
        ...

    def new_users(self, history: "csr_array") -> "torch.Tensor":
        """Return the vectors [b, d] of new users from their histories, binary [b, n_items]."""
        ...


@runtime_checkable
class ScoresNewItems(Protocol):
    """What models offer whose score is no inner product, but who can score items which came after training."""

    def score_new_items(self, history: "csr_array", features: ItemFeatures) -> "torch.Tensor":
        """Return the scores [b, n] of new items from their content, by histories of known ones, binary [b, n_items]."""
        ...


@runtime_checkable
class SolvesItems(Protocol):
    """What models offer whose weights are solved for item by item, each on its own."""

    @property
    def n_items(self) -> int:
        """How many items there are to solve for; 0 when the model has its weights."""
        ...

    def solve_items(self, items: Ints) -> tuple[Ints, Floats]:
        """Return the items that items int64 [b] depend on, and the weights, [b, k] each."""
        ...

    def take_items(self, chosen: Ints, weights: Floats) -> None:
        """Take over what `solve_items` returned for all items, [n_items, k] each."""
        ...
