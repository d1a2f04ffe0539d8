"""A folder of raw tables with faults of many kinds, and what is built of it."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gtcrec.data.build.pipeline import BuildConfig, build

ALL = BuildConfig(core=0)
ITEMS = "item_id,title,genre,price\n007,Mug,kitchen|red,3.5\nb c,Été,kitchen,\n木,Lamp,,12\nunseen,None,red,7\n"
ACTS = (
    "user_id,item_id,rating,timestamp\nann,007,5,30\nann,b c,1,20\n 2,木,4,10\nbob,007,3,40\nann,007,5,15\n"
    ",007,5,1\nbob,,5,1\nbob,gone,5,1\nbob,木,,1\nbob,b c,4,\n"
)


def write(folder: Path, items: str = ITEMS, acts: str = ACTS) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "items.csv").write_text(items)
    (folder / "acts.csv").write_text(acts)
    return folder / "items.csv", folder / "acts.csv"


def built(folder: Path, items: str = ITEMS, acts: str = ACTS, config: BuildConfig = ALL) -> dict[str, Any]:
    return build(*write(folder, items, acts), folder / "out", config)


def rows(folder: Path, name: str = "interactions") -> list[dict[str, Any]]:
    return pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()


def dropped(report: dict[str, Any]) -> dict[str, int]:
    return {one["reason"]: one["count"] for one in report["dropped"]}
