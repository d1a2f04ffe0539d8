"""Every user's list as a TREC run or as CSV, in blocks of users."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa

from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path
from gtcrec.serving.batch import BLOCK_USERS
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel

__all__ = ["write_lists"]


def write_lists(model: TrainedModel, folder: Path, form: Literal["trec", "csv"], request: ListRequest) -> None:
    """Write every user's list to `lists.trec` or `lists.csv`; no more than a block of users is held.

    TREC: lines of `user Q0 item rank score tag`, as trec_eval and ir-measures read them, the model's name as tag.
    Raises `DataError` for an id with white space, which TREC cannot hold.
    """
    if form == "trec":
        for ids in (model.bundle.users, model.bundle.items):
            _require_words(ids.ids.tolist(), ids.word)
    with (
        atomic_path(folder / f"lists.{form}") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        if form == "csv":
            csv.writer(stream, lineterminator="\n").writerow(["user_id", "item_id", "rank", "score"])
        for lists in _blocks(model, request):
            _write_rows(stream, lists, form, model.bundle.model)


def _blocks(model: TrainedModel, request: ListRequest) -> Iterator[pa.Table]:
    n_users = len(model.bundle.users)
    for start in range(0, n_users, BLOCK_USERS):
        yield model.recommend(np.arange(start, min(start + BLOCK_USERS, n_users)), request)


def _write_rows(stream: TextIO, lists: pa.Table, form: str, tag: str) -> None:
    rows = zip(*(column.to_pylist() for column in lists.columns), strict=True)
    if form == "csv":
        csv.writer(stream, lineterminator="\n").writerows(rows)
        return
    # Nine digits tell any two float32 apart, so that the order of scores is that of the ranks.
    stream.writelines(f"{user} Q0 {item} {rank} {score:.9g} {tag}\n" for user, item, rank, score in rows)


def _require_words(ids: list[Any], word: str) -> None:
    for one in map(str, ids):
        if one.split() != [one]:
            raise DataError(f"{word} {one!r}: a TREC run cannot hold an id with white space; use csv")
