"""The embedding part: user-aware filtering of content by conditional diffusion, and total correlation of the views.

After "User-Aware Conditional Generative Total Correlation Learning for Multi-Modal Recommendation"
(arXiv 2604.03014); equations are numbered as in docs/method.md. Views of an item are its identity (a learned embedding)
and each modality. The score is one inner product of a user and an item vector, the user's filter folded into it.

Content enters the score by `interest_filter.InterestFilter` (condition `user_history`, the default) or
`latent_filter.LatentFilter` (conditions `item_id` and `item_audience`, as in the paper).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtcrec.models.gtc.config import GTCConfig, check_combinations, check_shardable
from gtcrec.models.gtc.embedding import inference
from gtcrec.models.gtc.embedding.cold_items import ColdItemRegressor
from gtcrec.models.gtc.embedding.graph_encoder import GraphEncoder, UserItemEmbeddings
from gtcrec.models.gtc.embedding.interest_filter import InterestFilter
from gtcrec.models.gtc.embedding.latent_filter import LatentFilter
from gtcrec.models.modalities import module_keys
from gtcrec.ops import losses
from gtcrec.ops.sharded import RowShardedEmbedding, local_rows
from gtcrec.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gtcrec.types import Batch, Interactions, ItemFeatures, TrainableModel

__all__ = ["EmbeddingGTC"]


class EncodedBatch(NamedTuple):
    """b users and a items, encoded."""

    items: Tensor  # [a] which items
    identity: UserItemEmbeddings
    content: Any  # the content filter's own kind of batch


class EmbeddingGTC(nn.Module, TrainableModel):
    """s(u, i) = <z_u, z_i> + sum_m w_um s_m(u, i); s_m is the content filter's score.

    Of several `workers` each holds its own rows of what is learned of users and items. With `init_weights` false,
    nothing is solved for: saved weights are loaded next.
    """

    add_items = inference.add_items
    explain_content = inference.explain_content
    fold_in = inference.fold_in
    item_vectors = inference.item_vectors
    new_users = inference.new_users
    pair_scores = inference.pair_scores
    reranks = property(inference.reranks)
    scorer = inference.scorer
    vectors = inference.vectors

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
        self.workers = workers = workers or SINGLE_PROCESS
        self.config = config
        self.keys = module_keys(features.names)
        self.n_users, self.n_items = train.n_users, train.n_items
        check_combinations(config, self.n_items, len(self.keys))
        self.views = GraphEncoder(config, train, features, workers, init_weights)
        self.tables: list[RowShardedEmbedding] = []
        if config.propagation == "sampled":
            self.tables += [self.views.user_table, self.views.item_table]
        self.content: InterestFilter | LatentFilter | None = None
        if not self.keys:
            return
        if config.condition == "user_history":
            self.content = InterestFilter(config, train, features, self.keys, workers, fit_directions=init_weights)
            self._add_cold_items(self.content, train, features, init_weights)
        else:
            self.content = LatentFilter(config, train, features, self.keys, self.views.r)
        self.weights = nn.Parameter(torch.zeros(len(local_rows(train.n_users, workers)), len(self.keys)))
        if config.propagation == "sampled":
            self.tables.append(RowShardedEmbedding(self.weights, train.n_users, workers))
        if config.alignment != "none":
            self.log_scale = nn.Parameter(torch.tensor(math.log(5.0)))

    def _add_cold_items(
        self, content: InterestFilter, train: Interactions, features: ItemFeatures, init_weights: bool
    ) -> None:
        """Add what gives items without an embedding of their own one by their content."""
        config = self.config
        if config.id_dropout and config.init == "als":
            self.content_map = ColdItemRegressor(features, train.item_counts > 0, config.embedding_dim)
            if init_weights:
                self.content_map.solve(config.new_item_weight * self.views.items.data)
        elif config.id_dropout:
            widths = {key: content[m].y.shape[1] for m, key in self.keys.items()}
            self.stand_ins = nn.ModuleDict(
                {key: nn.Linear(w, config.embedding_dim, False) for key, w in widths.items()}
            )

    def refresh(self) -> None:
        """Recompute what the steps hold fixed; training calls it before an epoch."""
        if self.config.propagation == "sampled":
            self.views.refresh()
        if self.content and self.config.content_refresh == "epoch":
            self.content.refresh()

    def sharded_tables(self) -> list[RowShardedEmbedding]:
        """Return the tables of which each worker holds its own rows."""
        return self.tables

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the tables of which a step touches few rows, with row-sparse gradients."""
        return [table.local for table in self.tables]

    def encode(self, users: Tensor, items: Tensor) -> EncodedBatch:
        """Encode `users` int64 [b] over the graphs and filter the content of `items` int64 [a], current weights."""
        identity = self.views.encode(users, items)
        return EncodedBatch(items, identity, self.content.encode(identity, users, items) if self.content else None)

    def encode_all(self) -> EncodedBatch:
        """Encode all users and items whose rows lie here; their content only if the identity view needs it."""
        users, items = (torch.arange(n, device=self.views.users.device) for n in (self.n_users, self.n_items))
        return (
            self.encode(users, items)
            if self.config.attention_refinement
            else EncodedBatch(items, self.views.encode_local(), None)
        )

    def identity_view(self, batch: EncodedBatch) -> Tensor:
        """Return the identity view of the batch's items, [a, dim]; of items without an embedding, by their content."""
        item, has_id = batch.identity.items, batch.identity.has_id_embedding
        if has_id is not None and isinstance(self.content, InterestFilter):
            if self.config.init == "als":
                by_content = F.embedding(batch.items, self.content_map.of_items)
            else:
                y = {m: F.embedding(batch.items, self.content[m].y) for m in self.keys}
                by_content = self.cold_item_embeddings(y)
            item = item + torch.where(has_id[:, None], 0.0, by_content)
        if not self.config.attention_refinement or not self.content:
            return item
        places = torch.arange(len(batch.items), device=item.device)
        return item + _attend(item, self.content.aligned(batch.content, places))

    def cold_item_embeddings(self, y: Mapping[str, Tensor]) -> Tensor:
        """Return learned linear embeddings [a, dim] of items by their content y of each modality [a, W]."""
        return torch.stack([self.stand_ins[key](y[m]) for m, key in self.keys.items()]).sum(dim=0)

    def alignment_loss(self, batch: EncodedBatch, places: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the alignment loss of a sample of the items at `places`, equations 18 to 21.

        Logged with it: the bound on the views' total correlation, its ceiling, both in nats, and the scale.
        """
        assert self.content is not None
        config, kind = self.config, self.config.alignment
        drawn = torch.randperm(len(places), generator=rng)[: config.alignment_batch_size or None]
        places = places[drawn.to(places.device)]
        # Entries of root-mean-square 1, so that the neutral element 1 of an absent view has their scale.
        rows = [F.embedding(places, self.identity_view(batch)), *self.content.aligned(batch.content, places)]
        views = [F.normalize(view, dim=1) * math.sqrt(config.embedding_dim) for view in rows]
        scale = self.log_scale.exp().clamp(max=100.0) / config.embedding_dim
        items = batch.items[places]
        has = [torch.ones_like(items, dtype=torch.bool), *self.content.present(items)]
        if kind == "n":
            orders = [losses.derangement(len(items), rng).to(items.device) for _ in views]
            loss = losses.total_correlation(views, scale, orders, has)
        else:
            kinds = {"pairwise": losses.pairwise, "n_squared": losses.n_squared, "chain": losses.chain}
            loss = kinds[kind](views, scale, has)
        ceiling = torch.tensor(losses.ceiling(kind, len(items), len(views), has))
        logged = {"tc_bound_nats": ceiling.to(loss.device) - loss.detach(), "tc_ceiling_nats": ceiling}
        logged["tc_scale"] = scale.detach()
        return {"alignment": config.alignment_weight * loss, **{f"log.{name}": one for name, one in logged.items()}}

    def blocks(self) -> list[tuple[str, int]]:
        """Return the name and width of each block of the vectors: identity, then the modalities."""
        widths = self.content.widths() if self.content else []
        return [("identity", self.config.embedding_dim), *zip(self.keys, widths, strict=True)]

    def view_weights(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return the users' own weight w_um of each modality, [b] each, from rows of `weights`."""
        return (2 * self.config.content_weight * torch.sigmoid(weights)).unbind(1)

    def score(self, batch: EncodedBatch, users: Tensor, places: Tensor, positive: bool = False) -> Tensor:
        """Return the scores [b] of the batch's users with its items at `places`, views summed one by one."""
        score = (batch.identity.users * F.embedding(places, self.identity_view(batch))).sum(dim=1)
        if self.content:
            rows = self.tables[-1](users) if self.tables else F.embedding(users, self.weights)
            parts = self.content.scores(batch.content, users, places, positive)
            for weight, part in zip(self.view_weights(rows), parts, strict=True):
                score = score + weight * part
        return score

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of equation 24: BPR, denoising, the pair term, alignment and L2, each weighted."""
        config, (users, positives, negatives) = self.config, batch
        aligns = bool(self.keys) and config.alignment != "none"
        whole = aligns and not config.alignment_batch_size
        sampled = torch.unique(torch.cat([positives, negatives])) if not whole else None
        items = torch.arange(self.n_items, device=users.device) if sampled is None else sampled
        identity = self.views.encode_step(users, items, rng)
        content = self.content.encode_step(identity, users, items, positives) if self.content else None
        encoded = EncodedBatch(items, identity, content)
        positive_at, negative_at = torch.searchsorted(items, positives), torch.searchsorted(items, negatives)
        better = self.score(encoded, users, positive_at, positive=True)
        worse = self.score(encoded, users, negative_at)
        embeddings = [identity.ego_users, *(F.embedding(at, identity.ego_items) for at in (positive_at, negative_at))]
        embeddings += self.content.regularized(users) if self.content else []
        terms = {"bpr": losses.bpr(better, worse), "reg": config.reg * losses.squared_norm(*embeddings)}
        if aligns:
            places = torch.searchsorted(items, items if whole else torch.unique(positives))
            if len(places) > 1:  # an epoch's last batch may hold one pair, and one item has nothing to differ from
                terms |= self.alignment_loss(encoded, places, rng)
        if self.content and config.filter == "trained" and (config.diffusion_weight or config.pair_diffusion_weight):
            terms |= self.content.denoising_loss(encoded.content, users, positive_at, rng)
        return terms


def _attend(query: Tensor, keys: list[Tensor]) -> Tensor:
    """Softmax attention of each item's query [n, d] over its own keys."""
    stacked = torch.stack(keys, dim=1)  # [n, S, d]
    weights = torch.einsum("nd,nsd->ns", query, stacked).div(math.sqrt(query.shape[1])).softmax(dim=1)
    return torch.einsum("ns,nsd->nd", weights, stacked)
