"""SimGCL: LightGCN whose embeddings are also told from others' under two draws of noise.

After "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation" (Yu et al. 2022,
arXiv 2112.08679).
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import Space
from gtcrec.ops import graph, losses
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["SPACE", "SimGCL", "SimGCLConfig"]


class SimGCLConfig(BaseModel):
    """Settings of SimGCL; the paper's, but for those that it tunes per data set.

    These are `layers` and `contrast_weight`, chosen on the validation part of `baby`. There, 1,024 `contrasted` users
    and items of a batch of 2,048 pairs find as much as all, and a step takes two thirds of the time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=1, description="length of the embeddings")
    layers: int = Field(2, ge=1, description="hops of propagation")
    noise: float = Field(0.1, ge=0, description="epsilon: length of the noise that is added after each hop")
    temperature: float = Field(0.2, ge=0.03, description="tau of the contrast")
    contrasted: int = Field(1024, ge=0, description="users, and items, in a step's contrast at most; 0: all (paper)")
    contrast_weight: float = Field(0.05, ge=0, description="lambda: of the contrast")
    reg: float = Field(1e-4, ge=0, description="weight of the L2 term on the unpropagated embeddings")


SPACE: Space = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
    "layers": (1, 2, 3),
    "noise": (0.05, 0.1, 0.2),
    "contrast_weight": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "reg": (1e-5, 1e-4, 1e-3, 1e-2),
}

_Sides = tuple[Tensor, Tensor]  # of users and of items, [n, dim] each


class SimGCL(nn.Module):
    """s(u, i) = <z_u, z_i>, z the mean of an embedding's hops 1 to L; the embedding itself is left out.

    The loss adds to BPR lambda (contrast of users + contrast of items): InfoNCE of the cosines of two noisy z of the
    batch's distinct users and liked items. After each hop, a node's vector e gets noise of length epsilon in e's
    orthant, U(0, 1) * sign(e) before scaling (section 3).

    Differs from the paper: the contrast is a mean over the batch, as BPR is, not a sum.
    """

    def __init__(self, config: SimGCLConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))
        self.r = graph.SparseMatrix(graph.bipartite(train))

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        return _mean(self._hops())

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        hops = self._hops()
        users, items = _mean(hops)
        u, i, j = gather_batch(batch, users, items)
        terms = {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.config.reg * losses.squared_norm(*gather_batch(batch, self.users, self.items)),
        }
        if self.config.contrast_weight > 0:
            asked = self._some(batch.users, rng), self._some(batch.positives, rng)
            first, second = (self._noise(hops, asked, rng) for _ in range(2))
            z = _rows((users, items), asked)
            contrasts = [
                _contrast(own + one, own + other, self.config.temperature)
                for own, one, other in zip(z, first, second, strict=True)
            ]
            terms["contrast"] = self.config.contrast_weight * torch.stack(contrasts).sum()
        return terms

    def _some(self, nodes: Tensor, rng: torch.Generator) -> Tensor:
        """Distinct nodes int64 [a] of a batch's, drawn if there are more than may be contrasted."""
        found: Tensor = torch.unique(nodes)
        if not 0 < self.config.contrasted < len(found):
            return found
        order = torch.randperm(len(found), generator=rng, device=rng.device).to(found.device)
        return found[order[: self.config.contrasted]]

    def _hops(self) -> list[_Sides]:
        """Users [n_users, dim] and items [n_items, dim] after 1 to L hops."""
        users: Tensor = self.users
        items: Tensor = self.items
        hops: list[_Sides] = []
        for _ in range(self.config.layers):
            users, items = self.r(items), self.r.transposed(users)
            hops.append((users, items))
        return hops

    @torch.no_grad()
    def _noise(self, hops: Sequence[_Sides], asked: _Sides, rng: torch.Generator) -> _Sides:
        """What noise after each hop adds to the mean of the hops, for the asked users and items, [a, dim] each.

        A hop is linear and noise has no gradient, so noise travels apart from the vectors: a noisy z is the plain z
        plus this, and all z share one backward pass. Noise after the last hop reaches nobody else.
        """
        here, noise = [], (torch.zeros_like(hops[0][0]), torch.zeros_like(hops[0][1]))
        for hop in hops[:-1]:
            noise = self._added(noise, hop, rng)
            here.append(_rows(noise, asked))
            noise = self.r(noise[1]), self.r.transposed(noise[0])
        here.append(self._added(_rows(noise, asked), _rows(hops[-1], asked), rng))
        return _mean(here)

    def _added(self, noise: _Sides, hop: _Sides, rng: torch.Generator) -> _Sides:
        """The noise with more of length epsilon for each vector, whose signs are those of the noisy vector."""
        longer = []
        for some, plain in zip(noise, hop, strict=True):
            more = torch.rand(plain.shape, generator=rng, device=rng.device).to(plain.device)
            more *= self.config.noise / more.norm(dim=1, keepdim=True).clamp(min=1e-12)
            longer.append(some + more.copysign(plain + some))
        return longer[0], longer[1]


def _rows(sides: _Sides, asked: _Sides) -> _Sides:
    return F.embedding(asked[0], sides[0]), F.embedding(asked[1], sides[1])


def _mean(hops: Sequence[_Sides]) -> _Sides:
    users, items = (torch.stack(side).mean(dim=0) if len(side) > 1 else side[0] for side in zip(*hops, strict=True))
    return users, items


def _contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over rows i of -ln (exp(cos(a_i, b_i) / tau) / sum_j exp(cos(a_i, b_j) / tau)), a, b [n, dim]."""
    with torch.autocast(first.device.type, enabled=False):  # exponentials want float32
        a, b = F.normalize(first.float()) / temperature, F.normalize(second.float())
        most = a.new_tensor(1 / temperature)  # of the logits: no cosine is above 1, so nothing overflows
        above = torch.addmm(-most, a, b.T).exp().sum(dim=1).log()  # [n]
        return (above + most - (a * b).sum(dim=1)).mean()
