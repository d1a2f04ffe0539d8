"""Why a user gets an item: what the score is made of, what of the content counted, and which liked items are near."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gtcrec.errors import ConfigError
from gtcrec.experiments.run import Run
from gtcrec.models.gtc.explain import ContentView, content_views
from gtcrec.models.gtc.model import GTC
from gtcrec.types import Floats, Ints

__all__ = ["Explanation", "Kept", "Liked", "Part", "Reason", "Survival", "Taste", "explain"]


@dataclass(frozen=True)
class Taste:
    """How a user meets one modality: its weight in the user's scores, and the user's mix of interest prototypes."""

    modality: str
    weight: float
    prototypes: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """One summand of a score, and its share of the summands' absolute values in per cent.

    `view` is "identity", a modality, or "rerank": what re-ranking the best items pair by pair added.
    """

    view: str
    value: float
    percent: float


@dataclass(frozen=True)
class Survival:
    """What is left of content: its share along the content, and the length of a rest, relative to the content's."""

    along: float
    residual: float


@dataclass(frozen=True)
class Kept:
    """What is kept of an item's content in one modality that the item has.

    `matters`: of content y, the part (1 - s_u^2) y that counts for the user, in the share <kept, y> / <y, y>; its
    residual is |y - kept| / |y|, what does not count. None for models where the user changes the filter itself.
    `filtered`: of the content x after the filter, in the share <x, y> / <y, y>; its residual is |x - share y| / |y|,
    what the filter turned aside. For models where the user changes the filter it is that of this user.
    """

    modality: str
    matters: Survival | None
    filtered: Survival


@dataclass(frozen=True)
class Liked:
    """A training item of the user and how similar its kept content is: a cosine, averaged over the modalities."""

    item: Any
    title: str
    similarity: float


@dataclass(frozen=True)
class Reason:
    """The explanation of one item; `rank` is 1 + the number of unmet items that score higher, `met` is in training.

    `parts` add up to `score`; there are none for models whose score is no inner product. `kept` and `nearest` are
    empty for models without content. `title` is "" where the data have none.
    """

    item: Any
    title: str
    score: float
    rank: int
    met: bool
    parts: tuple[Part, ...]
    kept: tuple[Kept, ...]
    nearest: tuple[Liked, ...]


@dataclass(frozen=True)
class Explanation:
    """Why a user gets some items; `met` and `unmet` count the items that the user has met in training and has not."""

    model: str
    user: Any
    met: int
    unmet: int
    tastes: tuple[Taste, ...]
    items: tuple[Reason, ...]


def explain(run: Run, user: Any, items: Iterable[Any], nearest: int = 5) -> Explanation:
    """Explain a finished run's scores of items for a user, all by external id, each with its `nearest` liked items.

    Every model tells score and rank; one whose score is an inner product has its whole score in the identity part;
    GTC tells the rest. Raises `RunError` for a run that is not finished, `DataError` for an id that is not in the data,
    `ConfigError` for no item or a negative `nearest`.
    """
    run.need_finished()
    if nearest < 0:
        raise ConfigError(f"nearest must be at least 0, found {nearest}")
    index = run.dataset.users.index([user])
    asked = run.dataset.items.index(items)
    if not len(asked):
        raise ConfigError("wanted at least one item to explain, found none")
    met = run.split.train.items_of(int(index[0]))
    scores = run.scorer(torch.from_numpy(index))[0].double().cpu().numpy()  # [n_items]
    others = np.delete(scores, met)
    views: list[ContentView] = []
    if isinstance(run.model, GTC):
        views = content_views(run.model, int(index[0]), torch.from_numpy(np.concatenate([asked, met])))
    parts, near = _parts(run.model, index, asked, scores[asked], views), _nearest(run, views, asked, met, nearest)
    reasons = []
    for place, (item, title) in enumerate(_named(run, asked)):
        score = float(scores[asked[place]])
        rank, known = 1 + int((others > score).sum()), bool((met == asked[place]).any())
        reasons.append(Reason(item, title, score, rank, known, parts[place], _kept(views, place), near[place]))
    tastes = tuple(Taste(one.modality, one.weight, tuple(one.mix.tolist())) for one in views)
    (external,) = run.dataset.users.external(index).tolist()
    return Explanation(run.config.model, external, len(met), len(others), tastes, tuple(reasons))


def _named(run: Run, items: Ints) -> list[tuple[Any, str]]:
    """External id and title of each item."""
    item_metadata, external = run.dataset.item_metadata, run.dataset.items.external(items).tolist()
    return [
        (one, item_metadata.titles[index] if item_metadata else "")
        for one, index in zip(external, items.tolist(), strict=True)
    ]


def _parts(
    model: nn.Module, user: Ints, asked: Ints, scores: Floats, views: Sequence[ContentView]
) -> list[tuple[Part, ...]]:
    """The summands of the scores [n] of the items asked for."""
    summands: list[tuple[str, Floats]] = []
    if isinstance(model, GTC):
        content = [(one.modality, one.parts[: len(asked)].double().cpu().numpy()) for one in views]
        pairs = (torch.from_numpy(side).to(model.views.users.device) for side in (user.repeat(len(asked)), asked))
        with torch.no_grad():
            whole = model.pair_scores(*pairs).double().cpu().numpy()
        summands = [("identity", whole - sum(values for _, values in content)), *content]
        if views and model.config.rerank:
            summands.append(("rerank", scores - whole))
    elif hasattr(model, "vectors"):
        summands = [("identity", scores)]
    total: Floats = np.abs([values for _, values in summands]).sum(axis=0)  # [n]
    return [
        tuple(Part(view, float(v[n]), 100 * abs(float(v[n])) / (float(total[n]) or 1.0)) for view, v in summands)
        for n in range(len(asked))
    ]


def _kept(views: Sequence[ContentView], place: int) -> tuple[Kept, ...]:
    """What is kept of the item at `place`, in each modality of which it has content."""
    found = []
    for one in views:
        y = one.content[place].double()
        length = float(y.norm())
        if not one.present[place] or not length:
            continue
        x = one.filtered[place].double()
        along = float(x @ y) / length**2
        filtered = Survival(along, float((x - along * y).norm()) / length)
        matters = None
        if one.matters is not None:
            part = one.matters[place].double()
            matters = Survival(float(part @ y) / length**2, float((y - part).norm()) / length)
        found.append(Kept(one.modality, matters, filtered))
    return tuple(found)


def _nearest(run: Run, views: Sequence[ContentView], asked: Ints, met: Ints, count: int) -> list[tuple[Liked, ...]]:
    """For each item asked for the met ones, but itself, that are most similar in what the user keeps of both."""
    similar = torch.zeros(len(asked), len(met), dtype=torch.float64)
    shared = torch.zeros_like(similar)  # modalities that both items have
    for one in views:
        unit, has = F.normalize(one.kept.double().cpu(), dim=1), one.present.cpu()
        both = (has[: len(asked), None] & has[len(asked) :]).double()
        similar += both * (unit[: len(asked)] @ unit[len(asked) :].T)
        shared += both
    shared[torch.from_numpy(asked[:, None] == met)] = 0
    names = _named(run, met)
    found = []
    for row, common in zip(similar / shared.clamp(min=1), shared > 0, strict=True):
        order = [int(j) for j in row.argsort(descending=True, stable=True) if common[j]][:count]
        found.append(tuple(Liked(*names[j], similarity=float(row[j])) for j in order))
    return found
