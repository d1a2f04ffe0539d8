"""DiffMM: for each modality, users' interactions are diffused and rebuilt, and the rebuilt ones make a graph.

After "DiffMM: Multi-Modal Diffusion Model for Recommendation" (Jiang et al. 2024, arXiv 2406.11781).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.models.base import ModelConfig, ModelSpec
from gtcrec.models.embeddings import UserItemVectors, xavier_embeddings
from gtcrec.models.modalities import register_content
from gtcrec.ops import diffusion, graph, losses
from gtcrec.ops.feature_transforms import unit_rows
from gtcrec.ops.scorers import dot_scorer, gather_batch
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["SPEC", "DiffMM", "DiffMMConfig", "RowDenoiser", "interaction_schedule", "step_weights"]


class DiffMMConfig(ModelConfig):
    """Settings of DiffMM; those of the published code, but for what keeps an epoch cheap on a CPU.

    These are `hidden_dim` and `generation_steps`, which the preset `published` has, and `denoising_batch_size`: the
    published code trains the denoisers on all users once an epoch.
    """

    embedding_dim: int = Field(64, ge=1, description="length of the embeddings")
    num_layers: int = Field(1, ge=0, description="hops over the user-item graph")
    hidden_dim: int = Field(256, ge=1, description="width of the denoisers")
    diffusion_steps: int = Field(5, ge=1, description="T: noise levels")
    noise_scale: float = Field(0.1, gt=0, le=1, description="s: of the noise at all levels")
    noise_min: float = Field(1e-4, gt=0, lt=1, description="noise at the first level, before the scale")
    noise_max: float = Field(0.02, gt=0, lt=1, description="noise at the last level, before the scale")
    denoising_batch_size: int = Field(128, ge=1, description="users whose interactions a step diffuses, at most")
    generation_steps: int = Field(1, ge=1, description="DDIM steps from the last level when interactions are rebuilt")
    num_generated_items: int = Field(1, ge=1, description="k: items that each user keeps of those rebuilt")
    generated_graph_weight: float = Field(0.2, ge=0, description="of the generated graphs beside the observed one")
    residual_weight: float = Field(0.5, ge=0, description="omega: of the modal embeddings after propagation")
    injection_weight: float = Field(0.1, ge=0, description="lambda_0: of the modality-aware signal injection")
    contrast_views: Literal["modalities", "main"] = Field(
        "modalities", description="of the modalities' embeddings with each other, or of each with the final ones"
    )
    contrast_weight: float = Field(1e-2, ge=0, description="lambda_1: of the contrast")
    temperature: float = Field(0.5, gt=0, description="tau of the contrast")
    reg: float = Field(1e-5, ge=0, description="lambda_2: of the L2 term on the unpropagated embeddings")
    max_memory_gib: float = Field(8.0, gt=0, description="the most that denoisers, their training and rows may take")

    @model_validator(mode="after")
    def _levels_fit(self) -> "DiffMMConfig":
        if self.noise_max < self.noise_min:
            raise ValueError(f"noise_max must be at least noise_min={self.noise_min:g}, found {self.noise_max:g}")
        if self.generation_steps > self.diffusion_steps:
            raise ValueError(
                f"generation_steps must be at most diffusion_steps={self.diffusion_steps}, "
                f"found {self.generation_steps}"
            )
        return self


@dataclass(frozen=True, eq=False)
class _FinalVectors:
    """z = sums + omega norm(y)."""

    sums: UserItemVectors
    y: UserItemVectors
    omega: float

    def at(self, side: int, rows: Tensor | None = None) -> Tensor:
        """Return z of users (side 0) or items (side 1): of all, or of those at `rows`."""
        sums, y = (one[side] if rows is None else F.embedding(rows, one[side]) for one in (self.sums, self.y))
        return sums + self.omega * F.normalize(y, dim=1)


class RowDenoiser(nn.Module):
    """Predicts interactions x_0 from x_t [b, n_items] and the level: one hidden layer with tanh, as in the paper."""

    def __init__(self, n_items: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n_items, hidden)
        self.level = nn.Linear(2 * _WAVES, hidden, bias=False)
        self.leave = nn.Linear(hidden, n_items)
        for linear in (self.enter, self.level, self.leave):
            nn.init.xavier_normal_(linear.weight)

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        """Return x_0 [b, n_items]; t is int64 [b], or [1] for all rows."""
        return self.decode(F.linear(xt, self.enter.weight), t)

    def decode(self, entered: Tensor, t: Tensor) -> Tensor:
        """Return x_0 [b, n_items] from W x_t [b, hidden], W the first layer's weights."""
        angles = t[:, None] * torch.exp(-torch.arange(_WAVES, device=t.device) * (_SLOWEST / _WAVES))
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        found: Tensor = self.leave(torch.tanh(entered + (self.level(waves) + self.enter.bias)))
        return found


class DiffMM(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i>, z = sum_l A^l y + omega norm(y), A the user-item graph, y = sum_m kappa_m y_m.

    f_m = norm(leaky(W_m x_m)) are the items' contents and e the embeddings of the identity;
    y_m = A [e_u; f_m] + A [(A [e_u; f_m])_u; e_i] + lambda A_m [e_u; e_i], kappa = softmax over modalities.
    A_m is the generated graph: the `num_generated_items` items that a user's interactions, diffused and denoised by the
    modality's network, hold the most of. A user's row x_0 (0 or 1 per item) becomes x_t = a_t x_0 + s_t eps, and the
    network predicts x_0; its loss is w_t |x_0' - x_0|^2 + lambda_0 |x_0' f_m - x_0 e_i|^2 (signal injection), as means
    over the entries, with w_t of `step_weights`. It moves the network alone. The contrast is over
    v_m = sum_l A^l A_m [e_u; f_m] of the modalities, or of each of them and z (`contrast_views`).

    `refresh` generates the graphs, without randomness: DDIM from the last level, on which x_0 is placed without noise.
    They are part of the saved weights: scores use those of the last `refresh`, or if there has been none yet, those
    that the weights give.

    Without content there is no y_m, and y is e. f_m of an item that lacks m is 0, and it has no part in m's contrast.
    Differs from the paper: denoisers learn in the steps of the rest, each on up to `denoising_batch_size` of its own
    users; rows are rebuilt in `generation_steps` of DDIM, not in T of the posterior's mean; the contrast is over a
    step's distinct users and items, not over all, and goes both ways.
    """

    chosen: Tensor
    weights: Tensor

    def __init__(self, config: DiffMMConfig, train: Interactions, features: ItemFeatures) -> None:
        super().__init__()
        self.config = config
        self.keys = register_content(self, features)
        self._need_memory(train.n_items)
        self.users, self.items = xavier_embeddings(train, config.embedding_dim)
        self.r = graph.SparseMatrix(graph.bipartite(train))
        if not self.keys:
            return
        self.schedule = interaction_schedule(config)
        self.register_buffer("weights", step_weights(self.schedule), persistent=False)
        k = min(config.num_generated_items, train.n_items)
        self.register_buffer("chosen", torch.full((len(self.keys), train.n_users, k), -1))  # -1: none generated yet
        self.mix = nn.Parameter(torch.zeros(len(self.keys)))
        self.projections, self.denoisers = nn.ModuleDict(), nn.ModuleDict()
        for m, key in self.keys.items():
            self.projections[key] = linear = nn.Linear(features.values[m].shape[1], config.embedding_dim, bias=False)
            nn.init.xavier_uniform_(linear.weight)
            self.denoisers[key] = RowDenoiser(train.n_items, config.hidden_dim)

    def _need_memory(self, n_items: int) -> None:
        """Raise `ConfigError` if the denoisers, with gradients and Adam's state, and a step's rows pass the limit."""
        config, m = self.config, len(self.keys)
        rows = max(config.denoising_batch_size * (3 + 3 * m), 2 * _ROWS) if m else 0  # [rows, n_items] at once
        need = 4 * n_items * (4 * m * 2 * config.hidden_dim + rows) / 2**30
        if need > config.max_memory_gib:
            raise ConfigError(
                f"diffmm: {m} denoisers of hidden_dim={config.hidden_dim} for {n_items} items and their rows need "
                f"{need:.3g} GiB, max_memory_gib allows {config.max_memory_gib:g}; lower hidden_dim or "
                "denoising_batch_size, or raise it"
            )

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        z = self._final_vectors(self._modality_content(), self._generated_graphs())
        return z.at(0), z.at(1)

    def scorer(self) -> Scorer:
        return dot_scorer(*self.vectors())

    def refresh(self) -> None:
        """Generate the modalities' graphs from the weights; training calls it before an epoch."""
        if self.keys:
            self.chosen.copy_(self._generate_items())

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        f, graphs = self._modality_content(), self._generated_graphs()
        z, items = self._final_vectors(f, graphs), torch.cat(batch[1:])
        u, ij = z.at(0, batch.users), z.at(1, items)
        i, j = ij.chunk(2)
        terms = {
            "bpr": losses.bpr((u * i).sum(dim=1), (u * j).sum(dim=1)),
            "reg": self.config.reg * losses.squared_norm(*gather_batch(batch, self.users, self.items)),
        }
        if self.keys:
            terms["diffusion"] = self._diffusion_loss(batch.users, f, rng)
            if self.config.contrast_weight > 0 and (self.config.contrast_views == "main" or len(self.keys) > 1):
                terms["contrast"] = self.config.contrast_weight * self._contrast_modalities(batch, z, f, graphs)
        return terms

    def _modality_content(self) -> list[Tensor]:
        """f_m of each modality, [n_items, dim]."""
        found = []
        for key, projection in self.projections.items() if self.keys else ():
            with torch.autocast(self.items.device.type, enabled=False):
                h = F.leaky_relu(projection(getattr(self, f"x_{key}")), 0.2)
                found.append(unit_rows(h) * getattr(self, f"present_{key}")[:, None])
        return found

    def _generated_graphs(self) -> list[graph.PrunedGraph]:
        """The user-item blocks of the generated graphs, normalised as the observed one is."""
        if not self.keys:
            return []
        chosen = self.chosen if self.chosen[0, 0, 0] >= 0 else self._generate_items()
        return [_normalized_block(one, len(self.items)) for one in chosen]

    def _final_vectors(self, f: list[Tensor], graphs: list[graph.PrunedGraph]) -> _FinalVectors:
        """z of users and items; sum_m kappa_m y_m in as few products as its linearity allows."""
        users: Tensor = self.users
        items: Tensor = self.items
        if self.keys:
            kappa = self.mix.softmax(dim=0)
            mean = sum(k * one for k, one in zip(kappa, f, strict=True))  # [n_items, dim]
            neighborhood = self.r(mean)
            users, items = neighborhood + self.r(self.items), self.r.transposed(self.users + neighborhood)
            for k, a in zip(self.config.generated_graph_weight * kappa, graphs, strict=True):
                generated = _propagate_once(a, UserItemVectors(self.users, self.items))
                users, items = users + k * generated.users, items + k * generated.items
        y = UserItemVectors(users, items)
        return _FinalVectors(self._sum_of_hops(y), y, self.config.residual_weight)

    def _sum_of_hops(self, y: UserItemVectors) -> UserItemVectors:
        """sum_l A^l y."""
        return UserItemVectors(*graph.light_propagation(self.r, *y, self.config.num_layers, scale=1.0))

    def _contrast_modalities(
        self, batch: Batch, z: _FinalVectors, f: list[Tensor], graphs: list[graph.PrunedGraph]
    ) -> Tensor:
        """InfoNCE over the step's users and over its liked items: of pairs of v_m, or of z and each v_m."""
        inputs = [UserItemVectors(self.users, one) for one in f]
        every = [self._sum_of_hops(_propagate_once(a, x)) for a, x in zip(graphs, inputs, strict=True)]
        scale = self.users.new_tensor(1 / self.config.temperature)
        total = []
        for side, rows in enumerate(torch.unique(ids) for ids in (batch.users, batch.positives)):
            views = [F.normalize(F.embedding(rows, one[side]), dim=1) for one in every]
            everyone = torch.ones_like(rows, dtype=torch.bool)
            has = [getattr(self, f"present_{key}")[rows] if side else everyone for key in self.keys.values()]
            if self.config.contrast_views == "modalities":
                total.append(losses.pairwise(views, scale, has))
            else:
                main, pairs = F.normalize(z.at(side, rows), dim=1), zip(views, has, strict=True)
                each = [losses.pairwise([main, one], scale, [everyone, some]) for one, some in pairs]
                total.append(torch.stack(each).mean())
        return torch.stack(total).sum()

    def _diffusion_loss(self, users: Tensor, f: list[Tensor], rng: torch.Generator) -> Tensor:
        """The denoisers' loss on the rows of some of the step's users; all see one level and noise for each row."""
        users = torch.unique(users)
        drawn = torch.randperm(len(users), generator=rng)[: self.config.denoising_batch_size].to(users.device)
        x0 = self._interaction_rows(users[drawn]).to_dense()  # [b, n_items]
        t = torch.randint(len(self.schedule), (len(x0),), generator=rng).to(x0.device)
        eps = torch.randn(x0.shape, generator=rng).to(x0.device)
        xt, weights = self.schedule.add_noise(x0, t, eps), self.weights[t]
        target = x0 @ self.items.detach()  # [b, dim]
        total = x0.new_zeros(())
        for denoiser, content in zip(self._each_denoiser(), f, strict=True):
            clean = denoiser(xt, t)
            rebuilt = (weights * (clean - x0).square().mean(dim=1)).mean()
            injected = (clean @ content.detach() - target).square().mean()
            total = total + rebuilt + self.config.injection_weight * injected
        return total

    @torch.no_grad()
    def _generate_items(self) -> Tensor:
        """The items that each modality's rebuilt rows hold the most of, int64 [M, n_users, k], in blocks of users."""
        found = torch.empty_like(self.chosen)
        for m, denoiser in enumerate(self._each_denoiser()):
            entering = denoiser.enter.weight.T.contiguous()  # [n_items, hidden]
            for users in torch.split(torch.arange(len(self.users), device=self.users.device), _ROWS):
                clean = self._reconstruct_rows(denoiser, users, graph.times(self._interaction_rows(users), entering))
                found[m, users] = clean.topk(self.chosen.shape[2], dim=1).indices
        return found

    def _each_denoiser(self) -> Iterator[RowDenoiser]:
        for one in self.denoisers.values():
            assert isinstance(one, RowDenoiser)
            yield one

    def _reconstruct_rows(self, denoiser: RowDenoiser, users: Tensor, entered: Tensor) -> Tensor:
        """x_0 [b, n_items] that DDIM reaches from the users' rows; its first look is sparse: `entered` is W x_0."""
        last, signal = len(self.schedule) - 1, self.schedule.signal
        clean = denoiser.decode(signal[last] * entered, signal.new_full((1,), last))
        if self.config.generation_steps > 1:
            levels = self.schedule.levels(last, self.config.generation_steps)
            xt = signal[last] * self._interaction_rows(users).to_dense()
            eps = self.schedule.to_noise("clean", xt, last, clean)
            xt = self.schedule.add_noise(clean, levels[1], eps)
            clean = diffusion.ddim(self.schedule, denoiser, xt, levels[1:], kind="clean")
        return clean

    def _interaction_rows(self, users: Tensor) -> Tensor:
        """Which items users int64 [b] like, 0 or 1, torch CSR [b, n_items]."""
        counts, entries = self.r.entries(users)
        ones = torch.ones(len(entries), device=users.device)
        return graph.csr(counts, self.r.a_columns[entries], ones, (len(users), self.r.shape[1]))


def interaction_schedule(config: DiffMMConfig) -> diffusion.Schedule:
    """Return the levels whose noise s_t^2 grows evenly: s (noise_min + t / (T - 1) (noise_max - noise_min))."""
    grows = torch.linspace(config.noise_min, config.noise_max, config.diffusion_steps, dtype=torch.float64)
    kept = 1 - config.noise_scale * grows  # a_t^2
    return diffusion.Schedule(1 - kept / torch.cat([kept.new_ones(1), kept[:-1]]))


def step_weights(schedule: diffusion.Schedule) -> Tensor:
    """Return w_t [T] of the evidence lower bound: (snr_(t-1) - snr_t) / 2, snr_t = a_t^2 / s_t^2; 1 at first."""
    snr = (schedule.signal.double() / schedule.noise.double()).square()
    return torch.cat([snr.new_ones(1), (snr[:-1] - snr[1:]) / 2]).float()


def _normalized_block(chosen: Tensor, n_items: int) -> graph.PrunedGraph:
    """The normalised user-item block of the graph that joins each user with k items, int64 [n_users, k]."""
    n_users, k = chosen.shape
    columns = chosen.flatten()
    degrees = columns.bincount(minlength=n_items)
    values = (k * degrees[columns]).float().rsqrt()
    return graph.PrunedGraph(*graph.csr_sides(torch.full_like(chosen[:, 0], k), columns, values, (n_users, n_items)))


def _propagate_once(a: graph.PrunedGraph, x: UserItemVectors) -> UserItemVectors:
    """A x over the bipartite graph."""
    return UserItemVectors(graph.product(x.items, a.r, a.rt), graph.product(x.users, a.rt, a.r))


_ROWS = 256  # users at once when rows are rebuilt
_WAVES = 5  # pairs of waves that tell the level; the paper's code has ten numbers too
_SLOWEST = 9.210340371976184  # ln 10,000, as in Ho et al. 2020


SPEC = ModelSpec(
    name="diffmm",
    model=DiffMM,
    config=DiffMMConfig,
    paper="Jiang et al. 2024, arXiv 2406.11781",
    presets={
        "default": ({}, {}),
        "published": ({"hidden_dim": 1000, "generation_steps": 5}, {"batch_size": 1024}),
    },
    search_space={
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
