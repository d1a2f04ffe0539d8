"""Names of settings that version 0.1 had, and what they are called now.

Old names are accepted for one release: in Python, `--set`, YAML files, run folders, search spaces and studies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from gtcrec.errors import ConfigError

__all__ = ["RENAMED", "Renamed", "current_setting", "has_setting", "rename_settings"]


@dataclass(frozen=True)
class Renamed:
    """A setting's name now, and its old values that are written otherwise now."""

    name: str
    values: Mapping[Any, Any] = field(default_factory=dict)


RENAMED: Mapping[str, Renamed] = {
    # of several models
    "dim": Renamed("embedding_dim"),
    "layers": Renamed("num_layers"),
    "item_layers": Renamed("num_item_layers"),
    "content_layers": Renamed("num_content_layers"),
    "neighbours": Renamed("num_neighbors"),
    "item_neighbours": Renamed("num_item_neighbors"),
    "hidden": Renamed("hidden_dim"),
    "activity": Renamed("activity_discount"),
    # ease, ials, userknn, contentknn
    "most_items": Renamed("max_items"),
    "unobserved": Renamed("unobserved_weight"),
    "sweeps": Renamed("num_sweeps"),
    "frequency": Renamed("reg_exponent"),
    "deviation": Renamed("init_std"),
    "popularity": Renamed("popularity_discount"),
    "interactions": Renamed("interaction_weight"),
    "liked_neighbours": Renamed("num_interaction_neighbors"),
    # simgcl, freedom, lgmrec
    "contrasted": Renamed("contrast_batch_size"),
    "pruned": Renamed("edge_dropout"),
    "hyperedges": Renamed("num_hyperedges"),
    "hyper_layers": Renamed("num_hyper_layers"),
    # diffmm
    "denoised_users": Renamed("denoising_batch_size"),
    "generated": Renamed("num_generated_items"),
    "generated_weight": Renamed("generated_graph_weight"),
    "contrast": Renamed("contrast_views"),
    "memory_gib": Renamed("max_memory_gib"),
    # gtc
    "start": Renamed("init"),
    "als_unobserved": Renamed("unobserved_weight"),
    "item_search": Renamed("neighbor_search"),
    "identity_dropout": Renamed("id_dropout"),
    "user_neighbours": Renamed("num_user_neighbors"),
    "condition": Renamed("condition", {"liked": "user_history", "identity": "item_id", "audience": "item_audience"}),
    "prototypes": Renamed("num_prototypes"),
    "width": Renamed("content_dim"),
    "level": Renamed("noise_level"),
    "aligned_items": Renamed("alignment_batch_size"),
    "taste": Renamed("modality_preference", {"own": "learned"}),
    "refine": Renamed("attention_refinement"),
    "echo": Renamed("leave_one_out", {True: False, False: True}),
    "walks": Renamed("num_walks"),
    "denoised_pairs": Renamed("denoising_batch_size"),
    "pair_weight": Renamed("pair_diffusion_weight"),
    "rerank": Renamed("rerank_top_n"),
    # training
    "decay": Renamed("lr_decay"),
    "negatives": Renamed("negative_items", {"met": "warm"}),
    "tables": Renamed("embedding_sharding", {"whole": "none", "sharded": "row_wise"}),
}
"""Old name -> new one. An entry concerns those configs that have the new name and not the old one."""


def current_setting(key: str, config: type[BaseModel]) -> str:
    """Return today's name of a setting of `config`; a name that is no old one is returned as it is."""
    renamed = RENAMED.get(key)
    return renamed.name if renamed and key not in config.model_fields and renamed.name in config.model_fields else key


def has_setting(key: str, config: type[BaseModel]) -> bool:
    """Return whether `config` has a setting of this name, has it under another name now, or had it once."""
    return current_setting(key, config) in config.model_fields or key in _removed_settings(config)


def rename_settings(settings: Mapping[str, Any], config: type[BaseModel]) -> dict[str, Any]:
    """Return settings of `config` under today's names and with today's values, in the same order.

    Settings that `config.removed_settings` names are left out. Raises `ConfigError` for one with another value than
    stands there, and for a setting that is given under both names.
    """
    found: dict[str, Any] = {}
    removed = _removed_settings(config)
    for key, value in settings.items():
        if key in removed:
            if value != removed[key]:
                expected = f"expected {key}={removed[key]}, found {value}"
                raise ConfigError(f"the setting {key} was removed: {expected}; version 0.1 runs it")
            continue
        name = current_setting(key, config)
        if name in found or (name != key and name in settings):
            raise ConfigError(f"{name} is given twice: {key} is its old name")
        found[name] = _current_value(key, name, value)
    return found


def _removed_settings(config: type[BaseModel]) -> Mapping[str, Any]:
    removed: Mapping[str, Any] = getattr(config, "removed_settings", {})
    return removed


def _current_value(key: str, name: str, value: Any) -> Any:
    """Return today's form of a value, which may be unhashable and so no old one."""
    if key in RENAMED and RENAMED[key].name == name and isinstance(value, str | bool):
        return RENAMED[key].values.get(value, value)
    return value
