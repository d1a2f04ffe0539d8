"""Batches of texts, images or files to vectors: which encoder it is, and what it makes of a block of contents."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.data.features.color_layout import ABOUT as DESCRIPTOR
from gtcrec.data.features.color_layout import descriptor_encoder
from gtcrec.data.features.encode_config import EncodeConfig
from gtcrec.data.features.encoders import (
    TEXT_ENCODER,
    Encoder,
    Function,
    check_vectors,
    encoder_files,
    find_encoder,
    function_encoder,
    function_source,
    image_encoder,
    text_encoder,
    versions,
)
from gtcrec.data.features.images import open_image
from gtcrec.errors import DataError
from gtcrec.runtime.block_jobs import BlockFn
from gtcrec.types import Floats

__all__ = ["identify_encoder", "make_encode_fn"]


def identify_encoder(config: EncodeConfig, function: Function | None) -> tuple[Path | None, dict[str, Any]]:
    """Return the folder of the model, if any, and all that says which encoder it is."""
    name = config.encoder or config.function or (TEXT_ENCODER if config.text else "")
    if function:
        return None, {"name": name, "source": function_source(function)}
    if not name:
        return None, {**DESCRIPTOR, **versions("numpy", "pillow")}
    folder = find_encoder(name)
    about = {"name": name, "files": encoder_files(folder)}
    return folder, about | versions("torch", "transformers", *(["pillow"] if config.image else []))


def make_encode_fn(config: EncodeConfig, folder: Path | None, function: Function | None) -> BlockFn:
    if function:
        encoder = function_encoder(function)
    elif folder:
        encoder = (text_encoder if config.text else image_encoder)(folder, config.device)
    else:
        encoder = descriptor_encoder()
    return partial(_encode_batch, encoder, config)


def _encode_batch(encoder: Encoder, config: EncodeConfig, batch: pa.Table) -> pa.Table:
    """Return a batch's vectors (none if no row has one) and, for rows without, the reason."""
    rows, contents = batch["row"].to_numpy(), batch["content"].to_pylist()
    reasons: list[str | None] = [None] * len(rows)

    def readable() -> Iterator[Any]:
        for place, content in enumerate(contents):
            try:
                yield _open_content(content, config, encoder.draft)
            except DataError as error:
                reasons[place] = str(error)

    each = readable()
    first = next(each, None)
    found = None if first is None else encoder.encode(chain([first], each))
    columns: dict[str, Any] = {}
    if found is not None:
        places = np.array([place for place, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        part, why = check_vectors(found, rows[places], config.dtype)
        for place, reason in zip(places.tolist(), why, strict=True):
            reasons[place] = reason
        x: Floats = np.zeros((len(rows), part.shape[1]), dtype=config.dtype)
        x[places] = part
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    columns["reason"] = pa.array(reasons, pa.string())
    return pa.table(columns).replace_schema_metadata({"encoder": json.dumps(dict(encoder.about))})


def _open_content(content: Any, config: EncodeConfig, draft: int) -> Any:
    """Return what an encoder gets for a content."""
    if config.text:
        return content
    source = Path(content) if isinstance(content, str) else content
    return open_image(source, draft) if config.image else source
