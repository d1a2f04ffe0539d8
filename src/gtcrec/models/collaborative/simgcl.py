"""SimGCL: LightGCN that also distinguishes embeddings from others' under two draws of noise.

After "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation" (Yu et al. 2022,
arXiv 2112.08679).
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import EMBEDDING_DIM, ModelConfig, ModelSpec
from gtcrec.models.embeddings import xavier_embeddings
from gtcrec.ops import graph, losses
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "SimGCL", "SimGCLConfig"]


class SimGCLConfig(ModelConfig):
    """Settings of SimGCL; the paper's, but for those that it tunes per data set.

    These are `num_layers` and `contrast_weight`, chosen on the validation part of `baby`. A `contrast_batch_size` of
    1,024 of a batch of 2,048 pairs found as much there as 0, and a step takes two thirds of the time.
    """

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(2, ge=1, description="hops of propagation")
    noise: float = Field(0.1, ge=0, description="epsilon: length of the noise that is added after each hop")
    temperature: float = Field(0.2, ge=0.03, description="tau of the contrast")
    contrast_batch_size: int = Field(0, ge=0, description="most users, and items, in a step's contrast; 0: all (paper)")
    contrast_weight: float = Field(0.05, ge=0, description="lambda: of the contrast")
    reg: float = Field(1e-4, ge=0, description="weight of the L2 term on the propagated embeddings")


_Sides = tuple[Tensor, Tensor]  # of users and of items, [n, dim] each


class SimGCL(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i>, z the mean of an embedding's hops 1 to L; the embedding itself is left out.

    The loss adds to BPR lambda (contrast of users + contrast of items): InfoNCE of the cosines of two noisy z of the
    batch's distinct users and positive items. After each hop, a node's vector e gets noise of length epsilon in e's
    orthant, U(0, 1) * sign(e) before scaling (section 3).

    The L2 term is that of the authors' PyTorch code: the norms of the batch's propagated users and positive items, over
    the batch's size. So is the contrast, a mean over the batch; the paper has a sum.
    """

    def __init__(self, config: SimGCLConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.r = graph.SparseMatrix(graph.bipartite(train))

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        return _mean_of_hops(self._propagate_hops())

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        hops = self._propagate_hops()
        users, items = _mean_of_hops(hops)
        u, i, j = gather_batch(batch, users, items)
        terms = {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.config.reg * losses.summed_norm(u, i),
        }
        if self.config.contrast_weight > 0:
            nodes = self._sample_distinct(batch.users, rng), self._sample_distinct(batch.positives, rng)
            first, second = (self._propagate_noise(hops, nodes, rng) for _ in range(2))
            z = _gather_rows((users, items), nodes)
            contrasts = [
                losses.cosine_info_nce(own + one, own + other, self.config.temperature)
                for own, one, other in zip(z, first, second, strict=True)
            ]
            terms["contrast"] = self.config.contrast_weight * torch.stack(contrasts).sum()
        return terms

    def _sample_distinct(self, nodes: Tensor, rng: torch.Generator) -> Tensor:
        """Distinct nodes int64 [a] of a batch's, drawn if there are more than may be contrasted."""
        found: Tensor = torch.unique(nodes)
        if not 0 < self.config.contrast_batch_size < len(found):
            return found
        order = torch.randperm(len(found), generator=rng, device=rng.device).to(found.device)
        return found[order[: self.config.contrast_batch_size]]

    def _propagate_hops(self) -> list[_Sides]:
        """Users [n_users, dim] and items [n_items, dim] after 1 to L hops."""
        users: Tensor = self.users
        items: Tensor = self.items
        hops: list[_Sides] = []
        for _ in range(self.config.num_layers):
            users, items = self.r(items), self.r.transposed(users)
            hops.append((users, items))
        return hops

    @torch.no_grad()
    def _propagate_noise(self, hops: Sequence[_Sides], nodes: _Sides, rng: torch.Generator) -> _Sides:
        """What noise after each hop adds to the mean of the hops, for some users and items, [a, dim] each.

        A hop is linear and noise has no gradient, so noise travels apart from the vectors: a noisy z is the plain z
        plus this, and all z share one backward pass. Noise after the last hop reaches nobody else.
        """
        here, noise = [], (torch.zeros_like(hops[0][0]), torch.zeros_like(hops[0][1]))
        for hop in hops[:-1]:
            noise = self._add_noise(noise, hop, rng)
            here.append(_gather_rows(noise, nodes))
            noise = self.r(noise[1]), self.r.transposed(noise[0])
        here.append(self._add_noise(_gather_rows(noise, nodes), _gather_rows(hops[-1], nodes), rng))
        return _mean_of_hops(here)

    def _add_noise(self, noise: _Sides, hop: _Sides, rng: torch.Generator) -> _Sides:
        """The noise with more of length epsilon for each vector, whose signs are those of the noisy vector."""
        longer = []
        for some, plain in zip(noise, hop, strict=True):
            more = torch.rand(plain.shape, generator=rng, device=rng.device).to(plain.device)
            more *= self.config.noise / more.norm(dim=1, keepdim=True).clamp(min=1e-12)
            longer.append(some + more.copysign(plain + some))
        return longer[0], longer[1]


def _gather_rows(sides: _Sides, nodes: _Sides) -> _Sides:
    return F.embedding(nodes[0], sides[0]), F.embedding(nodes[1], sides[1])


def _mean_of_hops(hops: Sequence[_Sides]) -> _Sides:
    users, items = (torch.stack(side).mean(dim=0) if len(side) > 1 else side[0] for side in zip(*hops, strict=True))
    return users, items


SPEC = ModelSpec(
    name="simgcl",
    model=SimGCL,
    config=SimGCLConfig,
    uses_content=False,
    paper="Yu et al. 2022, arXiv 2112.08679",
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (1, 2, 3),
        "noise": (0.05, 0.1, 0.2),
        "contrast_weight": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        "reg": (1e-5, 1e-4, 1e-3, 1e-2),
    },
    small={"embedding_dim": 8},
)
