"""The table of models, and how a name and settings become one."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from gtcrec.errors import ConfigError, nearest
from gtcrec.models.base import Entry
from gtcrec.models.baselines import als, contentknn, ease, ials, itemknn, mmgf, rp3beta, userknn
from gtcrec.models.baselines.contentknn import ContentKNN, ContentKNNConfig
from gtcrec.models.baselines.ease import EASE, EASEConfig
from gtcrec.models.baselines.ials import IALS, IALSConfig
from gtcrec.models.baselines.itemknn import ItemKNN, ItemKNNConfig
from gtcrec.models.baselines.mmgf import MMGF, MMGFConfig
from gtcrec.models.baselines.popular import Popular, PopularConfig
from gtcrec.models.baselines.rp3beta import RP3beta, RP3betaConfig
from gtcrec.models.baselines.userknn import UserKNN, UserKNNConfig
from gtcrec.models.collaborative import bpr, lightgcn, simgcl
from gtcrec.models.collaborative.bpr import BPR, BPRConfig
from gtcrec.models.collaborative.lightgcn import LightGCN, LightGCNConfig
from gtcrec.models.collaborative.simgcl import SimGCL, SimGCLConfig
from gtcrec.models.gtc import model as gtc
from gtcrec.models.gtc.model import GTC, PRESETS, GTCConfig
from gtcrec.models.multimodal import bm3, diffmm, freedom, lgmrec, mgcn, smore, vbpr
from gtcrec.models.multimodal.bm3 import BM3, BM3Config
from gtcrec.models.multimodal.diffmm import DiffMM, DiffMMConfig
from gtcrec.models.multimodal.freedom import FREEDOM, FREEDOMConfig
from gtcrec.models.multimodal.lgmrec import LGMRec, LGMRecConfig
from gtcrec.models.multimodal.mgcn import MGCN, MGCNConfig
from gtcrec.models.multimodal.smore import SMORE, SMOREConfig
from gtcrec.models.multimodal.vbpr import VBPR, VBPRConfig
from gtcrec.runtime.process_group import ProcessGroup
from gtcrec.types import Interactions, ItemFeatures

__all__ = ["MODELS", "build", "find", "settings"]


MODELS: Mapping[str, Entry] = {
    "popular": Entry(Popular, PopularConfig, "the most liked items, the same for everyone"),
    "itemknn": Entry(ItemKNN, ItemKNNConfig, "items liked by the users of the user's items", space=itemknn.SPACE),
    "userknn": Entry(UserKNN, UserKNNConfig, "items liked by the users who resemble the user", space=userknn.SPACE),
    "rp3beta": Entry(
        RP3beta, RP3betaConfig, "where short walks from the user end, with popularity discounted", space=rp3beta.SPACE
    ),
    "ease": Entry(EASE, EASEConfig, "a linear item-item model in closed form", space=ease.SPACE),
    "ials": Entry(IALS, IALSConfig, "factors by alternating least squares over all pairs", space=ials.SPACE),
    "contentknn": Entry(
        ContentKNN, ContentKNNConfig, "items whose content is near that of the user's items", space=contentknn.SPACE
    ),
    "mmgf": Entry(
        MMGF,
        MMGFConfig,
        "graph filters of interactions and content, without training",
        space=mmgf.SPACE,
    ),
    "bpr": Entry(BPR, BPRConfig, "matrix factorisation trained on pairs", space=bpr.SPACE, sharded=True),
    "lightgcn": Entry(LightGCN, LightGCNConfig, "embeddings averaged over the user-item graph", space=lightgcn.SPACE),
    "simgcl": Entry(SimGCL, SimGCLConfig, "LightGCN that tells nodes from others under noise", space=simgcl.SPACE),
    "vbpr": Entry(VBPR, VBPRConfig, "matrix factorisation with factors of each content", space=vbpr.SPACE),
    "freedom": Entry(
        FREEDOM, FREEDOMConfig, "LightGCN on a pruned graph plus a frozen item graph of content", space=freedom.SPACE
    ),
    "bm3": Entry(BM3, BM3Config, "LightGCN and content pulled together by dropout, without negatives", space=bm3.SPACE),
    "mgcn": Entry(MGCN, MGCNConfig, "content that behaviour purifies and fuses, one view a modality", space=mgcn.SPACE),
    "lgmrec": Entry(
        LGMRec, LGMRecConfig, "content and identity over the user-item graph and learned hyperedges", space=lgmrec.SPACE
    ),
    "diffmm": Entry(
        DiffMM,
        DiffMMConfig,
        "user-item graphs that diffusion rebuilds for each modality",
        diffmm.PRESETS,
        space=diffmm.SPACE,
    ),
    "smore": Entry(SMORE, SMOREConfig, "contents filtered and fused in the frequency domain", space=smore.SPACE),
    "gtc": Entry(
        GTC,
        GTCConfig,
        "user-aware diffusion filtering of content and total correlation of views",
        PRESETS,
        space=gtc.SPACE,
        sharded=True,
    ),
}


def find(name: str) -> Entry:
    """Return the entry of a model; raises `ConfigError` with the nearest name."""
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}{nearest(name, MODELS)}; known: {', '.join(MODELS)}")
    return MODELS[name]


def settings(name: str, given: Mapping[str, Any], preset: str = "default") -> BaseModel:
    """Return the model's full config from the settings that differ from the preset.

    Raises `ConfigError` naming an unknown key with the nearest known one, or the value out of range.
    """
    entry = find(name)
    if preset not in entry.presets:
        raise ConfigError(
            f"{name} has no preset {preset!r}{nearest(preset, entry.presets)}; known: {', '.join(entry.presets)}"
        )
    known = entry.config.model_fields
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{name} has no setting {key!r}{nearest(key, known)}; known: {', '.join(known) or 'none'}"
            )
    try:
        return entry.config(**{**entry.presets[preset][0], **given})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several settings together: the message says which
            raise ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}: {key}: {first['msg']}, found {first['input']!r}") from error


def build(
    name: str,
    train: Interactions,
    features: ItemFeatures,
    config: BaseModel,
    seed: int,
    workers: ProcessGroup | None = None,
    solve: bool = True,
) -> nn.Module:
    """Return a fresh model; its weights depend on `seed` alone, and the global random state is left as it was.

    Of several `workers`, if given, each gets its own rows of the model's tables. With `solve` false, for a model whose
    weights are loaded next, those that least squares would solve for stay 0. Raises `ConfigError` for a model that
    cannot spread its tables.
    """
    entry = find(name)
    if workers is not None and not entry.sharded:
        able = ", ".join(key for key, one in MODELS.items() if one.sharded)
        raise ConfigError(f"train.tables=sharded wants a model of sharded tables, one of {able}; found {name}")
    spread = {} if workers is None else {"workers": workers}
    with torch.random.fork_rng(devices=[]), nullcontext() if solve else als.unsolved():
        torch.manual_seed(seed)
        return entry.model(config, train, features, **spread)
