"""The table of models, and how a name and settings become one. Imports no torch until a model is asked for."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from gtcrec.errors import ConfigError, config_error, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import nn

    from gtcrec.models.base import ModelSpec
    from gtcrec.runtime.process_group import ProcessGroup
    from gtcrec.types import Interactions, ItemFeatures

__all__ = ["MODELS", "WAY_OUT", "build_model", "complete_settings", "get_spec", "list_models", "make_config"]

MODELS: dict[str, tuple[str, str]] = {
    "popular": ("gtcrec.models.baselines.popular", "the most popular items, the same for everyone"),
    "itemknn": ("gtcrec.models.baselines.itemknn", "items that share users with the user's items"),
    "userknn": ("gtcrec.models.baselines.userknn", "items of the users who resemble the user"),
    "rp3beta": ("gtcrec.models.baselines.rp3beta", "short walks from the user, with popularity discounted"),
    "ease": ("gtcrec.models.baselines.ease", "a linear item-item model in closed form"),
    "l3ae": ("gtcrec.models.baselines.l3ae", "EASE whose weights are pulled to those that content says"),
    "ials": ("gtcrec.models.baselines.ials", "factors by alternating least squares over all pairs"),
    "contentknn": ("gtcrec.models.baselines.contentknn", "items whose content is near that of the user's items"),
    "mmgf": ("gtcrec.models.baselines.mmgf", "graph filters of interactions and content, without training"),
    "bpr": ("gtcrec.models.collaborative.bpr", "matrix factorisation trained on pairs"),
    "lightgcn": ("gtcrec.models.collaborative.lightgcn", "embeddings averaged over the user-item graph"),
    "simgcl": ("gtcrec.models.collaborative.simgcl", "LightGCN that tells nodes from others under noise"),
    "vbpr": ("gtcrec.models.multimodal.vbpr", "matrix factorisation with factors of each content"),
    "freedom": ("gtcrec.models.multimodal.freedom", "LightGCN on a pruned graph plus a frozen item graph of content"),
    "bm3": ("gtcrec.models.multimodal.bm3", "LightGCN and content pulled together by dropout, without negatives"),
    "mgcn": ("gtcrec.models.multimodal.mgcn", "content that behaviour purifies and fuses, one view a modality"),
    "lgmrec": (
        "gtcrec.models.multimodal.lgmrec",
        "content and identity over the user-item graph and learned hyperedges",
    ),
    "diffmm": ("gtcrec.models.multimodal.diffmm", "user-item graphs that diffusion rebuilds for each modality"),
    "smore": ("gtcrec.models.multimodal.smore", "contents filtered and fused in the frequency domain"),
    "gtc": ("gtcrec.models.gtc.model", "a linear part, an embedding, and a diffusion that filters content by user"),
}
"""Name -> the module that holds its `SPEC`, and one line about it."""


def list_models() -> dict[str, str]:
    """Return all models: name -> one line about it.

    First gtcrec's own, then those that installed packages offer under the entry-point group `gtcrec.models`. No model
    is imported, and no torch.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> list_models()["bpr"]
    'matrix factorisation trained on pairs'
    """
    offered = {name: _offer(point) for name, point in _offered_models().items()}
    return {**{name: summary for name, (_, summary) in MODELS.items()}, **offered}


def get_spec(name: str) -> "ModelSpec":
    """Import a model and return its spec.

    Parameters
    ----------
    name
        One of `list_models()`.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ConfigError
        For an unknown name, with the nearest known one, and for an entry point that cannot be loaded or is no spec.

    Examples
    --------
    >>> get_spec("lightgcn").paper
    'He et al. 2020, arXiv 2002.02126'
    """
    if name in MODELS:
        path, summary = MODELS[name]
        spec: ModelSpec = import_module(path).SPEC
        return replace(spec, summary=summary)
    offered = _offered_models()
    if name in offered:
        return _load_offered(offered[name])
    known = list_models()
    raise ConfigError(f"unknown model {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def make_config(model: "str | ModelSpec", settings: Mapping[str, Any], preset: str = "default") -> "BaseModel":
    """Return a model's full config.

    Parameters
    ----------
    model
        One of `list_models()`, or a spec.
    settings
        Settings by name that differ from the preset's.
    preset
        One of the model's presets.

    Raises
    ------
    ConfigError
        Naming an unknown key or preset with the nearest known one, or the value out of range.

    Examples
    --------
    >>> make_config("ease", {"reg": 200}).reg
    200.0
    """
    from pydantic import ValidationError

    from gtcrec.models.renamed import rename_settings

    spec = get_spec(model) if isinstance(model, str) else model
    if preset not in spec.presets:
        raise ConfigError(
            f"{spec.name} has no preset {preset!r}{nearest(preset, spec.presets)}; known: {', '.join(spec.presets)}"
        )
    known = spec.config.model_fields
    settings = rename_settings(settings, spec.config)
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"{spec.name} has no setting {key!r}{nearest(key, known)}; known: {', '.join(known) or 'none'}"
            )
    try:
        return spec.config(**{**spec.presets[preset][0], **settings})
    except ValidationError as error:
        raise config_error(error, spec.name) from error


def complete_settings(model: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's stored settings with those that came later, at values that leave the model as it was stored.

    Parameters
    ----------
    model
        One of `list_models()`.
    stored
        All settings that the model had when they were stored, by name.

    Raises
    ------
    ConfigError
        For an unknown model.

    Examples
    --------
    >>> complete_settings("lightgcn", {"embedding_dim": 8})
    {'embedding_dim': 8}
    """
    earlier: Mapping[str, Any] = getattr(get_spec(model).config, "earlier_settings", {})
    return {**earlier, **stored}


def build_model(
    model: "str | ModelSpec",
    train: "Interactions",
    features: "ItemFeatures",
    config: "BaseModel",
    seed: int,
    workers: "ProcessGroup | None" = None,
    init_weights: bool = True,
) -> "nn.Module":
    """Return a fresh model; the global random state is left as it was.

    Parameters
    ----------
    model
        One of `list_models()`, or a spec.
    train
        Training interactions, [n_users, n_items].
    features
        Content of the n_items items; the model gets it standardised if its setting `content_scaling` says so.
    config
        The model's settings, from `make_config`.
    seed
        Of the weights, which depend on nothing else.
    workers
        Processes of which each gets its own rows of the model's embeddings.
    init_weights
        False for a model whose weights are loaded next: what least squares would solve for is not computed.

    Raises
    ------
    ConfigError
        For a model that cannot spread its embeddings over `workers`, and where memory is short.
    """
    import torch

    from gtcrec.models.memory import estimate_memory
    from gtcrec.runtime.memory import require_memory

    spec = get_spec(model) if isinstance(model, str) else model
    if workers is not None and not spec.supports_sharding:
        able = ", ".join(one for one in list_models() if get_spec(one).supports_sharding)
        raise ConfigError(
            f"train.embedding_sharding=row_wise needs a model that can be sharded, one of {able}; found {spec.name}"
        )
    options: dict[str, Any] = {} if workers is None else {"workers": workers}
    if not init_weights and spec.supports_deferred_init:
        options["init_weights"] = False
    what = f"{spec.name} for {train.n_users:,} users and {train.n_items:,} items"
    least = estimate_memory(spec, config, train, features).model
    with require_memory(what, least, WAY_OUT), torch.random.fork_rng(devices=[]):
        if getattr(config, "content_scaling", "raw") == "standardized":
            from gtcrec.ops.feature_transforms import standardize_features

            features = standardize_features(features)
        torch.manual_seed(seed)
        model_class = spec.choose_model(config) if spec.choose_model else spec.model
        return model_class(config, train, features, **options)


WAY_OUT = "a smaller catalogue (data.k_core), a smaller embedding_dim or another model needs less"
"""What would need less memory than a model that does not fit."""


def _offered_models() -> dict[str, EntryPoint]:
    """The models of installed packages by name, without those of a name that gtcrec has."""
    return {point.name: point for point in entry_points(group="gtcrec.models") if point.name not in MODELS}


def _offer(point: EntryPoint) -> str:
    return f"from the package {point.dist.name}" if point.dist else f"from {point.value}"


def _load_offered(point: EntryPoint) -> "ModelSpec":
    from gtcrec.models.base import ModelSpec

    where = f"the entry point {point.name} = {point.value!r} of gtcrec.models"
    try:
        spec = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where} cannot be loaded: {error}") from error
    if not isinstance(spec, ModelSpec):
        found = f"the class {spec.__name__}" if isinstance(spec, type) else type(spec).__name__
        raise ConfigError(f"{where}: expected a ModelSpec, found {found}")
    return spec
