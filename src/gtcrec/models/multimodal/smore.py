"""SMORE: contents filtered and fused in the frequency domain, spread over item graphs, and weighed by behaviour.

After "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal Recommendation"
(Ong & Khong 2025, arXiv 2412.14978).
"""

import torch
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.models.embeddings import UserItemVectors, xavier_embeddings
from gtcrec.models.modalities import linear_of, register_content
from gtcrec.ops import graph, losses
from gtcrec.ops import neighbors as similarity
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SMORE", "SPEC", "SMOREConfig"]


class SMOREConfig(ModelConfig):
    """Settings of SMORE; of those that its authors publish for three data sets, the most frequent."""

    embedding_dim: int = Field(64, ge=2, description="length of the embeddings")
    num_layers: int = Field(3, ge=0, description="hops over the user-item graph")
    num_item_layers: int = Field(1, ge=1, description="hops over the item graphs")
    num_item_neighbors: int = Field(10, ge=1, description="nearest items per item and modality, itself among them")
    temperature: float = Field(0.2, gt=0, description="tau of the contrast")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the behaviour gates that a step leaves out")
    contrast_weight: float = Field(0.01, ge=0, description="lambda_1: of the contrast")
    reg: float = Field(1e-4, ge=0, description="lambda_2: of the L2 term on the scored vectors")
    train_content: bool = Field(False, description="train the raw content too, as the published code does")


class SMORE(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i>, z = e + side, e LightGCN's embedding and side what content adds.

    Spectrum: with F the Fourier transform of a content's vector and * the complex product, c_m = F^-1(w_m * F(W_m x_m +
    b_m)) for each modality m, and c_f = F^-1(w_f * prod_m F(W_m x_m + b_m)) for their fusion f; w are learned.
    Item graphs: h_m = S_m^L (e_i . sigmoid(c_m)) of the gated unpropagated e_i; S_m is `similarity.cosine_graph`, S_f
    the largest of all S_m entry by entry; a user's h is R h, R the user-item graph.
    Preference: side = mean of g_m . a_m . h_m over m, and g_f . h_f; a_m = softmax(query_m(h_f)) over the entries,
    g = sigmoid(W e + b). The loss adds to BPR InfoNCE(side -> e) of the batch's users and of its positive items, and
    the L2 term of the scored rows. As in the published code a user or item that stands twice in the batch stands twice
    among its anchors and among its others.

    An item that lacks a modality leaves the product of the spectra to the others (1 is its neutral element) and has no
    place in S_m; without any it has no part in the contrast. Any number of modalities are multiplied and compared in
    this way. Content x is as it was given, or trained; item graphs are of the given one. Gates and queries look at the
    rows that are asked for alone. Differs from the published code: an entry of S is never below 0, where the root of a
    negative sum would be none.
    """

    def __init__(self, config: SMOREConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = register_content(self, features, config.train_content)
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        if not self.keys:
            return
        dim, each = config.embedding_dim, self.keys.values()
        graphs = {}
        for m, key in self.keys.items():
            x, present = features.values[m], features.present[m]
            graphs[key] = similarity.cosine_graph(x, present, config.num_item_neighbors)
        self.projections = nn.ModuleDict({k: nn.Linear(getattr(self, f"x_{k}").shape[1], dim) for k in each})
        self.queries = nn.ModuleDict(
            {k: nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim, bias=False)) for k in each}
        )
        self.all = [*each, "fused"]  # no modality's key is that: those start with a number
        self.filters = nn.ParameterDict({k: nn.Parameter(torch.randn(dim // 2 + 1, 2)) for k in self.all})
        self.content_gates = nn.ModuleDict({k: nn.Linear(dim, dim) for k in self.all})
        self.behaviour_gates = nn.ModuleDict({k: nn.Linear(dim, dim) for k in self.all})
        graphs["fused"] = _entrywise_maximum(list(graphs.values()))
        self.graphs = nn.ModuleDict({k: graph.SparseMatrix(graphs[k]) for k in self.all})

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        e = self._behavior_vectors()
        if not self.keys:
            return e
        h = self._propagate_content()
        users, items = (one + self._content_part(one, content, None) for one, content in zip(e, h, strict=True))
        return users, items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config, e, pairs = self.config, self._behavior_vectors(), len(batch.users)
        items = torch.cat(batch[1:])
        u, ij = F.embedding(batch.users, e.users), F.embedding(items, e.items)
        contrast = {}
        if self.keys:
            h = self._propagate_content(batch.users)
            side_u = self._content_part(u, h.users, rng)
            side_ij = self._content_part(ij, F.embedding(items, h.items), rng)
            if config.contrast_weight > 0:
                of_items = self._contrast_views(side_ij[:pairs], ij[:pairs])
                contrast["contrast"] = config.contrast_weight * (self._contrast_views(side_u, u) + of_items)
            u, ij = u + side_u, ij + side_ij
        i, j = ij.chunk(2)
        bpr = losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1))
        return {"bpr": bpr, **contrast, "reg": config.reg * losses.squared_norm(u, i, j)}

    def _behavior_vectors(self) -> UserItemVectors:
        return UserItemVectors(*graph.light_propagation(self.r, self.users, self.items, self.config.num_layers))

    def _propagate_content(self, users: Tensor | None = None) -> UserItemVectors:
        """The modalities' h and the fused one, side by side, [n, (M + 1) dim]: of `users` or all, and of all items."""
        h = []
        for key, gate in self._content_gates().items():
            one = self.items * torch.sigmoid(gate)
            for _ in range(self.config.num_item_layers):
                one = self.graphs[key](one)  # absent items are in no row and no column
            h.append(one)
        items = torch.cat(h, dim=1)
        return UserItemVectors(self.r(items) if users is None else self.r.rows(users, items), items)

    def _content_gates(self) -> dict[str, Tensor]:
        """The content gates of each modality and of their fusion before the sigmoid, [n_items, dim].

        But for the product of the spectra all of it is linear in x: transforms, filters and gates are applied to the
        few rows of the projections, not to the items.
        """
        found, fused = {}, None
        with torch.autocast(self.items.device.type, enabled=False):  # Fourier transforms know no bfloat16
            for key in self.keys.values():
                x, has = getattr(self, f"x_{key}"), getattr(self, f"present_{key}")
                projection = linear_of(key, self.projections)
                spectrum = torch.fft.rfft(torch.cat([projection.weight.T, projection.bias[None]]), norm="ortho")
                found[key] = self._apply_content_gate(key, spectrum, x)
                spectra = _affine_map(x, torch.view_as_real(spectrum).flatten(1))
                spectra = torch.where(has[:, None], torch.view_as_complex(spectra.view(len(spectra), -1, 2)), 1.0)
                fused = spectra if fused is None else fused * spectra  # [n_items, dim / 2 + 1]
            assert fused is not None
            flat = torch.view_as_real(fused).flatten(1)  # [n_items, p]
            p = flat.shape[1]
            each = torch.view_as_complex(torch.eye(p + 1, p, device=flat.device).view(p + 1, -1, 2))
            # Its columns are the spectrum's parts; no constant.
            found["fused"] = self._apply_content_gate("fused", each, flat)
        return found

    def _apply_content_gate(self, key: str, spectrum: Tensor, x: Tensor) -> Tensor:
        """A content gate before the sigmoid for x [n, d] from the spectra of its d columns and of the constant."""
        gate = linear_of(key, self.content_gates)
        c = torch.fft.irfft(spectrum * self._filter(key), n=self.config.embedding_dim, norm="ortho")  # [d + 1, dim]
        return _affine_map(x, c @ gate.weight.T) + gate.bias

    def _filter(self, key: str) -> Tensor:
        return torch.view_as_complex(self.filters[key])

    def _content_part(self, e: Tensor, h: Tensor, rng: torch.Generator | None) -> Tensor:
        """What content adds to rows with behaviour e [b, dim] and contents h [b, (M + 1) dim]; dropout if `rng`."""
        *each, fused = h.chunk(len(self.all), dim=1)
        total = self._behavior_gate("fused", e, rng) * fused
        for key, one in zip(self.keys.values(), each, strict=True):
            total = total + self._behavior_gate(key, e, rng) * self.queries[key](fused).softmax(dim=1) * one
        return total / len(self.all)

    def _behavior_gate(self, key: str, e: Tensor, rng: torch.Generator | None) -> Tensor:
        gate = torch.sigmoid(self.behaviour_gates[key](e))
        if rng is not None and self.config.dropout > 0:
            kept = torch.rand(gate.shape, generator=rng) >= self.config.dropout
            gate = gate * (kept / (1 - self.config.dropout)).to(gate.device)
        return gate

    def _contrast_views(self, side: Tensor, e: Tensor) -> Tensor:
        """InfoNCE(side -> e) of rows [b, dim] of the batch; those without content, whose side is 0, have no part."""
        some = (side != 0).any(dim=1)
        with torch.autocast(side.device.type, enabled=False):  # exponentials want float32
            a, b = F.normalize(side.float(), dim=1) / self.config.temperature, F.normalize(e.float(), dim=1)
            own = torch.dot((a * b).sum(dim=1), some.float())
            return (losses.log_sum_exp(a, b, some, some) - own) / some.sum().clamp(min=1)


def _affine_map(x: Tensor, weights: Tensor) -> Tensor:
    """[x 1] W for x [n, d] and W [d + 1, k]."""
    return torch.addmm(weights[-1], x, weights[:-1])


def _entrywise_maximum(graphs: list[csr_array]) -> csr_array:
    largest = graphs[0]
    for one in graphs[1:]:
        largest = largest.maximum(one)
    return largest


SPEC = ModelSpec(
    name="smore",
    model=SMORE,
    config=SMOREConfig,
    paper="Ong & Khong 2025, arXiv 2412.14978",
    presets={"default": ({}, {"lr_decay": "exponential"})},
    search_space={
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (2, 3, 4),
        "num_item_neighbors": (10, 15, 20, 40),
        "dropout": (0.0, 0.1),
        "contrast_weight": (0.0, 0.01, 0.03, 0.1),
        "reg": (1e-5, 1e-4, 1e-3),
    },
    small={"embedding_dim": 8},
)
