"""Writing a data set as folders that other libraries read: MMRec's and RecBole's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from gtcrec.data.splits import SplitConfig, assign
from gtcrec.errors import DataError
from gtcrec.runtime.files import atomic_path, link_or_copy, new_folder, write_manifest
from gtcrec.types import Dataset, Floats, ItemFeatures, ItemMetadata, Vocabulary

__all__ = ["write_mmrec", "write_recbole"]

_DEFAULT = SplitConfig()
_ROWS = 1 << 18  # of a text file, made at a time
_PARTS = ("train", "valid", "test")
_LONGEST = 256  # characters of an id that `load` reads


def write_mmrec(dataset: Dataset, out: str | Path, config: SplitConfig = _DEFAULT) -> Path:
    """Write a data set as an MMRec folder that `load` reads back with the same fingerprint; return the folder.

    `NAME.inter` (NAME is the folder's) holds `userID`, `itemID`, `timestamp` if there are times, and `x_label`, the
    data's own or those of `config`; `u_id_mapping.csv` and `i_id_mapping.csv` (tab-separated) the external ids.
    `M_feat.npy` are the contents, rows of items without content zero, and `M_present.npy` bool [n_items] the masks.
    `items.parquet` and `images/` are there if titles and images or other columns of items are. Raises `DataError` for
    a folder in use and ids that a tab-separated file cannot hold.
    """
    out, labels, pairs = Path(out), assign(dataset, config), dataset.interactions
    users, items = _id_texts(dataset.users), _id_texts(dataset.items)
    columns = {"userID": pa.array(pairs.users), "itemID": pa.array(pairs.items)}
    if dataset.times is not None:
        columns["timestamp"] = _number_texts(dataset.times)
    columns["x_label"] = pa.array(labels)
    with new_folder(out) as folder:
        names = [f"{out.resolve().name}.inter", "u_id_mapping.csv", "i_id_mapping.csv"]
        _write_tsv(folder / names[0], columns)
        _write_tsv(folder / names[1], {"user_id": users, "userID": pa.array(np.arange(len(users)))})
        _write_tsv(folder / names[2], {"item_id": items, "itemID": pa.array(np.arange(len(items)))})
        names += _write_features(dataset.features, folder)
        if dataset.item_metadata is not None:
            names += _write_item_metadata(dataset.item_metadata, folder)
        # Ids after the largest one with an interaction show in no row.
        about = {"format": "mmrec", "users": len(users), "items": len(items), "split": config.model_dump(mode="json")}
        write_manifest(folder, names, {"gtcrec": about})
    return out


def write_recbole(dataset: Dataset, out: str | Path, config: SplitConfig = _DEFAULT) -> Path:
    """Write a data set as RecBole's atomic files, the split ready made; return the folder.

    `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter` hold `user_id:token`, `item_id:token` and
    `timestamp:float` if there are times; set RecBole's `benchmark_filename` to `[train, valid, test]`. `NAME.item`
    holds `item_id:token` and, if there are cards, `title:token_seq` (white space made single blanks, " made ') and
    `image:token`. RecBole has no place for contents: row r of `M_feat.npy` and `M_present.npy` belongs to line r + 2
    of `NAME.item`. `load` numbers ids in their order as text or numbers. Raises `DataError` for a folder in use, ids
    that the files cannot hold, and users without an interaction.
    """
    out, labels, pairs = Path(out), assign(dataset, config), dataset.interactions
    users, items = _id_texts(dataset.users, quotes=False), _id_texts(dataset.items, quotes=False)
    lonely = np.flatnonzero(pairs.user_counts == 0)
    if len(lonely):
        user = dataset.users.ids[lonely[0]]
        raise DataError(f"RecBole's files know users by their interactions, user {str(user)!r} has none")
    with new_folder(out) as folder:
        name, names = out.resolve().name, []
        for label, word in enumerate(_PARTS):
            rows = np.flatnonzero(labels == label)
            sides = {"user_id:token": (users, pairs.users), "item_id:token": (items, pairs.items)}
            columns = {header: ids.take(pa.array(codes[rows])) for header, (ids, codes) in sides.items()}
            if dataset.times is not None:
                columns["timestamp:float"] = _number_texts(dataset.times[rows])
            names.append(f"{name}.{word}.inter")
            _write_tsv(folder / names[-1], columns)
        item_columns = {"item_id:token": items, **_recbole_item_metadata(dataset.item_metadata, folder)}
        names.append(f"{name}.item")
        _write_tsv(folder / names[-1], item_columns)
        names += _write_features(dataset.features, folder) + _image_names(folder)
        about = {"format": "recbole", "split": config.model_dump(mode="json")}
        write_manifest(folder, names, {"gtcrec": about})
    return out


def _id_texts(vocabulary: Vocabulary, quotes: bool = True) -> pa.Array:
    """Return ids as Arrow text; raises `DataError` for one that tab-separated text cannot hold."""
    ids = [str(one) for one in vocabulary.ids.tolist()]
    for one in ids:
        if not 0 < len(one) <= _LONGEST or any(letter in one for letter in "\t\n\r\0"):
            raise DataError(
                f"{vocabulary.word} {one[:40]!r} cannot stand in a tab-separated file: expected 1 to {_LONGEST} "
                "characters without tab, line break and NUL"
            )
        if not quotes and one.startswith('"'):
            raise DataError(f'{vocabulary.word} {one[:40]!r} begins with ", which RecBole takes for a quotation')
    return pa.array(ids, pa.string())


def _number_texts(numbers: Floats) -> pa.Array:
    """Return numbers as text that reads back equal, without a point where all are whole."""
    if len(numbers) and (numbers == np.floor(numbers)).all() and (abs(numbers) < 2.0**53).all():
        return pa.array(numbers.astype(np.int64))
    return pa.array([repr(one) for one in numbers.tolist()], pa.string())


def _write_tsv(path: Path, columns: Mapping[str, Any]) -> None:
    """Write Arrow columns by header as a tab-separated file; nothing is quoted."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(columns) + "\n")
        for start in range(0, len(next(iter(columns.values()))), _ROWS):
            cells = [pc.cast(column.slice(start, _ROWS), pa.string()) for column in columns.values()]
            stream.writelines(f"{line}\n" for line in pc.binary_join_element_wise(*cells, "\t").to_pylist())


def _write_features(features: ItemFeatures, folder: Path) -> list[str]:
    names = []
    for name in features.names:
        present, x = features.present[name], features.values[name]
        if (x[~present] != 0).any():
            x = np.where(present[:, None], x, np.float32(0))
        _save_array(folder / f"{name}_feat.npy", x)
        _save_array(folder / f"{name}_present.npy", present)
        names += [f"{name}_feat.npy", f"{name}_present.npy"]
    return names


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _write_item_metadata(item_metadata: ItemMetadata, folder: Path) -> list[str]:
    table = pa.table(
        {
            "itemID": np.arange(len(item_metadata.titles)),
            "title": list(item_metadata.titles),
            "image": _link_images(item_metadata, folder),
            **_other_columns(item_metadata),
        }
    )
    with atomic_path(folder / "items.parquet") as temporary:
        pa.parquet.write_table(table, temporary, compression="zstd")
    return ["items.parquet", *_image_names(folder)]


def _other_columns(item_metadata: ItemMetadata) -> dict[str, Any]:
    columns, written = item_metadata.columns, ("itemID", "title", "image")
    return {} if columns is None else {name: columns[name] for name in columns.column_names if name not in written}


def _recbole_item_metadata(item_metadata: ItemMetadata | None, folder: Path) -> dict[str, pa.Array]:
    if item_metadata is None:
        return {}
    titles = [" ".join(title.replace('"', "'").replace("\0", " ").split()) for title in item_metadata.titles]
    images = _link_images(item_metadata, folder)
    return {"title:token_seq": pa.array(titles, pa.string()), "image:token": pa.array(images, pa.string())}


def _link_images(item_metadata: ItemMetadata, folder: Path) -> list[str]:
    """Put the items' images into `images/` and return their paths, "" for none."""
    paths = []
    for item, image in enumerate(item_metadata.images):
        paths.append("" if image is None else f"images/{item}{image.suffix}")
        if image is not None:
            link_or_copy(image, folder / paths[-1])
    return paths


def _image_names(folder: Path) -> list[str]:
    return [f"images/{file.name}" for file in sorted(folder.glob("images/*"))]
