"""Tags and categories as content: TF-IDF, then truncated SVD."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec.data.features.encoders import versions
from gtcrec.data.formats.columns import decode_cells
from gtcrec.data.formats.tables import Table
from gtcrec.errors import ConfigError
from gtcrec.types import Floats

__all__ = ["FittedTags", "read_tags", "tag_vectors"]

_LEAST = 1e-4  # length, of 1, below which a vector is rounding errors


@dataclass(frozen=True, eq=False)
class FittedTags:
    """What TF-IDF and SVD learnt of a catalog's tags.

    `vocabulary` are the tags as `read_tags` returns them, `idf` float64 [tags] their weights. `components` float64
    [directions, tags] are the singular directions, None where the tags themselves are the columns.
    """

    vocabulary: tuple[str, ...]
    idf: Floats
    components: Floats | None

    @property
    def width(self) -> int:
        """Numbers a vector."""
        return len(self.vocabulary) if self.components is None else len(self.components)


def tag_vectors(
    table: Table, names: Sequence[str], separator: str, width: int, fitted: FittedTags | None = None
) -> tuple[Floats, list[str | None], dict[str, Any], FittedTags]:
    """Return the items' tags as float64 [rows, at most `width`], why a row is zero ("": no tag), facts and the fit.

    A row is the unit TF-IDF vector of an item's tags, each counted once, weighted by ln((1 + n) / (1 + n_t)) + 1 for n
    items with tags, n_t of them with tag t. More than `width` tags are turned into the first `width` singular
    directions (Deerwester et al., "Indexing by latent semantic analysis", 1990). An item none of whose tags takes part
    in these has no vector. With `fitted` nothing is learnt of the table: tags that it lacks are left out. Raises
    `ConfigError` without scikit-learn.
    """
    tags, reasons = read_tags(table, names, separator)
    filled = [row for row, reason in enumerate(reasons) if reason is None]
    about: dict[str, Any] = {"name": "tf-idf", "separator": separator, **versions("scikit-learn")}
    if not filled:
        fitted = fitted or FittedTags((), np.zeros(0), None)
        return np.zeros((len(tags), max(fitted.width, 1))), reasons, about, fitted
    documents = [tags[row] for row in filled]
    if fitted is None:
        fitted, facts = _fit(documents, width)
        about |= facts
    part = _transform(documents, fitted)
    kept = np.linalg.norm(part, axis=1) >= _LEAST
    x: Floats = np.zeros((len(tags), part.shape[1]))
    x[np.array(filled)[kept]] = part[kept]
    known = set(fitted.vocabulary)
    for row in np.array(filled)[~kept].tolist():
        least = "take no part in" if known.intersection(tags[row]) else "were not there when it was fitted: none is in"
        reasons[row] = f"its tags {least} the first {part.shape[1]} directions"
    return x, reasons, about, fitted


def _fit(documents: Sequence[Sequence[str]], width: int) -> tuple[FittedTags, dict[str, Any]]:
    decomposition, vectorizer = _sklearn("TruncatedSVD"), _sklearn("TfidfVectorizer")(analyzer=list, binary=True)
    found = vectorizer.fit_transform(documents)  # sparse [filled, tags]
    vocabulary, facts = tuple(map(str, vectorizer.get_feature_names_out())), {"tags": found.shape[1]}
    if found.shape[1] <= width:
        return FittedTags(vocabulary, vectorizer.idf_, None), facts
    svd = decomposition(min(width, len(documents)), algorithm="randomized", n_iter=7, random_state=0)
    svd.fit(found)
    components = svd.components_
    explained = round(float(svd.explained_variance_ratio_.sum()), 4)
    return FittedTags(vocabulary, vectorizer.idf_, components), {
        **facts, "directions": len(components), "explained": explained,
    }  # fmt: skip


def _transform(documents: Sequence[Sequence[str]], fitted: FittedTags) -> Floats:
    """Return the vectors of lists of tags, float64 [n, width]; each depends on its own tags alone."""
    vectorizer = _sklearn("TfidfVectorizer")(analyzer=list, binary=True, vocabulary=list(fitted.vocabulary))
    vectorizer.idf_ = fitted.idf
    found = vectorizer.transform(documents)
    x: Floats = found.toarray() if fitted.components is None else found @ fitted.components.T
    return x


def _sklearn(name: str) -> Any:
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ConfigError('scikit-learn is not installed; pip install "gtcrec[encode]"') from error
    return {"TruncatedSVD": TruncatedSVD, "TfidfVectorizer": TfidfVectorizer}[name]


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
