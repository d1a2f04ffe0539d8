"""Why a user gets an item: what the score is made of, what of the content counted, and which history items are near."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.experiments.model_bundle import ModelBundle
from gtcrec.experiments.run import Run
from gtcrec.models.gtc.explain import ContentView, ExplainableModel, ExplainsContent, SumsParts
from gtcrec.types import Floats, Ints, Scorer

__all__ = [
    "Explanation",
    "HistoryItem",
    "ItemExplanation",
    "LikedItem",
    "ModalityPreference",
    "RetainedContent",
    "Retention",
    "ScoreContribution",
    "explain",
]


@dataclass(frozen=True)
class ModalityPreference:
    """What one modality is to a user: its weight in the user's scores, and the user's mix of interest prototypes."""

    modality: str
    weight: float
    prototypes: tuple[float, ...]


@dataclass(frozen=True)
class ScoreContribution:
    """One summand of a score, and its share of the summands' absolute values in per cent.

    `view` is "identity", a modality, or "rerank": what re-ranking the best items pair by pair added. Of a GTC of
    several parts it is "linear", or a part and what of the item it reads, such as "history: text".
    """

    view: str
    value: float
    percent: float


@dataclass(frozen=True)
class Retention:
    """What is left of content: its share along the content, and the length of a rest, relative to the content's."""

    along: float
    residual: float


@dataclass(frozen=True)
class RetainedContent:
    """What is kept of an item's content in one modality that the item has.

    `matters`: of content y, the part (1 - s_u^2) y that counts for the user, in the share <kept, y> / <y, y>; its
    residual is |y - kept| / |y|, what does not count. None for models where the user changes the filter itself.
    `filtered`: of the content x after the filter, in the share <x, y> / <y, y>; its residual is |x - share y| / |y|,
    what the filter turned aside. For models where the user changes the filter it is that of this user.
    """

    modality: str
    matters: Retention | None
    filtered: Retention


@dataclass(frozen=True)
class HistoryItem:
    """A training item of the user and how similar its kept content is: a cosine, averaged over the modalities."""

    item: Any
    title: str
    similarity: float


@dataclass(frozen=True)
class LikedItem:
    """A training item of the user and what it adds to a score by the linear part's weights."""

    item: Any
    title: str
    value: float


@dataclass(frozen=True)
class ItemExplanation:
    """The explanation of one item; `rank` is 1 + the number of unseen items that score higher, `seen` is in training.

    `parts` add up to `score`; there are none for models whose score is no inner product. `retained` and `nearest` are
    empty for models without content, `because` for models without a linear part, `title` where the data have none.
    """

    item: Any
    title: str
    score: float
    rank: int
    seen: bool
    parts: tuple[ScoreContribution, ...]
    retained: tuple[RetainedContent, ...]
    nearest: tuple[HistoryItem, ...]
    because: tuple[LikedItem, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Why a user gets some items; `n_seen` and `n_unseen` count the items in the user's history and all others."""

    model: str
    user: Any
    n_seen: int
    n_unseen: int
    preferences: tuple[ModalityPreference, ...]
    items: tuple[ItemExplanation, ...]


def explain(run: Run, user: Any, items: Iterable[Any], nearest: int = 5) -> Explanation:
    """Explain a finished run's scores, as `explain_scores`. Raises `RunError` for a run that is not finished too."""
    run.need_finished()
    return explain_scores(run.bundle(), run.model, run.scorer, user, items, nearest)


def explain_scores(
    bundle: ModelBundle, model: nn.Module, scorer: Scorer, user: Any, items: Iterable[Any], nearest: int = 5
) -> Explanation:
    """Explain the scores of items for a user, all by external id, each with the `nearest` items of the history.

    Every model tells score and rank; one whose score is an inner product has its whole score in the identity part;
    GTC tells the rest. Raises `DataError` for an id that is not in the data, `ConfigError` for no item or a negative
    `nearest`.
    """
    if nearest < 0:
        raise ConfigError(f"nearest must be at least 0, found {nearest}")
    index = bundle.users.index([user])
    asked = bundle.items.index(items)
    if not len(asked):
        raise ConfigError("expected at least one item to explain, found none")
    seen = bundle.seen.items_of(int(index[0]))
    scores = scorer(torch.from_numpy(index))[0].double().cpu().numpy()  # [n_items]
    others = np.delete(scores, seen)
    views: list[ContentView] = []
    if isinstance(model, ExplainsContent):
        views = model.explain_content(int(index[0]), torch.from_numpy(np.concatenate([asked, seen])))
    parts, near = (
        _score_contributions(model, index, asked, scores[asked], views),
        _nearest_history(bundle, views, asked, seen, nearest),
    )
    because = _history_shares(bundle, model, int(index[0]), asked, nearest)
    explanations = []
    for place, (item, title) in enumerate(_ids_and_titles(bundle, asked)):
        score = float(scores[asked[place]])
        rank, known = 1 + int((others > score).sum()), bool((seen == asked[place]).any())
        explanations.append(
            ItemExplanation(
                item, title, score, rank, known, parts[place], _retained(views, place), near[place], because[place]
            )
        )
    preferences = tuple(ModalityPreference(one.modality, one.weight, tuple(one.mix.tolist())) for one in views)
    (external,) = bundle.users.external(index).tolist()
    return Explanation(bundle.model, external, len(seen), len(others), preferences, tuple(explanations))


def _ids_and_titles(bundle: ModelBundle, items: Ints) -> list[tuple[Any, str]]:
    """External id and title of each item."""
    external = bundle.items.external(items).tolist()
    titles = [bundle.titles[index] if bundle.titles else "" for index in items.tolist()]
    return list(zip(external, titles, strict=True))


def _score_contributions(
    model: nn.Module, user: Ints, asked: Ints, scores: Floats, views: Sequence[ContentView]
) -> list[tuple[ScoreContribution, ...]]:
    """The summands of the scores [n] of the items asked for."""
    summands: list[tuple[str, Floats]] = []
    if isinstance(model, SumsParts):
        named = model.score_parts(int(user[0]), torch.from_numpy(asked))
        summands = [(name, values.double().cpu().numpy()) for name, values in named.items()]
    elif isinstance(model, ExplainableModel):
        content = [(one.modality, one.parts[: len(asked)].double().cpu().numpy()) for one in views]
        pairs = torch.from_numpy(user.repeat(len(asked))), torch.from_numpy(asked)
        with torch.no_grad():
            whole = model.pair_scores(*pairs).double().cpu().numpy()
        summands = [("identity", whole - sum(values for _, values in content)), *content]
        if model.reranks:
            summands.append(("rerank", scores - whole))
    elif hasattr(model, "vectors"):
        summands = [("identity", scores)]
    total: Floats = np.abs([values for _, values in summands]).sum(axis=0)  # [n]
    return [
        tuple(
            ScoreContribution(view, float(v[n]), 100 * abs(float(v[n])) / (float(total[n]) or 1.0))
            for view, v in summands
        )
        for n in range(len(asked))
    ]


def _history_shares(
    bundle: ModelBundle, model: nn.Module, user: int, asked: Ints, count: int
) -> list[tuple[LikedItem, ...]]:
    """For each item asked for the liked ones that add most to its score, but itself."""
    if not isinstance(model, SumsParts):
        return [()] * len(asked)
    seen = np.sort(bundle.seen.items_of(user))
    names, found = _ids_and_titles(bundle, seen), []
    for item, row in zip(asked, model.linear_shares(user, torch.from_numpy(asked)).double().numpy(), strict=True):
        order = [int(j) for j in np.argsort(-row, kind="stable") if row[j] > 0 and seen[j] != item][:count]
        found.append(tuple(LikedItem(*names[j], value=float(row[j])) for j in order))
    return found


def _retained(views: Sequence[ContentView], place: int) -> tuple[RetainedContent, ...]:
    """What is kept of the item at `place`, in each modality of which it has content."""
    found = []
    for one in views:
        y = one.content[place].double()
        length = float(y.norm())
        if not one.present[place] or not length:
            continue
        x = one.filtered[place].double()
        along = float(x @ y) / length**2
        filtered = Retention(along, float((x - along * y).norm()) / length)
        matters = None
        if one.matters is not None:
            part = one.matters[place].double()
            matters = Retention(float(part @ y) / length**2, float((y - part).norm()) / length)
        found.append(RetainedContent(one.modality, matters, filtered))
    return tuple(found)


def _nearest_history(
    bundle: ModelBundle, views: Sequence[ContentView], asked: Ints, seen: Ints, count: int
) -> list[tuple[HistoryItem, ...]]:
    """For each item asked for the seen ones, but itself, that are most similar in what the user keeps of both."""
    similar = torch.zeros(len(asked), len(seen), dtype=torch.float64)
    shared = torch.zeros_like(similar)  # modalities that both items have
    for one in views:
        unit, has = F.normalize(one.kept.double().cpu(), dim=1), one.present.cpu()
        both = (has[: len(asked), None] & has[len(asked) :]).double()
        similar += both * (unit[: len(asked)] @ unit[len(asked) :].T)
        shared += both
    shared[torch.from_numpy(asked[:, None] == seen)] = 0
    names = _ids_and_titles(bundle, seen)
    found = []
    for row, common in zip(similar / shared.clamp(min=1), shared > 0, strict=True):
        order = [int(j) for j in row.argsort(descending=True, stable=True) if common[j]][:count]
        found.append(tuple(HistoryItem(*names[j], similarity=float(row[j])) for j in order))
    return found
