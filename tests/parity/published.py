"""Numbers of the published peers, and what gtcrec's models must show beside them.

A test of a model reads so:

    case = load_case("lightgcn", "authors")
    model = build("lightgcn", names(case.parameters), num_layers=3, reg=1e-4)
    parity = Parity(case, names, {"bpr": ["bpr"], "reg": ["reg"]})
    parity.check_scores(model)
    found = model.loss(BATCH, stream())
    parity.check_terms(found)
    parity.check_gradients(model, found)

`names` turns tensors under published names into tensors under gtcrec's, of weights and of gradients alike.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtcrec import models
from gtcrec.types import Batch, Interactions, ItemFeatures

NUMBERS = Path(__file__).parent / "numbers"
TERM = 1e-5  # largest difference of a weighted term, by its size; gtcrec's exact models reach 1e-6
SCORE = 1e-5  # of a score, by the scores' standard deviation; reached: 6e-7
GRADIENT = 2e-5  # of an entry of a gradient, by the largest entry; reached: 6e-6

Tensors = Mapping[str, Tensor]
Names = Callable[[Tensors], dict[str, Tensor]]


def _read(name: str) -> dict[str, Any]:
    return json.loads((NUMBERS / f"{name}.json").read_text())


DATA = _read("data")
CONTENT = {name: np.array(x, dtype=np.float32) for name, x in DATA["content"].items()}
KEYS = {"image": "0_image", "text": "1_text"}  # a content's name -> its key in gtcrec's modules
BATCH = Batch(*torch.tensor(DATA["batch"]).T.contiguous())
_PAIRS = np.array(DATA["pairs"], dtype=np.int64)
TRAIN = Interactions(_PAIRS[:, 0], _PAIRS[:, 1], DATA["n_users"], DATA["n_items"])


@dataclass(frozen=True)
class PublishedCase:
    """What the published code of one model computes under one group of settings, from given weights and draws.

    `parameters` has the raw contents that are trained too. `terms` are weighted and add up to the loss. `gradients`
    are the loss's, of every parameter; `term_gradients` are those of a weighted term, where they are known. `facts` is
    the rest of the file: graphs, schedules, the choices of an earlier step.
    """

    settings: Mapping[str, Any]
    parameters: Tensors
    draws: Tensors
    loss: float
    terms: Mapping[str, float]
    gradients: Tensors
    term_gradients: Mapping[str, Tensors]
    scores: Tensor
    facts: Mapping[str, Any]


def load_case(model: str, case: str) -> PublishedCase:
    """Return a case of `numbers/<model>.json`; parameters that a term does not reach have gradients of 0."""
    file = _read(model)
    found = file["cases"][case]
    raw = {name: DATA["content"][content] for name, content in file["trained_content"].items()}
    parameters = _tensors({**file["parameters"], **raw, **found.get("parameters", {})})

    def whole(gradients: Mapping[str, Any]) -> Tensors:
        return {**{name: torch.zeros_like(x) for name, x in parameters.items()}, **_tensors(gradients)}

    return PublishedCase(
        settings=found["settings"],
        parameters=parameters,
        draws=_tensors(found.get("draws", {})),
        loss=found["loss"],
        terms={name: term["weighted"] for name, term in found["terms"].items()},
        gradients=whole(found["gradients"]),
        term_gradients={name: whole(one) for name, one in found.get("term_gradients", {}).items()},
        scores=torch.tensor(found.get("scores", [])),
        facts={**file, **found},
    )


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.tensor(x, dtype=torch.float32 if isinstance(np.array(x).flat[0], float) else None)
        for name, x in values.items()
    }


def build(
    name: str,
    weights: Tensors,
    content: Mapping[str, np.ndarray] = CONTENT,
    left: Sequence[str] = (),
    **settings: Any,
) -> nn.Module:
    """Return a model of embedding size 8 with these weights, under gtcrec's names.

    Every parameter must get its weights, but for those that start with a name in `left`: they keep their start values.
    """
    present = {m: np.ones(TRAIN.n_items, dtype=bool) for m in content}
    features = ItemFeatures(TRAIN.n_items, dict(content), present)
    config = models.make_config(name, {"embedding_dim": 8, **settings})
    model = models.build_model(name, TRAIN, features, config, seed=0)
    own = dict(model.named_parameters())
    others = {key for key in own if not key.startswith(tuple(left))}
    assert others <= set(weights) <= set(own), (sorted(others - set(weights)), sorted(set(weights) - set(own)))
    with torch.no_grad():
        for key, value in weights.items():
            assert own[key].shape == value.shape, (key, own[key].shape, value.shape)
            own[key].copy_(value)
    return model


def content_names(published: Tensors) -> dict[str, Tensor]:
    """The raw contents that the published code trains, and gtcrec's models with the setting `train_content`."""
    return {f"x_{key}": published[f"{name}_embedding.weight"] for name, key in KEYS.items()}


def with_content(names: Names) -> Names:
    """Return the names of a model's parameters with those of its trained contents."""
    return lambda published: names(published) | content_names(published)


@contextmanager
def stored_draws(**queues: Sequence[Tensor]) -> Iterator[None]:
    """Let `torch.rand` and the like, by name, return the next of a queue at each call; all must be asked for."""
    before = {name: getattr(torch, name) for name in queues}
    left = {name: list(queue) for name, queue in queues.items()}

    def draw(name: str) -> Callable[..., Tensor]:
        def next_of_queue(*shape: Any, **options: Any) -> Tensor:
            found = left[name].pop(0)
            size = shape[0] if shape and not isinstance(shape[0], int) else shape
            assert name not in ("rand", "randn") or tuple(size) == tuple(found.shape), (name, size, found.shape)
            return found

        return next_of_queue

    for name in queues:
        setattr(torch, name, draw(name))
    try:
        yield
    finally:
        for name, one in before.items():
            setattr(torch, name, one)
    assert not any(left.values()), {name: len(queue) for name, queue in left.items()}


@dataclass(frozen=True)
class Parity:
    """A published case beside a model of gtcrec.

    `terms` says for each of gtcrec's terms which published ones it is the sum of. `factors` has the terms that differ
    on purpose: gtcrec's value by the published one; the gradients of these are compared with the same factor, and those
    of the whole loss are not. `common` cuts from a gradient, by its name, what the published parameter has not.
    """

    case: PublishedCase
    names: Names
    terms: Mapping[str, Sequence[str]]
    factors: Mapping[str, float] = field(default_factory=dict)
    common: Callable[[str, Tensor], Tensor] = lambda name, gradient: gradient

    def check_scores(self, model: nn.Module, per_user_constant: bool = False) -> None:
        """Compare the scores of six users for all items; with `per_user_constant` only their differences."""
        found, expected = model.scorer()(torch.tensor(DATA["score_users"])), self.case.scores
        if per_user_constant:
            found, expected = (x - x.mean(dim=1, keepdim=True) for x in (found, expected))
        worst = ((found - expected).abs().max() / self.case.scores.std()).item()
        assert worst <= SCORE, f"scores differ by {worst:.1e} of their standard deviation"

    def check_terms(self, found: Tensors) -> None:
        """Compare each weighted term of the loss, which must be all of it."""
        terms = _of_the_loss(found)
        assert set(terms) == set(self.terms)
        assert sorted(t for group in self.terms.values() for t in group) == sorted(self.case.terms)
        for name, group in self.terms.items():
            expected = self.factors.get(name, 1.0) * sum(self.case.terms[t] for t in group)
            error = abs(terms[name].item() - expected)
            assert error <= TERM * abs(expected), f"{name} is {terms[name].item():.7g}, published {expected:.7g}"

    def check_gradients(self, model: nn.Module, found: Tensors, without: Sequence[str] = ()) -> None:
        """Compare the gradients of the whole loss, and of each term where they are known.

        `without` names parameters, or how their names start, that the published model has not.
        """
        terms = _of_the_loss(found)
        own = {n: p for n, p in model.named_parameters() if not n.startswith(tuple(without))}
        if not self.factors:
            self._compare("the loss", own, torch.stack(list(terms.values())).sum(), self.names(self.case.gradients))
        for name, group in self.terms.items():
            if all(t in self.case.term_gradients for t in group):
                each = [self.names(self.case.term_gradients[t]) for t in group]
                factor = self.factors.get(name, 1.0)
                self._compare(name, own, terms[name], {n: factor * sum(one[n] for one in each) for n in each[0]})

    def _compare(self, of: str, own: Mapping[str, nn.Parameter], value: Tensor, expected: Tensors) -> None:
        found = torch.autograd.grad(value, list(own.values()), retain_graph=True, allow_unused=True)
        assert set(expected) == set(own), set(expected) ^ set(own)
        for (name, parameter), gradient in zip(own.items(), found, strict=True):
            gradient = self.common(name, torch.zeros_like(parameter) if gradient is None else gradient)
            error, largest = (gradient - expected[name]).abs().max(), expected[name].abs().max()
            assert error <= GRADIENT * largest, (
                f"d {of} / d {name}: {error:.1e} off, the largest entry is {largest:.1e}"
            )


def _of_the_loss(found: Tensors) -> dict[str, Tensor]:
    return {name: value for name, value in found.items() if not name.startswith("log.")}
