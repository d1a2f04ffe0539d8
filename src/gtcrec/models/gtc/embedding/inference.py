"""What a trained GTC answers with: vectors, scorers, new items and users, and the parts of a score.

The functions are methods of `embedding.model.EmbeddingGTC`, which lists them.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from gtcrec.errors import ConfigError, DataError
from gtcrec.models.gtc.embedding.interest_filter import InterestFilter
from gtcrec.models.gtc.explain import ContentView
from gtcrec.ops.fold_in import torch_csr
from gtcrec.ops.scorers import DotScorer, RerankingScorer, ShardedScorer
from gtcrec.types import ItemFeatures, Scorer

if TYPE_CHECKING:
    from gtcrec.models.gtc.embedding.model import EmbeddingGTC

__all__ = [
    "add_items",
    "conditioned_scores",
    "explain_content",
    "fold_in",
    "item_vectors",
    "new_users",
    "pair_scores",
    "reranks",
    "scorer",
    "vectors",
]


@torch.no_grad()
def vectors(model: "EmbeddingGTC") -> tuple[Tensor, Tensor]:
    """Return user vectors [n_users, d] and item vectors [n_items, d] whose inner product is the score.

    d = dim + the content filter's widths: the filter's dependence on the user folds into the user vector. Of several
    workers each returns the rows that lie with it.
    """
    batch, content = model.encode_all(), model.content
    widths = [model.config.embedding_dim, *(content.widths() if content else [])]
    sides = batch.identity.users, batch.identity.items
    users, items = (side.new_empty(len(side), sum(widths)) for side in sides)
    (user, *user_blocks), (item, *item_blocks) = (torch.split(side, widths, dim=1) for side in (users, items))
    user.copy_(batch.identity.users)
    item.copy_(model.identity_view(batch))
    if content:
        content.fold(batch.identity, user_blocks, item_blocks)
        for block, weight in zip(user_blocks, model.view_weights(model.weights), strict=True):
            block.mul_(weight[:, None])
    return users, items


def item_vectors(model: "EmbeddingGTC") -> Tensor:
    """Return the item vectors [n_items, d] of `vectors` alone."""
    return vectors(model)[1]


def scorer(model: "EmbeddingGTC") -> Scorer:
    """Return a snapshot of the model's scores; with `rerank` each user's best items are filtered pair by pair."""
    if model.workers.size > 1:
        return ShardedScorer(*vectors(model), model.n_users, model.n_items, model.workers)
    base = DotScorer(*vectors(model))  # the vectors are its own already
    if not reranks(model):
        return base
    return RerankingScorer(base, conditioned_scores(model), model.views.r.sides()[0], model.config.rerank_top_n)


def reranks(model: "EmbeddingGTC") -> bool:
    """Whether the scorer orders a user's best items once more, pair by pair."""
    return bool(model.config.rerank_top_n and model.content)


def pair_scores(model: "EmbeddingGTC", users: Tensor, items: Tensor) -> Tensor:
    """Return the scores [b] of pairs, each item filtered for its own user, views summed one by one."""
    users, items = (side.to(model.views.users.device) for side in (users, items))
    return model.score(model.encode(users, items), users, torch.arange(len(items), device=items.device))


@torch.no_grad()
def conditioned_scores(model: "EmbeddingGTC") -> Callable[[Tensor, Tensor], Tensor]:
    """Return a snapshot of the scores [b, n] of users [b] with items [b, n], filtered pair by pair, equation 11."""
    batch, weights, content = model.encode_all(), model.weights.clone(), copy.deepcopy(model.content)
    assert content is not None
    content.refresh()
    items_view = model.identity_view(batch)

    @torch.no_grad()
    def rescore(users: Tensor, items: Tensor) -> Tensor:
        user = F.embedding(users, batch.identity.users)
        score = torch.einsum("bd,bnd->bn", user, F.embedding(items, items_view))
        parts = content.conditioned_scores(batch.identity, users, items)
        for weight, part in zip(model.view_weights(weights[users]), parts, strict=True):
            score += weight[:, None] * part
        return score

    return rescore


@torch.no_grad()
def add_items(model: "EmbeddingGTC", features: ItemFeatures) -> Tensor:
    """Return the vectors [n, d] of new items by their content; their inner products with `vectors()` are the scores.

    Their identity is what their content neighbors give them and, with `id_dropout`, an embedding by content.
    Raises `ConfigError` unless the model has content, condition=user_history and no attention_refinement, `DataError`
    for content of other modalities or widths.
    """
    config, content = model.config, model.content
    if not isinstance(content, InterestFilter) or config.attention_refinement:
        refinement = f"attention_refinement={config.attention_refinement}"
        found = f"condition={config.condition}, {refinement}" if content else "no content"
        needed = "content, condition=user_history and attention_refinement=False"
        raise ConfigError(f"add_items needs a gtc with {needed}, found {found}")
    expected = sorted(model.keys)
    if list(features.names) != expected:
        raise DataError(f"new items need the modalities {expected}, found {list(features.names)}")
    identity = model.views.encode_new_items(features)
    if config.id_dropout and config.init == "als":
        identity = identity + model.content_map(features)
    elif config.id_dropout:
        identity = identity + model.cold_item_embeddings(content.item_contents(features))
    return torch.cat([identity, content.fold_items(features)], dim=1)


@torch.no_grad()
def new_users(model: "EmbeddingGTC", history: csr_array) -> Tensor:
    """Return the vectors [b, d] of new users by their history, a binary matrix [b, n_items].

    Their weights of the modalities are the mean of the training users'. Raises `ConfigError` with content and another
    condition than `user_history`.
    """
    identity = model.views.encode_new_users(history)
    if not model.content:
        return identity
    if not isinstance(model.content, InterestFilter):
        found = f"condition={model.config.condition}"
        raise ConfigError(f"fold_in needs a gtc with condition=user_history, found {found}")
    blocks = model.content.fold_users(torch_csr(history).to(identity.device))
    weights = model.view_weights(model.weights.mean(dim=0, keepdim=True))
    return torch.cat([identity, *(block * weight for block, weight in zip(blocks, weights, strict=True))], dim=1)


@torch.no_grad()
def fold_in(model: "EmbeddingGTC", history: csr_array) -> Tensor:
    """Return the scores [b, n_items] of new users by their history, as `new_users`; `rerank_top_n` does not apply."""
    return new_users(model, history) @ item_vectors(model).T


@torch.no_grad()
def explain_content(model: "EmbeddingGTC", user: int, items: Tensor) -> list[ContentView]:
    """Return each modality of `items` int64 [n], n > 0, in the scores of `user`; none for a model without content."""
    if model.content is None:
        return []
    items = items.to(model.views.users.device)
    users, places = torch.full_like(items, user), torch.arange(len(items), device=items.device)
    batch = model.encode(users, items).content
    weights = model.view_weights(model.weights[user : user + 1])  # [1] each
    parts = zip(weights, model.content.scores(batch, users, places), model.content.present(items), strict=True)
    return [
        ContentView(m, float(weight), one.mix, weight * score, has, one.content, one.filtered, one.matters)
        for m, (weight, score, has), one in zip(model.keys, parts, model.content.explain(batch, users[:1]), strict=True)
    ]
