"""The nightly recipe rehearsed: seven nights with new users, items and events, as cron would run them."""

import os
from pathlib import Path

import pytest

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.data import load
from gtcrec.data.build.pipeline import build, feature_configs
from gtcrec.data.features import encode_batch
from gtcrec.data.features.extract import encode
from gtcrec.data.features.fitted import read_encoders
from gtcrec.serving.http.live import LiveRun
from helpers.nights import CONFIG, GrowingShop

TRAIN = ["lightgcn", "embedding_dim=8", "batch_size=256", "epochs=2"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are opened."""
    names: list[str] = []
    real = encode_batch.open_image

    def open_image(source: Path, draft: int) -> object:
        names.append(source.name)
        return real(source, draft)

    monkeypatch.setattr(encode_batch, "open_image", open_image)
    return names


def run_night(shop: GrowingShop, night: int, data: Path, current: Path) -> None:
    """Append, train and point the link to the new run."""
    items, events = shop.day(night)
    paths = ["--items", str(items), "--interactions", str(events), f"image_root={shop.folder}", "--out", str(data)]
    assert execute(["data", "build", "--append", *paths]) == 0
    run = current.parent / f"run{night}"
    assert execute(["train", str(data), *TRAIN, "--init-from", str(current), "--out", str(run)]) == 0
    link(run, current)


def link(run: Path, current: Path) -> None:
    following = current.with_name("following")
    following.symlink_to(run)
    os.replace(following, current)


def from_scratch(shop: GrowingShop, out: Path, first: Path) -> Path:
    """Build all nights' tables together, with tags and numbers encoded as on the first day."""
    build(*shop.whole(7), out, CONFIG, image_root=shop.folder)
    for name in ("category", "numbers"):
        fitted = read_encoders(first / f"{name}_feat.encoder.npz")[0][name]
        encode(out / "items.parquet", out / f"{name}_feat.npy", feature_configs(CONFIG)[name], fitted=fitted)
    return out


@pytest.mark.slow
def test_seven_nights(tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shop, data, current = GrowingShop(tmp_path), tmp_path / "data", tmp_path / "current"
    build(*shop.day(0), data, CONFIG, image_root=shop.folder)
    assert execute(["train", str(data), *TRAIN, "--out", str(tmp_path / "run0")]) == 0
    link(tmp_path / "run0", current)
    live = LiveRun(current)
    users = set(live.current().recommender.user_ids)
    for night in range(1, 8):
        opened.clear()
        before = load(data)
        run_night(shop, night, data, current)
        after = load(data)
        came = len(after.items) - len(before.items)
        assert len(opened) <= came + 1  # one image was replaced; the others were encoded on an earlier day
        assert live.reload()
        known = live.current().recommender
        assert set(known.user_ids) >= users
        users = set(known.user_ids)
        assert known.recommend(sorted(users)[0], k=3).num_rows == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "warning" not in said
    assert len(users) > 60
    scratch = from_scratch(shop, tmp_path / "scratch", data)
    assert load(scratch).fingerprint == load(data).fingerprint
    again = gtcrec.train(
        scratch, "lightgcn", tmp_path / "again", embedding_dim=8, batch_size=256, epochs=2, init_from=tmp_path / "run6"
    )
    weights = [(folder / "model.safetensors").read_bytes() for folder in (again.folder, current)]
    assert weights[0] == weights[1]
