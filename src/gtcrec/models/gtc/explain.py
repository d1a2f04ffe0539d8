"""What each modality does in the scores that GTC gives one user: its weight, its part, and what was kept of content."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gtcrec.models.gtc.interest_filter import InterestFilter
from gtcrec.models.gtc.latent_filter import LatentFilter
from gtcrec.models.gtc.model import GTC

__all__ = ["ContentView", "content_views"]


@dataclass(frozen=True, eq=False)
class ContentView:
    """One modality of n items as one user meets it, from the weights as they are.

    With condition `liked` the filter is the same for everyone, and `matters` says what of the content counts for the
    user: (1 - s_u^2) y, s_u^2 the spread of what the user looks for, in each direction. With the other conditions the
    filter itself depends on the user, `filtered` = sum_k pi_uk D(h | p_k, c_i), and `matters` is None.
    """

    modality: str
    weight: float  # w_um
    mix: Tensor  # [K] pi_u: the user's prototypes
    parts: Tensor  # [n] w_um s_m(u, i)
    present: Tensor  # [n] bool
    content: Tensor  # [n, d] y or h, before the filter
    filtered: Tensor  # [n, d]
    matters: Tensor | None  # [n, d]

    @property
    def kept(self) -> Tensor:
        """What the user keeps of the content, [n, d]."""
        return self.filtered if self.matters is None else self.matters


@torch.no_grad()
def content_views(model: GTC, user: int, items: Tensor) -> list[ContentView]:
    """Return each modality of `items` int64 [n], n > 0, as user `user` meets it; none for a model without content.

    Scores are those of each pair, computed without the folded vectors.
    """
    content = model.content
    if content is None:
        return []
    items = items.to(model.views.users.device)
    users = torch.full_like(items, user)
    rows: Any = content.exact(model.views.exact(users, items), users, items)  # each content side's own
    scores = content.scores(rows, users, torch.arange(len(items), device=items.device))
    weights = model.view_weights(model.weights[user : user + 1])  # [1] each
    kept = _liked(content, users[:1], items) if isinstance(content, InterestFilter) else _projected(content, rows)
    each = zip(model.keys, weights, scores, content.present(items), kept, strict=True)
    return [ContentView(m, float(w), mix, w * s, has, *rest) for m, w, s, has, (mix, *rest) in each]


def _liked(content: InterestFilter, user: Tensor, items: Tensor) -> Iterator[tuple[Any, ...]]:
    """Mix, content, filtered content and what of it matters to user [1], for each modality."""
    for m in content.keys:
        one = content[m]
        interest, y = one.interest(user), F.embedding(items, one.y)
        matters = y if content.config.filter == "off" else (1 - interest.spread) * y  # s is 1 without a filter
        yield interest.mix[0], y, one.filtered(items), matters


def _projected(content: LatentFilter, rows: Any) -> Iterator[tuple[Any, ...]]:
    """The same where the filter depends on the user."""
    for m in content.keys:
        yield rows.mix[0], rows.content[m], torch.einsum("nk,nkd->nd", rows.mix, rows.filtered[m]), None
