"""DiffMM: for each modality, users' interactions are diffused and rebuilt, and the rebuilt ones make a graph.

After "DiffMM: Multi-Modal Diffusion Model for Recommendation" (Jiang et al. 2024, arXiv 2406.11781), and as its authors
publish it.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.models.base import CONTENT_SCALING, EMBEDDING_DIM, ContentModelConfig, ModelSpec
from gtcrec.models.embeddings import xavier_embeddings
from gtcrec.models.modalities import register_content
from gtcrec.models.multimodal._diffmm_denoiser import InteractionDiffusion, RowDenoiser, denoise, noise_betas, rebuild
from gtcrec.models.multimodal._diffmm_graphs import bipartite_with_loops, generated_graph
from gtcrec.ops import graph, losses
from gtcrec.ops.scorers import dot_scorer
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "DiffMM", "DiffMMConfig"]


class DiffMMConfig(ContentModelConfig):
    """Settings of DiffMM; the defaults are those of the published code, but for `hidden_dim`.

    Its denoisers are 1,000 wide, at which an epoch takes a CPU more than twice as long. So wide are they in the preset
    `published`, and in `tiktok`, `baby` and `sports`, which are its commands for these data.
    """

    removed_settings: ClassVar[Mapping[str, Any]] = {"generation_steps": 1}

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(1, ge=0, description="hops over the user-item graph")
    projection: Literal["leaky_relu", "linear"] = Field(
        "leaky_relu", description="of contents: leaky_relu(W x), or W x + b"
    )
    hidden_dim: int = Field(256, ge=1, description="width of the denoisers")
    diffusion_steps: int = Field(5, ge=1, description="T: noise levels")
    noise_scale: float = Field(0.1, gt=0, le=1, description="s: of the noise at all levels")
    noise_min: float = Field(1e-4, gt=0, lt=1, description="noise at the first level, before the scale")
    noise_max: float = Field(0.02, gt=0, lt=1, description="noise at the last level, before the scale")
    denoiser_dropout: float = Field(0.5, ge=0, lt=1, description="share of a noised row that training leaves out")
    denoising_batch_size: int = Field(1024, ge=1, description="users whose interactions a step diffuses, at most")
    num_generated_items: int = Field(1, ge=1, description="k: items that each user keeps of those rebuilt")
    edge_dropout: float = Field(
        0.5, ge=0, lt=1, description="share of the generated graphs' edges that an epoch leaves out"
    )
    generated_graph_weight: float = Field(0.2, ge=0, description="of the generated graphs beside the observed one")
    residual_weight: float = Field(0.5, ge=0, description="omega: of the modal embeddings after propagation")
    injection_weight: float = Field(0.1, ge=0, description="lambda_0: of the modality-aware signal injection")
    contrast_views: Literal["modalities", "main"] = Field(
        "modalities", description="of the modalities' embeddings with each other, or of each with the final ones"
    )
    contrast_weight: float = Field(1e-2, ge=0, description="lambda_1: of the contrast")
    temperature: float = Field(0.5, gt=0, description="tau of the contrast")
    reg: float = Field(1e-5, ge=0, description="lambda_2: of the squared norm of all embeddings")
    max_memory_gib: float = Field(8.0, gt=0, description="the most that denoisers, their training and rows may take")

    @model_validator(mode="after")
    def _noise_grows(self) -> "DiffMMConfig":
        if self.noise_max < self.noise_min:
            raise ValueError(f"noise_max must be at least noise_min={self.noise_min:g}, found {self.noise_max:g}")
        return self


@dataclass(frozen=True)
class _FinalVectors:
    """z [n_users + n_items, dim] = sums + omega norm(y)."""

    sums: Tensor
    y: Tensor
    omega: float

    def at(self, rows: Tensor) -> Tensor:
        """Return z [b, dim] of rows int64 [b]."""
        return F.embedding(rows, self.sums) + self.omega * F.normalize(F.embedding(rows, self.y), dim=1)

    def whole(self) -> Tensor:
        """Return z of all rows."""
        return self.sums + self.omega * F.normalize(self.y, dim=1)


class DiffMM(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i>, z = sum_l A^l y + omega norm(y), y = sum_m kappa_m y_m, kappa = softmax over modalities.

    A is the user-item graph G with self-loops, D^-1/2 (G + I) D^-1/2. f_m = leaky(W_m x_m) are the items' contents, and
    e the embeddings of the identity: y_m = A [e_u; norm f_m] + A [(A [e_u; norm f_m])_u; e_i] + lambda A_m [e_u; e_i].
    A_m is the generated graph, with self-loops too. It joins a user with the `num_generated_items` items that the
    user's interactions, diffused and denoised by the modality's network, hold the most of. A share `edge_dropout` of
    its entries is left out, each direction of an edge by itself; the rest is scaled up. Scores use what is left.

    The denoisers' loss: a user's row x_0 (0 or 1 per item) becomes x_t = a_t x_0 + s_t eps, from which the network
    predicts x_0. `diffusion` is w_t |x_0' - x_0|^2, `injection` lambda_0 |x_0' f_m - x_0 e_i|^2 with f_m not
    normalised. Both are means over entries, summed over modalities, and move the networks alone.
    The contrast is over v_m = sum_l A^l A_m [e_u; norm f_m], from one modality to another or from z to each
    (`contrast_views`). One way, a batch's users are found among all users, and its positives among all items. `reg` is
    lambda_2 |e|^2 of all embeddings, divided by nothing.

    `refresh` rebuilds the rows by the posterior's mean, takes the graphs from them and draws which edges are left out.
    Graphs, and the seed of the next draw, are part of the saved weights. Before the first `refresh` the graphs are
    those that the weights give, and whole.

    Scores, terms and gradients are those of the published code; what differs is when things happen. There, an epoch
    begins with the denoisers: one pass over all users, 1,024 a step, with an optimiser of their own. Next the graphs
    are generated, and the recommender's steps come last.

    - Here denoisers learn in the recommender's steps, on users drawn from all of them. A step takes as large a share of
      the users as it has of the pairs. So an epoch denoises as many rows as there, in more and smaller steps.
    - The embeddings that the injection aims at move during that pass.
    - An epoch's graphs come from the denoisers at its start, which in the first epoch are untrained.
    - BPR is the mean of the batch also where an epoch's last batch is smaller.
    - The level enters a denoiser through one linear map, which is the product of the published two.
    - Of a pair of modalities, the one whose name sorts first is the anchor.

    Beyond it: without content there is no y_m, and y is e. f_m of an item that lacks m is 0, and the item is neither
    anchor nor candidate in m's contrast.
    """

    loops: Tensor
    chosen: Tensor
    edge_scales: Tensor
    next_draw: Tensor

    def __init__(self, config: DiffMMConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = register_content(self, features)
        n_users, n_items = self.sizes = [train.n_users, train.n_items]
        self._need_memory()
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        r, loops = bipartite_with_loops(train)
        self.r = graph.SparseMatrix(r)
        self.register_buffer("loops", loops, persistent=False)  # [n_users + n_items, 1]
        if not self.keys:
            return
        self.users_per_pair = n_users / max(len(train), 1)
        betas = noise_betas(config.diffusion_steps, config.noise_scale, config.noise_min, config.noise_max)
        self.process = InteractionDiffusion(betas)
        m, k = len(self.keys), min(config.num_generated_items, n_items)
        self.register_buffer("chosen", torch.full((m, n_users, k), -1))  # -1: none generated yet
        self.register_buffer("edge_scales", torch.ones(m, 2 * n_users * k + n_users + n_items))
        self.register_buffer("next_draw", torch.randint(_SEEDS, ()))
        self.register_load_state_dict_pre_hook(_add_missing_draws)  # type: ignore[no-untyped-call]
        self.mix = nn.Parameter(torch.zeros(m))
        self.projections, self.denoisers = nn.ModuleDict(), nn.ModuleDict()
        linear = config.projection == "linear"
        for name, key in self.keys.items():
            layer = nn.Linear(features.values[name].shape[1], config.embedding_dim, bias=linear)
            if not linear:
                nn.init.xavier_uniform_(layer.weight)
            self.projections[key] = layer
            self.denoisers[key] = RowDenoiser(n_items, config.hidden_dim)

    def _need_memory(self) -> None:
        """Raise `ConfigError` if the denoisers, with gradients and Adam's state, and a step's rows pass the limit."""
        config, m, (n_users, n_items) = self.config, len(self.keys), self.sizes
        denoised, rebuilt = (min(most, n_users) for most in (config.denoising_batch_size, _ROWS))
        rows = max((1 + 6 * m) * denoised, 2 * rebuilt) if m else 0  # [rows, n_items]
        need = 4 * n_items * (4 * m * 2 * config.hidden_dim + rows) / 2**30
        if need > config.max_memory_gib:
            raise ConfigError(
                f"diffmm: {m} denoisers of hidden_dim={config.hidden_dim} for {n_items} items and their rows need "
                f"{need:.3g} GiB, max_memory_gib allows {config.max_memory_gib:g}; lower hidden_dim or "
                "denoising_batch_size, or raise it"
            )

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        z = self._final_vectors(self._project_contents(), self._generated_graphs())
        users, items = torch.split(z.whole(), self.sizes)
        return users, items

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    @torch.no_grad()
    def refresh(self) -> None:
        """Generate the modalities' graphs from the weights, and draw their edges; training calls it before an epoch."""
        if not self.keys:
            return
        self.chosen.copy_(self._generate_items())
        rng = torch.Generator().manual_seed(int(self.next_draw))
        self.next_draw.copy_(torch.randint(_SEEDS, (), generator=rng))
        dropout = self.config.edge_dropout
        self.edge_scales.copy_((torch.rand(self.edge_scales.shape, generator=rng) >= dropout) / (1 - dropout))

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        config, f, graphs = self.config, self._project_contents(), self._generated_graphs()
        z = self._final_vectors(f, graphs)
        u, i, j = z.at(torch.cat([batch.users, *(len(self.users) + side for side in batch[1:])])).chunk(3)
        terms = {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": config.reg * (self.users.square().sum() + self.items.square().sum()),
        }
        if self.keys:
            n = min(config.denoising_batch_size, math.ceil(len(batch.users) * self.users_per_pair))
            terms |= self.denoising_loss(torch.randperm(len(self.users), generator=rng)[:n].to(u.device), rng)
            if config.contrast_weight > 0 and (config.contrast_views == "main" or len(self.keys) > 1):
                terms["contrast"] = config.contrast_weight * self._contrast_views(batch, z, f, graphs)
        return terms

    def denoising_loss(self, users: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the denoisers' terms `diffusion` and `injection` on the rows of users int64 [b].

        Each modality draws levels and noise of its own. Contents and embeddings get no gradient.
        """
        config, x0 = self.config, self._interaction_rows(users).to_dense()  # [b, n_items]
        with torch.no_grad():
            f, target = self._project_contents(), x0 @ self.items  # [b, dim]
        rebuilt, injected = [], []
        for denoiser, content in zip(self._each_denoiser(), f, strict=True):
            clean, weights = denoise(self.process, denoiser, x0, config.denoiser_dropout, rng)
            rebuilt.append((weights * (clean - x0).square().mean(dim=1)).mean())
            injected.append((clean @ content - target).square().mean())
        return {
            "diffusion": torch.stack(rebuilt).sum(),
            "injection": config.injection_weight * torch.stack(injected).sum(),
        }

    def _project_contents(self) -> list[Tensor]:
        """f_m of each modality, [n_items, dim]."""
        found = []
        for key, projection in self.projections.items() if self.keys else ():
            with torch.autocast(self.items.device.type, enabled=False):
                f = projection(getattr(self, f"x_{key}"))
                f = F.leaky_relu(f, 0.2) if self.config.projection == "leaky_relu" else f
                found.append(f * getattr(self, f"present_{key}")[:, None])
        return found

    def _generated_graphs(self) -> list[tuple[Tensor, Tensor]]:
        """A_m of each modality and its transpose."""
        if not self.keys:
            return []
        chosen = self.chosen if self.chosen[0, 0, 0] >= 0 else self._generate_items()
        return [generated_graph(*one, len(self.items)) for one in zip(chosen, self.edge_scales, strict=True)]

    def _final_vectors(self, f: list[Tensor], graphs: list[tuple[Tensor, Tensor]]) -> _FinalVectors:
        """z of users and items; sum_m kappa_m y_m in as few products as its linearity allows."""
        y = e = torch.cat([self.users, self.items])
        if self.keys:
            kappa = self.mix.softmax(dim=0)
            mean = sum(k * F.normalize(one, dim=1) for k, one in zip(kappa, f, strict=True))  # [n_items, dim]
            neighborhood = self.r(mean) + self.loops[: len(self.users)] * self.users  # (A [e_u; f])_u
            y = self._propagate(torch.cat([self.users + neighborhood, mean + self.items]))
            for k, (a, at) in zip(self.config.generated_graph_weight * kappa, graphs, strict=True):
                y = y + k * graph.product(e, a, at)
        return _FinalVectors(self._sum_of_hops(y), y, self.config.residual_weight)

    def _propagate(self, x: Tensor) -> Tensor:
        """A x."""
        users, items = torch.split(x, self.sizes)
        return torch.cat([self.r(items), self.r.transposed(users)]) + self.loops * x

    def _sum_of_hops(self, y: Tensor) -> Tensor:
        """sum_l A^l y, by Horner's rule."""
        total = y
        for _ in range(self.config.num_layers):
            total = y + self._propagate(total)
        return total

    def _contrast_views(
        self, batch: Batch, z: _FinalVectors, f: list[Tensor], graphs: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """The batch's users among all users, and its positives among all items: from v_m to v_m', or from z to v_m."""
        inputs = [torch.cat([self.users, F.normalize(one, dim=1)]) for one in f]
        views = [self._sum_of_hops(graph.product(x, *a)) for a, x in zip(graphs, inputs, strict=True)]
        everyone = torch.ones(len(self.users), dtype=torch.bool, device=z.y.device)
        total = []
        for side, ids in enumerate((batch.users, batch.positives)):
            own, counts = torch.unique(ids, return_counts=True)  # a repeated anchor is computed once
            has = [getattr(self, f"present_{key}") if side else everyone for key in self.keys.values()]
            parts = [(torch.split(one, self.sizes)[side], some) for one, some in zip(views, has, strict=True)]
            pairs = [((F.embedding(own, v), some[own]), other) for (v, some), other in itertools.combinations(parts, 2)]
            if self.config.contrast_views == "main":
                main = z.at(own + side * len(self.users)), torch.ones_like(own, dtype=torch.bool)
                pairs = [(main, other) for other in parts]
            for (anchors, anchored), (candidates, some) in pairs:
                among = counts * (anchored & some[own])
                weights = among / among.sum().clamp(min=1)  # of the mean; nothing is contrasted where all are 0
                total.append(self._tell_from_all(anchors, candidates, own, weights, some))
        return torch.stack(total).sum()

    def _tell_from_all(self, anchors: Tensor, candidates: Tensor, own: Tensor, weights: Tensor, some: Tensor) -> Tensor:
        """sum_r w_r -ln softmax_j(cos(a_r, c_j) / tau) at j = own(r), over the candidates of which there are `some`."""
        with torch.autocast(anchors.device.type, enabled=False):  # exponentials want float32
            a = F.normalize(anchors.float(), dim=1) / self.config.temperature
            c = F.normalize(candidates.float(), dim=1)
            return losses.log_sum_exp(a, c, weights, some) - torch.dot((a * F.embedding(own, c)).sum(dim=1), weights)

    @torch.no_grad()
    def rebuild_rows(self, modality: int, users: Tensor) -> Tensor:
        """Return the rows [b, n_items] of users int64 [b] as the denoiser of one of the modalities rebuilds them."""
        denoiser = list(self._each_denoiser())[modality]
        entered = graph.times(self._interaction_rows(users), denoiser.enter.weight.T)  # [b, hidden]
        return rebuild(self.process, denoiser, entered)

    @torch.no_grad()
    def _generate_items(self) -> Tensor:
        """The items that each modality's rebuilt rows hold the most of, int64 [M, n_users, k], in blocks of users."""
        found = torch.empty_like(self.chosen)
        for users in torch.split(torch.arange(len(self.users), device=self.users.device), _ROWS):
            for m, chosen in enumerate(found):
                chosen[users] = self.rebuild_rows(m, users).topk(self.chosen.shape[2], dim=1).indices
        return found

    def _each_denoiser(self) -> Iterator[RowDenoiser]:
        for one in self.denoisers.values():
            assert isinstance(one, RowDenoiser)
            yield one

    def _interaction_rows(self, users: Tensor) -> Tensor:
        """Which items users int64 [b] have, 0 or 1, torch CSR [b, n_items]."""
        counts, entries = self.r.entries(users)
        ones = torch.ones(len(entries), device=users.device)
        return graph.csr(counts, self.r.a_columns[entries], ones, (len(users), self.r.shape[1]))


def _add_missing_draws(model: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let weights that were saved by version 0.1 have whole generated graphs, as they had there."""
    weights.setdefault(prefix + "edge_scales", torch.ones_like(model.get_buffer("edge_scales")))
    weights.setdefault(prefix + "next_draw", model.get_buffer("next_draw"))


_ROWS = 1024  # users at once when rows are rebuilt
_SEEDS = 2**62
_PUBLISHED_TRAINING = {"batch_size": 1024, "epochs": 50}

SPEC = ModelSpec(
    name="diffmm",
    model=DiffMM,
    config=DiffMMConfig,
    paper="Jiang et al. 2024, arXiv 2406.11781",
    presets={
        "default": ({}, {}),
        "published": ({"hidden_dim": 1000}, _PUBLISHED_TRAINING),
        "tiktok": (
            {"hidden_dim": 1000, "projection": "linear", "contrast_views": "main", "reg": 1e-4},
            _PUBLISHED_TRAINING,
        ),
        "baby": (
            {"hidden_dim": 1000, "edge_dropout": 0.0, "injection_weight": 0.01, "contrast_weight": 0.1},
            _PUBLISHED_TRAINING,
        ),
        "sports": (
            {
                "hidden_dim": 1000,
                "projection": "linear",
                "edge_dropout": 0.0,
                "residual_weight": 0.1,
                "injection_weight": 0.5,
                "temperature": 0.1,
                "reg": 1e-6,
            },
            _PUBLISHED_TRAINING,
        ),
    },
    search_space={
        "embedding_dim": EMBEDDING_DIM,
        "content_scaling": CONTENT_SCALING,
        "train.learning_rate": (5e-4, 1e-3, 2e-3, 5e-3),
        "num_layers": (1, 2, 3),
        "residual_weight": (0.1, 0.5, 1.0),
        "generated_graph_weight": (0.1, 0.2, 0.5),
        "injection_weight": (0.01, 0.1, 0.5),
        "contrast_views": ("modalities", "main"),
        "contrast_weight": (1e-3, 1e-2, 1e-1, 1.0),
        "temperature": (0.1, 0.2, 0.5, 1.0),
        "reg": (1e-6, 1e-5, 1e-4),
    },
    small={"embedding_dim": 8, "hidden_dim": 16},
)
