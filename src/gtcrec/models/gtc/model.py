"""GTC: a linear item-item part, a collaborative embedding, and a masked diffusion of histories that filters content.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014); equations are numbered as in docs/method.md. With `blend=none` the embedding part is the
model, whose score is one inner product (`embedding.model.EmbeddingGTC`).
"""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from gtcrec.models.base import ModelSpec
from gtcrec.models.baselines.l3ae import L3AE, L3AEConfig
from gtcrec.models.embeddings import als_factors
from gtcrec.models.gtc.blending import Blend, InnerPart, choose_weights, mean_ndcg, standard_scores
from gtcrec.models.gtc.config import PRESETS, SPACE, GTCConfig, check_shardable
from gtcrec.models.gtc.embedding.model import EmbeddingGTC
from gtcrec.models.gtc.explain import ContentView
from gtcrec.models.gtc.history_diffusion import HistoryDiffusion
from gtcrec.models.gtc.kept_weights import KeptWeights
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Batch, Interactions, ItemFeatures, Scorer, TrainableModel

__all__ = ["GTC", "SPEC", "GTCConfig"]

_PARTS = ("linear", "embedding", "history")
_LINEAR_SETTINGS = ("content_weight", "content_reg", "user_exponent")  # as L3AE has and searches them


class GTC(nn.Module, TrainableModel):
    """s(u, i) = w_1 z(x_u B) + w_2 z(<z_u, z_i>) + w_3 z(<f(x_u), v_i> + b_i), z the standard score over the items.

    B are the item weights of `L3AE` in its local form, the second part is an `EmbeddingGTC`, the third a
    `HistoryDiffusion`. Nothing passes between the parts but the data: each is trained by its own loss.

    With `blend=validation` each trained part scores by its own best weights so far, and is trained no more after
    `part_patience` validations without better ones: an embedding needs ten times the epochs of the network. The
    weights of the parts are those of a grid that rank the validation items best, chosen anew at each validation.
    """

    part_weights: Tensor

    def __init__(
        self,
        config: GTCConfig,
        train: Interactions,
        features: ItemFeatures,
        workers: ProcessGroup | None = None,
        init_weights: bool = True,
    ) -> None:
        super().__init__()
        if workers:
            check_shardable(config)
        self.config, self.train_pairs = config, train
        self.linear: L3AE | None = None
        self.embedding: EmbeddingGTC | None = None
        self.history: HistoryDiffusion | None = None
        if config.linear_weight:
            settings = {name: getattr(config, f"linear_{name}") for name in _LINEAR_SETTINGS}
            local = {"candidates": "local", "num_candidates": config.linear_candidates}
            linear = L3AEConfig(**local, neighbor_search=config.neighbor_search, **settings)
            self.linear = L3AE(linear, train, features, init_weights)
        if config.embedding_weight:
            self.embedding = EmbeddingGTC(config, train, features, init_weights=init_weights)
            self.embedding.requires_grad_(config.train_embedding)
        if config.history_weight:
            start = self._start(train) if init_weights else None
            self.history = HistoryDiffusion(config, train, features, start, init_weights)
            self.history.requires_grad_(config.diffusion_weight > 0)
        self.kept = nn.ModuleDict()  # the best weights so far of each part that is trained
        for name, part in self._learned_parts.items():
            if config.blend == "validation" and any(p.requires_grad for p in part.parameters()):
                self.kept[name] = KeptWeights(part, config.part_patience)
        weights = [getattr(config, f"{name}_weight") for name in _PARTS]
        self.register_buffer("part_weights", torch.tensor(weights, dtype=torch.float32))

    def _start(self, train: Interactions) -> Tensor:
        """The items' factors of least squares, [n_items, embedding_dim]; those of the embedding part if it has them."""
        config = self.config
        if self.embedding and config.init == "als":
            return self.embedding.views.items.data
        return als_factors(train, config.embedding_dim, config.unobserved_weight, config.als_reg)[1]

    def refresh(self) -> None:
        """Recompute what the steps hold fixed; training calls it before an epoch."""
        if self.embedding:
            self.embedding.refresh()

    def learning_rate_factors(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return the history diffusion's parameters, which learn more slowly."""
        return [(list(self.history.parameters()), self.config.history_rate)] if self.history else []

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a step touches few rows, with row-sparse gradients."""
        rows = self.embedding.sparse_parameters() if self.embedding else []
        return [table for table in rows if table.requires_grad]

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the embedding part's terms and, of the batch's users, the cross-entropy of hidden items."""
        terms: dict[str, Tensor] = {}
        if self.embedding and self.config.train_embedding and self._is_trained("embedding"):
            terms |= self.embedding.loss(batch, rng)
        if self.history and self.config.diffusion_weight and self._is_trained("history"):
            terms["history"] = self.config.diffusion_weight * self.history.loss(batch.users, rng)
        return terms

    def evaluates_start(self) -> bool:
        """Whether the untrained model competes for the best epoch: it starts in closed form."""
        return True

    @torch.no_grad()
    def calibrate(self, valid: Interactions) -> None:
        """Keep each part's better weights and choose the weights of the parts, where the settings say so."""
        if self.config.blend != "validation" or not len(valid):
            return
        self.part_weights.fill_(1.0)  # so that no part is left out below
        for name, part in self._inner_parts(kept=False).items():
            if name in self.kept:
                self._kept_of(name).judge(self._learned_parts[name], mean_ndcg(part.scorer, self.train_pairs, valid))
        parts: dict[str, Scorer] = {name: part.scorer for name, part in self._inner_parts().items()}
        if self.linear:
            known = self.linear.scorer()
            parts["linear"] = lambda users: standard_scores(known(users).to(self.part_weights.device))
        chosen = choose_weights(parts, self.train_pairs, valid)
        self.part_weights.copy_(torch.tensor([chosen.get(name, 0.0) for name in _PARTS]))

    @torch.no_grad()
    def scorer(self) -> Scorer:
        linear = self.linear.scorer() if self.linear and self._weights["linear"] else None
        return Blend.join(self._inner_parts(), self._weights, linear)

    @torch.no_grad()
    def fold_in(self, history: csr_array) -> Tensor:
        """Return the scores [b, n_items] of users by their histories, binary [b, n_items]."""
        scores = torch.zeros(history.shape[0], self.train_pairs.n_items, device=self.part_weights.device)
        for name, part in self._inner_parts(history).items():
            scores += self._weights[name] * part.scaled_users @ part.items.T
        if self.linear and self._weights["linear"]:
            linear = self.linear.fold_in(history).to(scores.device)
            scores += self._weights["linear"] * standard_scores(linear)
        return scores

    @torch.no_grad()
    def score_new_items(self, history: csr_array, features: ItemFeatures) -> Tensor:
        """Return the scores [b, n] of items that came after training, by histories [b, n_items] and their content."""
        scores = torch.zeros(history.shape[0], features.n_items, device=self.part_weights.device)
        for name, part in self._inner_parts(history).items():
            with self._scoring(name):
                new = self._learned_parts[name].add_items(features) - part.mean
            scores += self._weights[name] * part.scaled_users @ new.T
        if self.linear and self._weights["linear"]:
            linear, known = (
                one.to(scores.device)
                for one in (self.linear.score_new_items(history, features), self.linear.fold_in(history))
            )
            scores += self._weights["linear"] * standard_scores(linear, known)
        return scores

    @torch.no_grad()
    def score_parts(self, user: int, items: Tensor) -> dict[str, Tensor]:
        """Return the summands [n] of the scores of `items` int64 [n] for a user, by name."""
        found: dict[str, Tensor] = {}
        items = items.to(self.part_weights.device)
        if self.linear and self._weights["linear"]:
            scores = standard_scores(self.linear.scorer()(torch.tensor([user])).to(items.device))[0]
            found["linear"] = self._weights["linear"] * scores[items]
        for name, part in self._inner_parts(user=user).items():
            products = self._weights[name] * part.scaled_users[0] * part.items[items]
            for block, columns in zip(part.blocks, torch.split(products, part.widths, dim=1), strict=True):
                found[f"{name}: {block}"] = columns.sum(dim=1)
        return found

    @torch.no_grad()
    def linear_shares(self, user: int, items: Tensor) -> Tensor:
        """Return what each item of the user's history, ascending, adds to the scores of `items`, [n, history]."""
        seen = np.sort(self.train_pairs.items_of(user))
        if not self.linear or not self._weights["linear"]:
            return torch.zeros(len(items), len(seen))
        spread = self.linear.scorer()(torch.tensor([user])).std(correction=0).clamp(min=1e-12)
        entries = self.linear.local_weights()[seen][:, items.cpu().numpy()].toarray()
        return self._weights["linear"] * torch.from_numpy(entries).T / spread

    def explain_content(self, user: int, items: Tensor) -> list[ContentView]:
        """Return each modality of `items` int64 [n] in the embedding part's scores of `user`."""
        if not self.embedding:
            return []
        with self._scoring("embedding"):
            views: list[ContentView] = self.embedding.explain_content(user, items)
        return views

    @property
    def _weights(self) -> dict[str, float]:
        return dict(zip(_PARTS, self.part_weights.tolist(), strict=True))

    @property
    def _learned_parts(self) -> dict[str, EmbeddingGTC | HistoryDiffusion]:
        """The parts that are inner products and may be trained, by name."""
        both = {"embedding": self.embedding, "history": self.history}
        return {name: part for name, part in both.items() if part is not None}

    def _is_trained(self, name: str) -> bool:
        return name not in self.kept or not self._kept_of(name).is_final

    def _kept_of(self, name: str) -> KeptWeights:
        return self.kept[name]  # type: ignore[return-value]

    def _scoring(self, name: str) -> AbstractContextManager[None]:
        """Let a part have the weights that it scores by."""
        return self._kept_of(name).swapped(self._learned_parts[name]) if name in self.kept else nullcontext()

    def _inner_parts(
        self, history: csr_array | None = None, kept: bool = True, user: int | None = None
    ) -> dict[str, InnerPart]:
        """The parts that are inner products, for all users, for one, or for new ones by their history.

        They score by the weights that were kept, or by those of the last step.
        """
        found = {}
        for name, part in self._learned_parts.items():
            if not self._weights[name]:
                continue
            with self._scoring(name) if kept else nullcontext():
                if history is None:
                    users, items = part.vectors()
                    users = users if user is None else users[user : user + 1]
                else:
                    users, items = part.new_users(history), part.item_vectors()
                found[name] = InnerPart.standardized(users, items, part.blocks())
        return found


def _choose_class(config: GTCConfig) -> type[nn.Module]:
    return EmbeddingGTC if config.blend == "none" else GTC


SPEC = ModelSpec(
    name="gtc",
    model=GTC,
    choose_model=_choose_class,
    config=GTCConfig,
    paper="arXiv 2604.03014",
    presets=PRESETS,
    search_space=SPACE,
    supports_sharding=True,
    supports_deferred_init=True,
    small={
        "embedding_dim": 8,
        "hidden_dim": 16,
        "history_hidden_dim": 16,
        "linear_content_weight": 2.0,  # forty users pull less than thousands do
        "linear_candidates": 20,
    },
)
