"""Checks that every model passes, of this package or of another: `check_model(SPEC)` in a test of it."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtcrec.errors import ConfigError
from gtcrec.models import build_model, make_config
from gtcrec.models.base import ModelSpec
from gtcrec.training.trainer import TrainConfig, Training, epochs, fit
from gtcrec.types import Batch, Interactions, ItemFeatures, ScoringModel, Split

__all__ = ["check_model", "checkerboard", "model_checks", "random_features"]


def check_model(spec: ModelSpec) -> None:
    """Run all checks of a model, on small data made for them; takes seconds.

    Parameters
    ----------
    spec
        The model; it need not be registered. `spec.small` are the settings that it is checked with.

    Raises
    ------
    AssertionError
        When a check fails: its name and what was found.

    Examples
    --------
    >>> from gtcrec.models import get_spec
    >>> check_model(get_spec("popular"))
    """
    for name, check in model_checks(spec):
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"{spec.name}: {name}: {error}") from error


def model_checks(spec: ModelSpec) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of a model, each with its name, for a test runner to run one by one.

    Parameters
    ----------
    spec
        The model, as for `check_model`.

    Yields
    ------
    tuple of str and callable
        What the model must do, and a function without arguments that raises `AssertionError` unless it does.

    Examples
    --------
    >>> from gtcrec.models import get_spec
    >>> [name for name, _ in model_checks(get_spec("popular"))][:2]
    ['learns a checkerboard', 'loaded weights score equally']
    """
    for name, check in _CHECKS.items():
        yield name, partial(check, spec)
    if spec.is_trained:
        for name, check in _CHECKS_OF_TRAINED.items():
            yield name, partial(check, spec)


def checkerboard(widths: Mapping[str, int] | None = None, missing: float = 0.0, n: int = 40) -> Split:
    """Return a split in which users interact with the items of their own color alone, (u + i) even.

    Parameters
    ----------
    widths
        Modality -> length of its content, which is random; image of 6 and text of 5 if not given.
    missing
        Share of each modality's items without content.
    n
        Number of users, and of items.

    Returns
    -------
    Split
        60 % training, 20 % validation and 20 % test interactions, drawn at random; the same at each call.
    """
    rng = np.random.default_rng(7)
    users, items = np.nonzero((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
    part = rng.choice(3, size=len(users), p=[0.6, 0.2, 0.2])
    train, valid, test = (Interactions(users[part == p], items[part == p], n, n) for p in range(3))
    features = random_features(n, {"image": 6, "text": 5} if widths is None else widths, missing)
    return Split(train, valid, test, features, {"used": "checkerboard"})


def random_features(n_items: int, widths: Mapping[str, int], missing: float = 0.0, seed: int = 0) -> ItemFeatures:
    """Return standard normal content, modality -> width; a share `missing` of each modality's rows is absent."""
    rng = np.random.default_rng(seed)
    values, present = {}, {}
    for name, width in widths.items():
        has = rng.random(n_items) >= missing
        values[name] = np.where(has[:, None], rng.normal(size=(n_items, width)), 0).astype(np.float32)
        present[name] = has
    return ItemFeatures(n_items, values, present)


_QUICK: dict[str, Any] = {"batch_size": 64, "valid_metric": "recall@10"}


def _make(spec: ModelSpec, split: Split, seed: int = 0) -> nn.Module:
    return build_model(spec, split.train, split.features, make_config(spec, spec.small), seed)


def _scores(model: nn.Module, n_users: int = 40) -> Tensor:
    scores: Tensor = model.scorer()(torch.arange(n_users))  # type: ignore[operator]
    return scores


def _losses(model: nn.Module, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = model.loss(batch, torch.Generator().manual_seed(seed))  # type: ignore[operator]
    return terms


def _batch(split: Split, size: int = 32) -> Batch:
    rows = torch.randint(len(split.train), (32,), generator=torch.Generator().manual_seed(0))[:size]
    users, items = torch.from_numpy(split.train.users)[rows], torch.from_numpy(split.train.items)[rows]
    return Batch(users, items, (items + 1) % split.train.n_items)


def _learns_a_checkerboard(spec: ModelSpec) -> None:
    split = checkerboard()
    model = _make(spec, split)
    fit(model, split, TrainConfig(epochs=60, learning_rate=0.02, **_QUICK))
    scores, test = _scores(model).numpy(), split.final_test()
    others = ((u, i, np.arange((u + 1) % 2, test.n_items, 2)) for u, i in zip(test.users, test.items, strict=True))
    auc = float(np.mean([np.mean(scores[u, i] > scores[u, other]) for u, i, other in others]))
    if spec.personalized:
        assert auc > 0.95, f"expected an AUC above 0.95, found {auc:.3f}"
    else:  # both colors are equally popular up to chance
        assert 0.3 < auc < 0.7, f"expected an AUC near 0.5 without personalization, found {auc:.3f}"


def _loaded_weights_score_equally(spec: ModelSpec) -> None:
    split = checkerboard()
    first, second = _make(spec, split, seed=1), _make(spec, split, seed=2)
    if spec.is_trained:
        assert not torch.equal(_scores(first), _scores(second)), "two seeds give the same scores"
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(_scores(first), _scores(second)), "scores differ after loading the weights of another seed"


def _scorer_repeats_exactly(spec: ModelSpec) -> None:
    split = checkerboard()
    model = _make(spec, split)
    assert isinstance(model, ScoringModel), "the model has no scorer()"
    before = _scores(model)
    assert before.shape == (40, 40), f"expected scores [40, 40], found {list(before.shape)}"
    assert before.dtype == torch.float32, f"expected scores of float32, found {before.dtype}"
    assert before.isfinite().all(), "scores are not finite"
    if spec.is_trained:
        _losses(model, _batch(split), seed=5)
    assert torch.equal(before, _scores(model)), "scores differ at the second call"


def _works_with_any_modalities(spec: ModelSpec) -> None:
    cases: list[tuple[dict[str, int], float]] = [({}, 0.0), ({"text": 5}, 0.0), ({"a": 3, "b": 4, "c": 5}, 0.4)]
    for widths, missing in cases:
        split = checkerboard(widths, missing)
        model = _make(spec, split)
        training = fit(model, split, TrainConfig(epochs=2, **_QUICK))
        case = f"with modalities {widths}, of which a share of {missing} is missing"
        losses = [value for epoch in training.history for value in epoch.losses.values()]
        assert np.isfinite(losses).all(), f"the loss is not finite {case}"
        assert _scores(model).isfinite().all(), f"scores are not finite {case}"


def _refuses_an_unknown_setting(spec: ModelSpec) -> None:
    found = "it is accepted"
    try:
        make_config(spec, {"no_such_setting": 3})
    except ConfigError as error:
        found = str(error)
    expected = f"{spec.name} has no setting 'no_such_setting'"
    assert expected in found, f"expected an error that says {expected!r}, found: {found}"


def _search_space_is_valid(spec: ModelSpec) -> None:
    for key, candidates in spec.search_space.items():
        _, training, name = key.rpartition("train.")
        for value in candidates:
            config = TrainConfig(**{name: value}) if training else make_config(spec, {name: value})
            assert getattr(config, name) == value, f"{key}={value!r} becomes {getattr(config, name)!r}"
        assert len(set(candidates)) == len(candidates) > 1, f"{key}: expected distinct candidates, found {candidates}"
        default = getattr(TrainConfig() if training else make_config(spec, {}), name)
        assert default in candidates, f"{key}: its default {default!r} is no candidate"


def _every_parameter_gets_a_gradient(spec: ModelSpec) -> None:
    split = checkerboard()
    model = _make(spec, split)
    terms = _losses(model, _batch(split))
    torch.stack([value for key, value in terms.items() if not key.startswith("log.")]).sum().backward()  # type: ignore[no-untyped-call]
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == [], f"no gradient reaches {', '.join(silent)}"


def _loss_leaves_the_batch_unchanged(spec: ModelSpec) -> None:
    split = checkerboard()
    batch = _batch(split)
    before = [side.clone() for side in batch]
    _losses(_make(spec, split), batch)
    assert all(map(torch.equal, batch, before)), "loss() changed the batch"


def _scorer_is_a_snapshot(spec: ModelSpec) -> None:
    split = checkerboard()
    model = _make(spec, split)
    snapshot = model.scorer()  # type: ignore[operator]
    before = snapshot(torch.arange(40))
    fit(model, split, TrainConfig(epochs=2, **_QUICK))
    assert torch.equal(before, snapshot(torch.arange(40))), "training changed a scorer made before it"
    assert not torch.equal(before, _scores(model)), "training changed no score"


def _a_batch_of_one_pair_has_a_loss(spec: ModelSpec) -> None:
    split = checkerboard()
    terms = _losses(_make(spec, split), _batch(split, size=1))
    assert all(value.isfinite() for value in terms.values()), f"the loss is not finite: {terms}"


def _any_file_name_makes_a_modality(spec: ModelSpec) -> None:
    split = checkerboard({"clip.v2": 4, "keys": 3, "": 2})
    terms = _losses(_make(spec, split), _batch(split))
    assert all(value.isfinite() for value in terms.values()), f"the loss is not finite: {terms}"


def _one_seed_gives_one_history(spec: ModelSpec) -> None:
    split, config, histories = checkerboard(), TrainConfig(epochs=3, seed=3, **_QUICK), []
    rng_state = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002, the global state is the point
    try:
        for global_seed in (1, 99):
            torch.manual_seed(global_seed)
            np.random.seed(global_seed)  # noqa: NPY002
            before = torch.random.get_rng_state()
            model = _make(spec, split, seed=3)
            histories.append([(e.losses, e.valid) for e in epochs(model, split, config, Training(model, config))])
            assert torch.equal(before, torch.random.get_rng_state()), "the global random state moved"
    finally:
        torch.random.set_rng_state(rng_state[0])
        np.random.set_state(rng_state[1])  # noqa: NPY002
    assert histories[0] == histories[1], "training depends on the global random state"


def _a_resumed_training_ends_as_the_unbroken_one(spec: ModelSpec) -> None:
    split, config = checkerboard(), TrainConfig(epochs=4, learning_rate=0.02, **_QUICK)
    whole, first, second = (_make(spec, split, seed) for seed in (0, 0, 77))
    unbroken, begun = fit(whole, split, config), Training(first, config)
    for epoch in epochs(first, split, config, begun):
        if epoch.number == 2:
            break
    resumed = Training(second, config)
    with tempfile.TemporaryDirectory() as folder:
        begun.save(Path(folder) / "checkpoint.safetensors")
        resumed.load(Path(folder) / "checkpoint.safetensors")
    list(epochs(second, split, config, resumed))
    histories = [[(e.losses, e.valid) for e in one.history] for one in (resumed, unbroken)]
    assert histories[0] == histories[1], "the history after resuming differs"
    ends = whole.state_dict(), second.state_dict()
    different = [key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])]
    assert different == [], f"after resuming, weights differ: {', '.join(different)}"
    assert torch.equal(_scores(whole), _scores(second)), "after resuming, scores differ"


_CHECKS: Mapping[str, Callable[[ModelSpec], None]] = {
    "learns a checkerboard": _learns_a_checkerboard,
    "loaded weights score equally": _loaded_weights_score_equally,
    "its scorer repeats exactly": _scorer_repeats_exactly,
    "works with any modalities": _works_with_any_modalities,
    "refuses an unknown setting": _refuses_an_unknown_setting,
    "its search space is valid": _search_space_is_valid,
}
_CHECKS_OF_TRAINED: Mapping[str, Callable[[ModelSpec], None]] = {
    "every parameter gets a gradient": _every_parameter_gets_a_gradient,
    "its loss leaves the batch unchanged": _loss_leaves_the_batch_unchanged,
    "its scorer is a snapshot": _scorer_is_a_snapshot,
    "a batch of one pair has a loss": _a_batch_of_one_pair_has_a_loss,
    "any file name makes a modality": _any_file_name_makes_a_modality,
    "one seed gives one history": _one_seed_gives_one_history,
    "a resumed training ends as the unbroken one": _a_resumed_training_ends_as_the_unbroken_one,
}
