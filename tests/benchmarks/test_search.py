"""The benchmark of approximate search measures every way."""

from benchmarks.speed import ann


def test_every_way_is_measured_and_fills_the_table():
    found = ann.measure(600, seed=0)
    assert [one["search"] for one in found] == ["exact", "ivf 128", "ivf 512", "hnsw 128", "hnsw 512"]
    assert all(one["query_ms"]["median"] > 0 and one["recall"] > 0.9 for one in found)
    table = ann.table_block({"about": {"k": 20}, "sizes": {"600": found}})
    assert [row[:2] for row in table.rows[::2]] == [
        ("600", "exact"),
        ("600", "IVF, 512 cells"),
        ("600", "HNSW, 512 candidates"),
    ]
    assert {line.count("|") for line in table.lines()} == {6}
