"""The benchmark of building makes what it draws."""

from pathlib import Path

from benchmarks.speed import build
from gtcrec.data import load
from helpers.building import dropped


def test_the_benchmark_builds_what_it_draws(tmp_path: Path) -> None:
    for kind in ("parquet", "csv"):
        tables = [tmp_path / f"{name}.{kind}" for name in ("items", "interactions")]
        build.write(tables[0], build.draw_items(200))
        build.write(tables[1], build.draw_interactions(5000, 100, 200))
        found = build.point(*tables, tmp_path / kind)
        assert len(load(tmp_path / kind).interactions) == found["kept"]["interactions"] > 1000
        assert {"without a user id", "of an item that the items table lacks"} < set(dropped(found))
        assert found["wall"] > 0
        assert found["peak"] > 2**20
    assert (tmp_path / "csv/tags_feat.npy").read_bytes() == (tmp_path / "parquet/tags_feat.npy").read_bytes()
