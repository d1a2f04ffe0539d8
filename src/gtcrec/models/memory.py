"""What a model takes of memory, from its settings and the sizes of its data, before anything of it is allocated.

The parts are counted from what the models hold; `tests/models/test_memory_estimate.py` compares their sum with the
measured peak of each model. The constants of what passes, `_STEP_VIEWS` and those beside it, are measured.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydantic import BaseModel
    from scipy.sparse import csr_array

    from gtcrec.models.base import ModelSpec
    from gtcrec.types import Interactions, ItemFeatures

__all__ = ["MemoryEstimate", "estimate_memory"]

_FLOAT = 4
_PAIR = 8  # bytes of an entry of a sparse matrix: an int32 and a float32
_ROWS = 64  # of a sparse product, by which its entries are estimated
_SEARCH_ROWS = 1024  # rows of a block of the search for near content
_SOLVED_AT_ONCE = 1 << 21  # numbers of a block of least squares
_WIDE = 1024  # numbers of a content that LGMRec spreads over the graph once

# Matrices [n_users + n_items, embedding_dim] that a step or the scores hold beside the weights.
_STEP_VIEWS = {"bpr": 1, "vbpr": 2, "simgcl": 8, "mgcn": 14, "smore": 8}
_MATRIX_VIEWS = 4  # of other models that go over the graph
# Matrices [batch, batch] of the contrast of a batch's users with each other, and its items.
_CONTRASTS = {"simgcl": 2, "mgcn": 6, "smore": 4}
# Of pairs that have something in common: their weights and their transpose, or powers of them, in float64 while made.
_PAIR_COPIES = {"itemknn": 2, "rp3beta": 2, "mmgf": 3}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes beyond the data: of the model itself, of its training, and of what passes.

    Parameters
    ----------
    model
        Weights, graphs and copies of content, as long as the model lives.
    training
        Gradients, Adam's two moments and the best weights so far.
    passing
        The most that building it, a step or its scores take besides.
    weights
        How many numbers are trained, within a few.
    """

    model: int
    training: int
    passing: int
    weights: int

    @property
    def total(self) -> int:
        return self.model + self.training + self.passing


def estimate_memory(
    spec: "ModelSpec",
    config: "BaseModel",
    train: "Interactions",
    features: "ItemFeatures",
    batch_size: int = 2048,
) -> MemoryEstimate:
    """Estimate what a model takes of memory.

    Parameters
    ----------
    spec, config
        The model and its settings.
    train
        Training interactions, [n_users, n_items].
    features
        Content of the n_items items.
    batch_size
        Pairs of a step.

    Returns
    -------
    MemoryEstimate
        Of a model that gtcrec does not know, of its vectors alone.

    Examples
    --------
    >>> from gtcrec.models import get_spec, make_config
    >>> from gtcrec.types import Interactions, ItemFeatures
    >>> pairs = Interactions(np.arange(1000), np.arange(1000), n_users=1000, n_items=1000)
    >>> estimate_memory(get_spec("ease"), make_config("ease", {}), pairs, ItemFeatures(1000)).model
    4000000
    """
    sizes = _Sizes(spec, config, train, features, batch_size)
    trained = spec.is_trained
    weights = sizes.weights() if trained else 0
    kept = _FLOAT * weights * sizes.keeps_best
    held = kept + _FLOAT * (weights or sizes.vectors()) + sizes.items_by_items() + sizes.graphs() + sizes.content()
    pairs = sizes.pairs()
    passing = max(sizes.building(), sizes.step() if trained else 0, sizes.scores()) + 4 * pairs
    return MemoryEstimate(int(held + pairs), _FLOAT * 4 * weights + kept, int(passing), weights)


@dataclass(frozen=True)
class _Sizes:
    """The sizes that the parts of an estimate are counted from."""

    spec: "ModelSpec"
    config: Any
    train: "Interactions"
    features: "ItemFeatures"
    batch_size: int

    def of(self, name: str, otherwise: Any = 0) -> Any:
        """Return a setting, or what stands for it in a model that has none of this name."""
        return getattr(self.config, name, otherwise)

    @property
    def nodes(self) -> int:
        return self.train.n_users + self.train.n_items

    @property
    def blended(self) -> bool:
        """Whether the model is a GTC of several parts."""
        return self.spec.name == "gtc" and bool(self.of("blend") != "none")

    @property
    def has_history(self) -> bool:
        """Whether a network of masked diffusion is one of the parts."""
        return self.blended and bool(self.of("history_weight"))

    @property
    def keeps_best(self) -> bool:
        """Whether each part of the model keeps its best weights so far, which the best weights of all have as well."""
        return self.blended and bool(self.of("blend") == "validation")

    @property
    def is_linear(self) -> bool:
        """Whether items are regressed on each other, pulled by content."""
        return self.spec.name == "l3ae" or (self.blended and bool(self.of("linear_weight")))

    @property
    def widths(self) -> list[int]:
        """Numbers of an item's content by modality; none of a model that reads no content."""
        return [x.shape[1] for x in self.features.values.values()] if self.spec.uses_content else []

    @property
    def matrix(self) -> int:
        """Bytes of [n_users + n_items, embedding_dim]."""
        return _FLOAT * self.vectors()

    def vectors(self) -> int:
        """Numbers of all users' and items' embeddings."""
        return int(self.nodes * self.of("embedding_dim"))

    def weights(self) -> int:
        """How many numbers a model trains."""
        dim, wide, name = self.of("embedding_dim"), sum(self.widths), self.spec.name
        found = self.vectors() + wide * dim
        if self.has_history:
            width, hidden = dim + sum(self._directions("history_content_dim")), self.of("history_hidden_dim")
            found += self.train.n_items * (2 * dim + 1) + width**2 + 2 * hidden * (width + 1) + width
        if name == "vbpr":
            groups = 1 if self.of("content_projection") == "joined" else len(self.widths)
            found += self.train.n_users * groups * self.of("content_dim")
        if name == "diffmm":
            found += 2 * len(self.widths) * self.of("hidden_dim") * self.train.n_items
        if self.of("train_content", False):
            found += self.train.n_items * wide
        return int(found)

    def items_by_items(self) -> int:
        """Bytes of a whole matrix of items x items."""
        whole = hasattr(self.config, "max_items") and self.of("candidates", "all") == "all"
        return _FLOAT * self.train.n_items**2 if whole else 0

    def graphs(self) -> int:
        """Bytes of the graphs of users and items, and of items alike, both with their transposes."""
        n = self.of("num_item_neighbors") * self.train.n_items if self.widths else 0
        found = 2 * _PAIR * n * max(len(self.widths), 1) if self.spec.is_trained else _PAIR * n
        found += 2 * _PAIR * self.train.n_users * self.of("num_user_neighbors") if self.spec.name == "gtc" else 0
        if hasattr(self.config, "num_layers"):
            found += 2 * _PAIR * len(self.train) + _FLOAT * self.nodes * 2
        return int(found)

    def content(self) -> int:
        """Bytes of copies of content, and of what is computed from it and held."""
        copies = 1 if self.of("content_scaling", "raw") == "standardized" else 0
        found = (copies + (self.spec.name == "vbpr")) * _FLOAT * self.train.n_items * sum(self.widths)
        if self.spec.name == "lgmrec":
            found += _FLOAT * self.nodes * sum(w for w in self.widths if w <= _WIDE)
        if self.has_history:
            wide = sum(self._directions("history_content_dim"))
            found += _FLOAT * self.train.n_items * wide + _PAIR * len(self.train)
        if self.spec.name == "gtc":
            copies = 1 + (self.blended and bool(self.of("interest_weight")))  # each part has its own
            found += copies * _FLOAT * (2 * self.train.n_users + self.train.n_items) * sum(self._directions())
        return int(found)

    def _directions(self, setting: str = "content_dim") -> list[int]:
        return [min(self.of(setting), width, self.train.n_items) for width in self.widths]

    def pairs(self) -> int:
        """Bytes of sparse matrices of items or users that have something in common, as they are held."""
        name = self.spec.name
        if name == "userknn":
            found = min(_entries_of_square(self.train.matrix()), self.train.n_users * self.of("num_neighbors"))
        elif name in ("itemknn", "rp3beta", "mmgf", "contentknn"):
            kept = {"itemknn": "num_neighbors", "contentknn": "num_interaction_neighbors"}.get(name, "num_neighbors")
            most = self.of(kept) or self.train.n_items
            found = min(_entries_of_square(self.train.matrix().T.tocsr()), self.train.n_items * most)
            found += self.train.n_items * self.of("num_neighbors") if name == "contentknn" else 0
        elif self.is_linear and self.of("candidates", "local") == "local":
            found = self.train.n_items * (self.of("num_candidates") or self.of("linear_candidates"))
        else:
            return 0
        return int(_PAIR * found * _PAIR_COPIES.get(name, 1))

    def building(self) -> int:
        """Bytes that pass while a model is built."""
        found = 0
        if self.widths and (self.of("num_item_neighbors") or self.is_linear or self.spec.name == "contentknn"):
            widest = sum(self.widths) if self.is_linear or self.spec.name == "contentknn" else max(self.widths)
            approximate = self.of("neighbor_search", "exact") == "approximate"
            block = 0 if approximate or self.spec.name == "l3ae" else min(_SEARCH_ROWS, self.train.n_items)
            found = 3 * _FLOAT * self.train.n_items * (widest + block)
            found += self.index(widest) if approximate else 0
        if self.spec.name == "lgmrec" and self.widths:
            found = _FLOAT * self.nodes * max(self.widths)
        if self.spec.name == "ials" or self.of("init") == "als":
            found += 4 * _FLOAT * _SOLVED_AT_ONCE + 2 * _PAIR * len(self.train) + self.matrix
        if self.spec.name == "ease" or self.is_linear:
            found += 4 * 2 * _PAIR * len(self.train)
        return int(found)

    def index(self, width: int) -> int:
        """Bytes of an index by which near content is found."""
        from gtcrec.ops.ann import estimate_index

        return estimate_index(self.train.n_items, width)

    def step(self) -> int:
        """Bytes that pass in a step of training."""
        name, batch = self.spec.name, min(self.batch_size, max(len(self.train), 1))
        views = _STEP_VIEWS.get(name, _MATRIX_VIEWS)
        found = views * self.matrix + _FLOAT * batch * (12 * self.of("embedding_dim") + 3 * sum(self.widths))
        found += 24 * len(self.train)  # the order of the pairs, and the places of a user's negatives
        found += _CONTRASTS.get(name, 0) * _FLOAT * batch**2
        if self.has_history:
            items = min(self.of("history_items"), self.train.n_items)
            found += 5 * _FLOAT * items * min(self.of("history_users"), self.train.n_users)
        if name == "diffmm":
            m, users = len(self.widths), self.train.n_users
            rows = min(self.of("denoising_batch_size"), math.ceil(batch * users / max(len(self.train), 1)))
            found += _FLOAT * self.train.n_items * ((1 + 6 * m) * rows + 2 * min(_SEARCH_ROWS, users))
        return int(found)

    def scores(self) -> int:
        """Bytes of the vectors whose inner products are the scores, and of a block of scores."""
        wide = self.of("embedding_dim") + sum(2 * width + 1 for width in self._directions() if self.of("content_dim"))
        return int(_FLOAT * self.nodes * wide * (2 if self.spec.name == "gtc" else 1)) + (1 << 22)


def _entries_of_square(rows: "csr_array") -> int:
    """Estimate how many entries `rows` [n, m] times its transpose has, from some of its rows, of all lengths."""
    n = rows.shape[0]
    if not n:
        return 0
    some = min(_ROWS, n)
    chosen = np.argsort(np.diff(rows.indptr), kind="stable")[((np.arange(some) + 0.5) * n / some).astype(int)]
    columns = rows.T.tocsr()
    return int(sum((rows[[row]] @ columns).nnz for row in chosen) * n / len(chosen))
