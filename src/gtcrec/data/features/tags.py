"""Tags and categories as content: TF-IDF, then truncated SVD."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.data.features.encoders import versions
from gtcrec.data.formats.columns import decode_cells
from gtcrec.data.formats.tables import Table
from gtcrec.errors import ConfigError
from gtcrec.types import Floats

__all__ = ["read_tags", "tag_vectors"]

_LEAST = 1e-4  # length, of 1, below which a vector is rounding errors


def tag_vectors(
    table: Table, names: Sequence[str], separator: str, width: int
) -> tuple[Floats, list[str | None], dict[str, Any]]:
    """Return the items' tags as float64 [rows, at most `width`], why a row is zero ("": no tag), and the facts.

    A row is the unit TF-IDF vector of an item's tags, each counted once, weighted by ln((1 + n) / (1 + n_t)) + 1 for n
    items with tags, n_t of them with tag t. More than `width` tags are turned into the first `width` singular
    directions (Deerwester et al., "Indexing by latent semantic analysis", 1990). An item none of whose tags takes part
    in these has no vector. Raises `ConfigError` without scikit-learn.
    """
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ConfigError('scikit-learn is not installed; pip install "gtcrec[encode]"') from error
    tags, reasons = read_tags(table, names, separator)
    filled = [row for row, reason in enumerate(reasons) if reason is None]
    about: dict[str, Any] = {"name": "tf-idf", "separator": separator, **versions("scikit-learn")}
    if not filled:
        return np.zeros((len(tags), 1)), reasons, about
    vectorizer = TfidfVectorizer(analyzer=list, binary=True)
    found = vectorizer.fit_transform([tags[row] for row in filled])  # sparse [filled, tags]
    about |= {"tags": found.shape[1]}
    if found.shape[1] > width:
        svd = TruncatedSVD(min(width, len(filled)), algorithm="randomized", n_iter=7, random_state=0)
        part = svd.fit_transform(found)
        about |= {"directions": part.shape[1], "explained": round(float(svd.explained_variance_ratio_.sum()), 4)}
    else:
        part = found.toarray()
    kept = np.linalg.norm(part, axis=1) >= _LEAST
    x: Floats = np.zeros((len(tags), part.shape[1]))
    x[np.array(filled)[kept]] = part[kept]
    for row in np.array(filled)[~kept].tolist():
        reasons[row] = f"its tags take no part in the first {part.shape[1]} directions"
    return x, reasons, about


def read_tags(table: Table, names: Sequence[str], separator: str) -> tuple[list[list[str]], list[str | None]]:
    """Return the distinct tags of each row as "column=tag", and why a row has none: "", or what is wrong with it.

    A cell holds tags between `separator`, or is a list of them. Blanks around a tag and its case do not matter.
    """
    tags: list[dict[str, None]] = [{} for _ in range(len(table))]
    wrong: dict[int, str] = {}
    for name in names:
        for row, cell in enumerate(_split_tags(table, name, separator)):
            if cell is None:
                wrong[row] = f"{name} is not UTF-8"
            words = (tag.strip().casefold() for tag in cell or ())
            tags[row] |= {f"{name}={tag}": None for tag in words if tag}
    found = [[] if row in wrong else list(one) for row, one in enumerate(tags)]
    return found, [None if one else wrong.get(row, "") for row, one in enumerate(found)]


def _split_tags(table: Table, name: str, separator: str) -> list[list[str] | None]:
    column = table.columns.column(name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [[str(tag) for tag in cell or () if tag is not None] for cell in column.to_pylist()]
    return [None if cell is None else cell.split(separator) for cell in decode_cells(table, name)]
