"""A day's tables in a data folder that is there: what a build of all tables would have, and nothing encoded twice."""

import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gtcrec.data import load
from gtcrec.data.build.append import append
from gtcrec.data.build.pipeline import BuildConfig, build, feature_configs
from gtcrec.data.features import encode_batch
from gtcrec.data.features.extract import encode
from gtcrec.data.features.fitted import read_encoders
from gtcrec.data.splits import SplitConfig
from gtcrec.errors import ConfigError, DataError
from gtcrec.runtime import replacement
from gtcrec.runtime.files import check_manifest, write_manifest
from helpers.building import ACTS, ALL, ITEMS, built, rows, write
from helpers.faults import count_events, die_at, places
from helpers.nights import CONFIG, GrowingShop

FITTED = ("category", "numbers")


def from_scratch(shop: GrowingShop, night: int, out: Path, first: Path, config: BuildConfig = CONFIG) -> Path:
    """Build the tables of all nights together, with tags and numbers encoded as on the first day."""
    build(*shop.whole(night), out, config, image_root=shop.folder)
    for name in FITTED:
        fitted = read_encoders(first / f"{name}_feat.encoder.npz")[0][name]
        encode(out / "items.parquet", out / f"{name}_feat.npy", feature_configs(config)[name], fitted=fitted)
    return out


def sorted_rows(path: Path) -> list[str]:
    return sorted(map(str, pq.read_table(path).to_pylist()))


@pytest.mark.parametrize(
    ("strategy", "core"),
    [("leave_one_out", 0), ("leave_one_out", 3), ("random", 3), ("global_time", 3), ("cold_items", 3)],
)
def test_seven_nights_equal_a_build_from_scratch(tmp_path: Path, strategy: str, core: int) -> None:
    shop, out = GrowingShop(tmp_path), tmp_path / "data"
    config = CONFIG.model_copy(update={"core": core, "split": SplitConfig(strategy=strategy)})
    build(*shop.day(0), out, config, image_root=shop.folder)
    first = load(out)
    for night in range(1, 8):
        items, events = shop.day(night)
        report = append(out, items, events, image_root=shop.folder)
    scratch = from_scratch(shop, 7, tmp_path / "scratch", out, config)
    found, expected = load(out), load(scratch)
    assert found.fingerprint == expected.fingerprint
    assert len(found.users) > len(first.users)
    assert len(found.items) > len(first.items)
    for name in ("interactions", "items"):
        assert pq.read_table(out / f"{name}.parquet").equals(pq.read_table(scratch / f"{name}.parquet"))
    assert sorted_rows(out / "left_out_interactions.parquet") == sorted_rows(scratch / "left_out_interactions.parquet")
    assert found.item_metadata is not None
    assert all(image.is_file() for image in found.item_metadata.images if image)
    assert report["kept"] == json.loads((scratch / "report.json").read_text())["kept"]
    assert check_manifest(out)


def test_only_new_images_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, out, opened = GrowingShop(tmp_path), tmp_path / "data", []
    build(*shop.day(0), out, CONFIG.model_copy(update={"core": 0}), image_root=shop.folder)
    real = encode_batch.open_image
    monkeypatch.setattr(encode_batch, "open_image", lambda *source: (opened.append(source[0]), real(*source))[1])
    for night in range(1, 8):
        opened.clear()
        items, events = shop.day(night)
        append(out, items, events, image_root=shop.folder)
        new = {row["photo"] for row in (shop.items[night][0], *shop.items[night][2:])} - {""}
        assert {Path(path).name for path in opened} == {Path(path).name for path in new}
        assert len(opened) == len(new)


def test_a_night_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    shop, out = GrowingShop(tmp_path), tmp_path / "data"
    build(*shop.day(0), out, CONFIG.model_copy(update={"core": 0}), image_root=shop.folder)
    before, titles = load(out), dict(zip(*titled(out), strict=True))
    items, events = shop.day(1)
    report = append(out, items, events, image_root=shop.folder)
    after = load(out)
    assert report["appended"]["items that came in"] == 2
    assert report["appended"]["items of the folder that were given anew"] == 2
    assert report["appended"]["users that came in"] == len(after.users) - len(before.users)
    assert "What was appended" in (out / "report.md").read_text()
    changed = {one for one, title in zip(*titled(out), strict=True) if titles.get(one) not in (title, None)}
    assert changed == {row["sku"] for row in shop.items[1][:2]}
    known = after.items.index(before.items.ids)
    for name in before.features.names:
        same = [one not in changed for one in before.items.ids.tolist()]
        assert np.array_equal(after.features.values[name][known][same], before.features.values[name][same])
    numbers = after.items.index(sorted(changed))
    old = before.items.index(sorted(changed))
    assert not np.array_equal(after.features.values["numbers"][numbers], before.features.values["numbers"][old])


def titled(folder: Path) -> tuple[list[str], list[str]]:
    table = pq.read_table(folder / "items.parquet")
    return table["item_id"].to_pylist(), table["title"].to_pylist()


def test_a_user_below_the_core_comes_in_with_all_rows(tmp_path: Path) -> None:
    acts = "user_id,item_id\n" + "".join(f"u{u},i{i}\n" for u in range(3) for i in range(3)) + "late,i0\nlate,i1\n"
    items = "item_id,title\n" + "".join(f"i{i},Item {i}\n" for i in range(4))
    report = built(tmp_path, items, acts, BuildConfig(core=3))
    assert report["kept"]["users"] == 3
    (tmp_path / "day.csv").write_text("user_id,item_id\nlate,i2\n")
    report = append(tmp_path / "out", interactions=tmp_path / "day.csv")
    assert report["appended"]["users that came in"] == 1
    assert [row["item_id"] for row in rows(tmp_path) if row["user_id"] == "late"] == ["i0", "i1", "i2"]


def test_interactions_of_an_item_wait_for_the_item(tmp_path: Path) -> None:
    built(tmp_path)
    (tmp_path / "more.csv").write_text("item_id,title,genre,price\ngone,Back,kitchen,4\n")
    append(tmp_path / "out", items=tmp_path / "more.csv")
    assert [row["user_id"] for row in rows(tmp_path) if row["item_id"] == "gone"] == ["bob"]
    assert rows(tmp_path, "left_out_interactions") == []


@pytest.mark.parametrize("first", [True, False])
def test_the_earliest_of_repeated_interactions_stays_whenever_it_comes(tmp_path: Path, first: bool) -> None:
    acts = [f"user_id,item_id,rating,timestamp\nann,007,{rating},{time}\n" for rating, time in ((5, 20), (1, 10))]
    day, later = acts if first else reversed(acts)
    built(tmp_path, ITEMS, day, ALL)
    (tmp_path / "day.csv").write_text(later)
    append(tmp_path / "out", interactions=tmp_path / "day.csv")
    assert [(row["rating"], row["timestamp"]) for row in rows(tmp_path)] == [(1, 10)]


def test_a_night_without_items_and_one_without_interactions(tmp_path: Path) -> None:
    shop, out = GrowingShop(tmp_path), tmp_path / "data"
    build(*shop.day(0), out, CONFIG, image_root=shop.folder)
    items, events = shop.day(1)
    append(out, items=items, image_root=shop.folder)
    append(out, interactions=events)
    assert load(out).fingerprint == load(from_scratch(shop, 1, tmp_path / "scratch", out)).fingerprint


def test_the_same_tables_again_change_nothing(tmp_path: Path) -> None:
    shop, out = GrowingShop(tmp_path), tmp_path / "data"
    build(*shop.day(0), out, CONFIG, image_root=shop.folder)
    items, events = shop.day(1)
    first = append(out, items, events, image_root=shop.folder)
    before, said = (out / "manifest.json").read_bytes(), []
    assert append(out, items, events, image_root=shop.folder, on_stage=said.append) == first
    assert said == [f"{out}: these tables were appended already"]
    assert (out / "manifest.json").read_bytes() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08])
def test_a_reader_meanwhile_gets_one_day_or_the_next(two_days: Path, tmp_path: Path, delay: float) -> None:
    """Reading takes longer than an exchange, so that some reads find files of both."""
    days = [shutil.copytree(two_days / name, tmp_path / name) for name in ("data", "next")]
    expected = [load(day).fingerprint for day in days]
    exchange = threading.Timer(delay, replacement._exchange, days)
    exchange.start()
    found = load(days[0]).fingerprint
    exchange.join()
    assert found in expected
    assert load(days[0]).fingerprint == expected[1]


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, built, and `next`, the same a day later."""
    folder = tmp_path_factory.mktemp("days")
    shop = GrowingShop(folder)
    build(*shop.day(0), folder / "data", CONFIG, image_root=shop.folder)
    shutil.copytree(folder / "data", folder / "next")
    append(folder / "next", *shop.day(1), image_root=shop.folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_kill_leaves_the_former_folder_or_the_new_one(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two renames alone nothing stands at the path, until the next call puts the former folder back."""
    if way == "two renames":
        monkeypatch.setattr(replacement, "_exchange", lambda one, other: False)
    shop, kept, out = GrowingShop(tmp_path), tmp_path / "kept", tmp_path / "place" / "data"
    build(*shop.day(0), kept, CONFIG, image_root=shop.folder)
    items, events = shop.day(1)

    def work() -> None:
        append(out, items, events, image_root=shop.folder)

    shutil.copytree(kept, out)
    with pytest.MonkeyPatch.context() as patch:
        seen = count_events(patch, lambda now, name: None)
        work()
        last = max(number for number, event in enumerate(seen, 1) if event.startswith(("replace", "rename")))
    before, after = load(kept).fingerprint, load(out).fingerprint
    states = []
    for moment in sorted({*places(last, 5), *range(last - 2, last + 4)}):
        shutil.rmtree(out.parent)
        shutil.copytree(kept, out)
        assert die_at(moment, work) == 9
        states.append(load(out).fingerprint if out.exists() else "")
        work()
        assert load(out).fingerprint == after
        assert [one.name for one in out.parent.iterdir()] == ["data"]
    assert set(states) - {""} == {before, after}
    assert states.count("") == (way == "two renames")
    assert states == sorted(states, key=[before, "", after].index)


@pytest.mark.parametrize(
    ("items", "acts", "message"),
    [
        ("item_id,title,genre\nx,A,red\n", None, "day.csv: no column 'price'"),
        (
            None,
            "user_id,item_id,rating\nann,007,5\n",
            "acts2.csv: no time column, which the interactions of the folder",
        ),
        (None, "user_id,item_id,rating,timestamp\nann,007,much,5\n", "rating must be a finite number, found 'much'"),
        ("item_id,title,genre,price\nx,A,b,1\nx,B,b,2\n", None, "item_id 'x' stands twice: line 2 of day.csv"),
    ],
)
def test_a_faulty_table_is_refused_and_the_folder_stays(
    tmp_path: Path, items: str | None, acts: str | None, message: str
) -> None:
    built(tmp_path, config=BuildConfig(core=0, numbers=("price",), keep=("genre",)))
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    paths = {}
    if items:
        (tmp_path / "day.csv").write_text(items)
        paths["items"] = tmp_path / "day.csv"
    if acts:
        (tmp_path / "acts2.csv").write_text(acts)
        paths["interactions"] = tmp_path / "acts2.csv"
    with pytest.raises(DataError, match=message):
        append(tmp_path / "out", **paths)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / ".out.next").exists()


def test_folders_that_cannot_be_appended_to_say_why(tmp_path: Path) -> None:
    write(tmp_path, ITEMS, ACTS)
    with pytest.raises(ConfigError, match="expected a table of items, of interactions, or both"):
        append(tmp_path / "out")
    with pytest.raises(DataError, match="expected a folder of `gtcrec data build`, found another or none"):
        append(tmp_path / "out", tmp_path / "items.csv")
    built(tmp_path)
    manifest = check_manifest(tmp_path / "out")
    for name in ("left_out_interactions.parquet", "left_out_items.parquet"):
        (tmp_path / "out" / name).unlink()
        del manifest["files"][name]
    write_manifest(tmp_path / "out", manifest["files"], {"gtcrec": manifest["gtcrec"]})
    with pytest.raises(DataError, match=r"built by an earlier version, .*; build it anew once"):
        append(tmp_path / "out", tmp_path / "items.csv")
