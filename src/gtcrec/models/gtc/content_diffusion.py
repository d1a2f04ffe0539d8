"""The content diffusion: what a diffusion of content, guided by a user's history, says of each item.

Method equations 31 and 32. Its densities are those of `embedding.interest_filter`, in closed form but for the interest
prototypes, which masked diffusion trains: an item of a history is hidden, and the rest guides the diffusion to it.
"""

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.gtc.embedding.interest_filter import InterestFilter
from gtcrec.models.gtc.item_draws import draw_items
from gtcrec.models.modalities import module_keys
from gtcrec.ops.fold_in import torch_csr
from gtcrec.runtime.process_group import SINGLE_PROCESS
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["ContentDiffusion"]

_MOST_ITEMS = 2048  # of a step's cross-entropy; of larger catalogues so many are drawn
_SETTINGS = {"filter": "trained", "alignment": "none", "attention_refinement": False, "pair_diffusion_weight": 0.0}


class ContentDiffusion(InterestFilter):
    """s(u, i) = sum_m g_m ln rho_um(y_im), rho the density of the user's content over that of all content.

    Both are of content at the noise level `noise_level`. An item that lacks a modality gets 0 from it.

    The loss is -ln p(i | u without i), p proportional to exp s: an item of the user's history is hidden, and the others
    say which of all items it is. It trains the interest prototypes and the weights g_m.
    """

    def __init__(
        self, config: GTCConfig, train: Interactions, features: ItemFeatures, fit_directions: bool = True
    ) -> None:
        own = config.model_copy(update=_SETTINGS)
        super().__init__(own, train, features, module_keys(features.names), SINGLE_PROCESS, False, fit_directions)
        self.n_users, self.n_items = train.n_users, train.n_items

    def blocks(self) -> list[tuple[str, int]]:
        """Return the name and width of each modality's block of the vectors."""
        return list(zip(self.keys, self.widths(), strict=True))

    def loss(self, users: Tensor, items: Tensor, rng: torch.Generator) -> Tensor:
        """Return the cross-entropy of at most `history_users` of the pairs of users and items, int64 [b] each."""
        chosen = torch.randperm(len(users), generator=rng)[: self.config.history_users].to(users.device)
        users, items = users[chosen], items[chosen]
        drawn, offset = draw_items(torch.unique(items.cpu()), self.n_items, _MOST_ITEMS, rng)
        drawn, scores = drawn.to(items.device), offset.to(items.device).expand(len(items), -1)
        own = torch.zeros(len(items), device=items.device)
        for m in self.keys:
            one = self[m]
            p, q, c = coefficients = one.score_coefficients(one.interest(users, left_out=items))
            y = F.embedding(drawn, one.y)
            scores = scores + p @ y.T + q @ y.square().T + c[:, None] * one.present[drawn].float()
            own = own + one.score(coefficients, items)
        return (scores.logsumexp(dim=1) - own).mean()

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return user vectors [n_users, widths] and item vectors [n_items, widths]: their products are s."""
        widths = self.widths()
        users, items = (torch.empty(n, sum(widths), device=self.device) for n in (self.n_users, self.n_items))
        self.fold(None, torch.split(users, widths, dim=1), torch.split(items, widths, dim=1))
        return users, items

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return the item vectors alone."""
        items = torch.empty(self.n_items, sum(self.widths()), device=self.device)
        self.fold_known_items(torch.split(items, self.widths(), dim=1))
        return items

    @torch.no_grad()
    def new_users(self, history: csr_array) -> Tensor:
        """Return the vectors [b, widths] of new users by their history, binary [b, n_items]."""
        return torch.cat(self.fold_users(torch_csr(history).to(self.device)), dim=1)

    @torch.no_grad()
    def add_items(self, features: ItemFeatures) -> Tensor:
        """Return the vectors [n, widths] of items by their content."""
        return self.fold_items(features)

    @property
    def device(self) -> torch.device:
        """Where the content lies."""
        return self[next(iter(self.keys))].y.device
