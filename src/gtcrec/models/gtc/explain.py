"""What each modality does in the scores of one user: its weight, its part, and what the filter keeps of content."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["ContentView", "ExplainableModel", "ExplainsContent", "FilteredContent", "SumsParts"]


class FilteredContent(NamedTuple):
    """One modality of n items before and after the filter, for one user."""

    mix: Tensor  # [K] pi_u: the user's prototypes
    content: Tensor  # [n, d] y or h, before the filter
    filtered: Tensor  # [n, d]
    matters: Tensor | None  # [n, d]; None where the filter itself depends on the user


@dataclass(frozen=True, eq=False)
class ContentView:
    """One modality of n items in the scores of one user, from the current weights.

    With condition `user_history` the filter is the same for everyone, and `matters` says what of the content counts for
    the user: (1 - s_u^2) y, s_u^2 the spread of what the user looks for, in each direction. With other conditions the
    filter itself depends on the user, `filtered` = sum_k pi_uk D(h | p_k, c_i), and `matters` is None.
    """

    modality: str
    weight: float  # w_um
    mix: Tensor  # [K], and the rest, as in `FilteredContent`
    parts: Tensor  # [n] w_um s_m(u, i)
    present: Tensor  # [n] bool
    content: Tensor
    filtered: Tensor
    matters: Tensor | None

    @property
    def kept(self) -> Tensor:
        """What the user keeps of the content, [n, d]."""
        return self.filtered if self.matters is None else self.matters


@runtime_checkable
class ExplainsContent(Protocol):
    """What a model offers that says what a user keeps of items' content."""

    def explain_content(self, user: int, items: Tensor) -> list[ContentView]:
        """Return each modality of `items` int64 [n] in the scores of `user`."""
        ...


@runtime_checkable
class SumsParts(ExplainsContent, Protocol):
    """What a model offers whose score is a sum of named parts."""

    def score_parts(self, user: int, items: Tensor) -> dict[str, Tensor]:
        """Return the summands [n] of the scores of `items` int64 [n], by name."""
        ...

    def linear_shares(self, user: int, items: Tensor) -> Tensor:
        """Return what each item of the user's history, ascending, adds to the scores of `items`, [n, history]."""
        ...


@runtime_checkable
class ExplainableModel(ExplainsContent, Protocol):
    """What a model offers whose score is a sum over the views of an item."""

    @property
    def reranks(self) -> bool:
        """Whether the scorer orders a user's best items once more, by scores that are not this sum."""
        ...

    def pair_scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores [b] of pairs, views summed one by one."""
        ...
