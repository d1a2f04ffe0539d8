"""SMORE: contents filtered and fused in the frequency domain, spread over item graphs, and weighed by behaviour.

After "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal Recommendation"
(Ong & Khong 2025, arXiv 2412.14978).
"""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec import graph, losses
from gtcrec.models.names import module_keys
from gtcrec.models.spaces import Space
from gtcrec.models.vectors import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer

__all__ = ["SMORE", "SPACE", "SMOREConfig"]


class SMOREConfig(BaseModel):
    """Settings of SMORE; of those that its authors publish for three data sets, the most frequent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(64, ge=2, description="length of the embeddings")
    layers: int = Field(3, ge=0, description="hops over the user-item graph")
    item_layers: int = Field(1, ge=1, description="hops over the item graphs")
    item_neighbours: int = Field(10, ge=1, description="nearest items per item and modality, itself among them")
    temperature: float = Field(0.2, gt=0, description="tau of the contrast")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the behaviour gates that a step leaves out")
    contrast_weight: float = Field(0.01, ge=0, description="lambda_1: of the contrast")
    reg: float = Field(1e-4, ge=0, description="lambda_2: of the L2 term on the unpropagated embeddings")


SPACE: Space = {
    "train.learning_rate": (5e-4, 1e-3, 2e-3),
    "layers": (2, 3, 4),
    "item_neighbours": (10, 15, 20, 40),
    "dropout": (0.0, 0.1),
    "contrast_weight": (0.0, 0.01, 0.03, 0.1),
    "reg": (1e-5, 1e-4, 1e-3),
}


class _Sides(NamedTuple):
    users: Tensor
    items: Tensor


class SMORE(nn.Module):
    """s(u, i) = <z_u, z_i>, z = e + side, e LightGCN's embedding and side what content adds.

    Spectrum: with F the Fourier transform of a content's vector and * the complex product, c_m = F^-1(w_m * F(W_m x_m +
    b_m)) for each modality m, and c_f = F^-1(w_f * prod_m F(W_m x_m + b_m)) for their fusion f; w are learned.
    Item graphs: h_m = S_m^L (e_i . sigmoid(c_m)) of the gated unpropagated e_i; S_m is `graph.cosine_graph`, S_f the
    largest of all S_m entry by entry; a user's h is R h, R the user-item graph.
    Preference: side = mean of g_m . a_m . h_m over m, and g_f . h_f; a_m = softmax(query_m(h_f)) over the entries,
    g = sigmoid(W e + b). The loss adds to BPR the contrast of side and e, over the users and over the liked items.

    An item that lacks a modality leaves the product of the spectra to the others (1 is its neutral element) and has no
    place in S_m; without any it has no part in the contrast. Gates and queries look at the rows that are asked for
    alone. Differs from the paper: an entry of S is never below 0; the contrast goes both ways and is over a step's
    distinct rows; the learning rate does not fall.
    """

    def __init__(self, config: SMOREConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = module_keys(features.names)
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_items, config.dim)))
        self.r = graph.SparseMatrix(graph.bipartite(train))
        if not self.keys:
            return
        dim, each = config.dim, self.keys.values()
        graphs = {}
        for m, key in self.keys.items():
            x, present = features.values[m], features.present[m]
            self.register_buffer(f"x_{key}", torch.from_numpy(x), persistent=False)
            self.register_buffer(f"present_{key}", torch.from_numpy(present), persistent=False)
            graphs[key] = graph.cosine_graph(x, present, config.item_neighbours)
        self.projections = nn.ModuleDict({k: nn.Linear(getattr(self, f"x_{k}").shape[1], dim) for k in each})
        self.queries = nn.ModuleDict(
            {k: nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim, bias=False)) for k in each}
        )
        self.all = [*each, "fused"]  # no modality's key is that: those start with a number
        self.filters = nn.ParameterDict({k: nn.Parameter(torch.randn(dim // 2 + 1, 2)) for k in self.all})
        self.content_gates = nn.ModuleDict({k: nn.Linear(dim, dim) for k in self.all})
        self.behaviour_gates = nn.ModuleDict({k: nn.Linear(dim, dim) for k in self.all})
        graphs["fused"] = _largest(list(graphs.values()))
        self.graphs = nn.ModuleDict({k: graph.SparseMatrix(graphs[k]) for k in self.all})

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        e = self._behaviour()
        if not self.keys:
            return e
        h = self._content()
        users, items = (one + self._side(one, content, None) for one, content in zip(e, h, strict=True))
        return users, items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config, e = self.config, self._behaviour()
        u, i, j = F.embedding(batch.users, e.users), *(F.embedding(side, e.items) for side in batch[1:])
        contrast = {}
        if self.keys:
            h = self._content()
            side_u = self._side(u, F.embedding(batch.users, h.users), rng)
            side_i, side_j = (
                self._side(one, F.embedding(at, h.items), rng) for one, at in zip((i, j), batch[1:], strict=True)
            )
            if config.contrast_weight > 0:
                both = self._contrast(batch.users, u, side_u) + self._contrast(batch.positives, i, side_i)
                contrast["contrast"] = config.contrast_weight * both
            u, i, j = u + side_u, i + side_i, j + side_j
        plain = F.embedding(batch.users, self.users), *(F.embedding(side, self.items) for side in batch[1:])
        bpr = losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1))
        return {"bpr": bpr, **contrast, "reg": config.reg * losses.squared_norm(*plain)}

    def _behaviour(self) -> _Sides:
        return _Sides(*graph.light_propagation(self.r, self.users, self.items, self.config.layers))

    def _content(self) -> _Sides:
        """The modalities' h and the fused one, side by side: users and items [n, (M + 1) dim]."""
        h = []
        for key, c in self._filtered().items():
            one = self.items * torch.sigmoid(self.content_gates[key](c))
            for _ in range(self.config.item_layers):
                one = self.graphs[key](one)
            h.append(one)
        items = torch.cat(h, dim=1)
        return _Sides(self.r(items), items)

    def _filtered(self) -> dict[str, Tensor]:
        """c of each modality and of their fusion, [n_items, dim]."""
        dim, found, fused = self.config.dim, {}, None
        with torch.autocast(self.items.device.type, enabled=False):  # Fourier transforms know no bfloat16
            for key in self.keys.values():
                has = getattr(self, f"present_{key}")[:, None]
                spectrum = torch.fft.rfft(self.projections[key](getattr(self, f"x_{key}")), norm="ortho")
                found[key] = torch.fft.irfft(spectrum * self._filter(key), n=dim, norm="ortho") * has
                own = torch.where(has, spectrum, 1.0)
                fused = own if fused is None else fused * own  # [n_items, dim / 2 + 1]
            assert fused is not None
            some = torch.stack([getattr(self, f"present_{key}") for key in self.keys.values()]).any(dim=0)
            found["fused"] = torch.fft.irfft(fused * self._filter("fused"), n=dim, norm="ortho") * some[:, None]
        return found

    def _filter(self, key: str) -> Tensor:
        return torch.view_as_complex(self.filters[key])

    def _side(self, e: Tensor, h: Tensor, rng: torch.Generator | None) -> Tensor:
        """What content adds to rows with behaviour e [b, dim] and contents h [b, (M + 1) dim]; dropout if `rng`."""
        *each, fused = h.chunk(len(self.all), dim=1)
        total = self._gate("fused", e, rng) * fused
        for key, one in zip(self.keys.values(), each, strict=True):
            total = total + self._gate(key, e, rng) * self.queries[key](fused).softmax(dim=1) * one
        return total / len(self.all)

    def _gate(self, key: str, e: Tensor, rng: torch.Generator | None) -> Tensor:
        gate = torch.sigmoid(self.behaviour_gates[key](e))
        if rng is not None and self.config.dropout > 0:
            kept = torch.rand(gate.shape, generator=rng) >= self.config.dropout
            gate = gate * (kept / (1 - self.config.dropout)).to(gate.device)
        return gate

    def _contrast(self, rows: Tensor, e: Tensor, side: Tensor) -> Tensor:
        """InfoNCE of e and side [b, dim], over the distinct rows with content; each by its first place in the batch."""
        views = [F.normalize(one[_first(rows)], dim=1) for one in (e, side)]
        some = (views[1] != 0).any(dim=1)
        return losses.pairwise(views, e.new_tensor(1 / self.config.temperature), [torch.ones_like(some), some])


def _largest(graphs: list[csr_array]) -> csr_array:
    largest = graphs[0]
    for one in graphs[1:]:
        largest = largest.maximum(one)
    return largest


def _first(rows: Tensor) -> Tensor:
    """The first place of each distinct row."""
    distinct, which = torch.unique(rows, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    return torch.zeros_like(distinct).scatter_reduce_(0, which, places, "amin", include_self=False)
