"""What notebooks show: pictures and titles of lists, runs at a glance."""

import base64
import io
import re

import pyarrow as pa
import pytest

import gtcrec
from gtcrec.errors import ConfigError, DataError
from gtcrec.reporting import notebook


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return gtcrec.data.write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=60, n_items=40)


@pytest.fixture(scope="module")
def data(shop):
    return gtcrec.load_dataset(shop)


@pytest.fixture(scope="module")
def model(data):
    return gtcrec.Recommender("popular").fit(data)


def test_lists_are_shown_with_pictures_titles_and_scores_in_their_order(model, data):
    from PIL import Image

    lists = model.recommend(["u0001", "u0002"], k=3)
    page = gtcrec.show_items(lists, data)._repr_html_()
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(one))).size for one in pictures]
    assert len(sizes) == 6
    assert max(map(max, sizes)) <= 160
    shown = re.findall(r"(u0001|u0002|(?<=opacity:.65\">)p\d{4} · [\d.]+)", page)
    rows = lists.to_pylist()
    cards = [f"{row['item_id']} · {row['score']:.4f}" for row in rows]
    assert shown == ["u0001", *cards[:3], "u0002", *cards[3:]]
    titles = model.titles_of([row["item_id"] for row in rows])
    assert all(title in page for title in titles)


def test_similar_items_and_plain_ids_are_shown_too(model, data):
    ids = model.item_ids[:2]
    assert gtcrec.show_items(ids, data)._repr_html_().count("<img") == 2
    table = pa.table({"item_id": ids, "similar_item_id": ids, "rank": [1, 1], "score": [0.5, 0.25]})
    assert gtcrec.show_items(table, data)._repr_html_().count("<figure") == 2


def test_a_long_table_is_cut(data, model, monkeypatch):
    monkeypatch.setattr(notebook, "_MOST", 4)
    page = gtcrec.show_items(model.recommend(["u0001"], k=7), data)._repr_html_()
    assert page.count("<figure") == 4
    assert "and 3 more" in page


def test_text_of_items_is_escaped(tmp_path):
    (tmp_path / "shop").mkdir()
    pairs = [(user, item) for user in range(6) for item in range(4)]
    rows = "".join(f"u{user},i{item}\n" for user, item in pairs)
    (tmp_path / "shop" / "interactions.csv").write_text("user_id,item_id\n" + rows)
    items = "".join(f"i{item},<script>alert({item})</script>\n" for item in range(4))
    (tmp_path / "shop" / "items.csv").write_text("item_id,title\n" + items)
    page = gtcrec.show_items(["i1"], gtcrec.load_dataset(tmp_path / "shop"))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    assert notebook._thumbnail(tmp_path / "broken.png") is None


def test_unknown_items_and_other_tables_are_refused(data):
    with pytest.raises(DataError, match="item 'nothing' is not in the data"):
        gtcrec.show_items(["nothing"], data)
    with pytest.raises(ConfigError, match=r"expected a table that recommend or similar_items returned, found \['a'\]"):
        gtcrec.show_items(pa.table({"a": [1]}), data)


def test_a_run_shows_where_it_stands_and_what_it_measured(shop, tmp_path):
    run = gtcrec.Run.create(
        gtcrec.experiments.config.load_config(str(shop), "bpr", assignments=["epochs=2", "embedding_dim=8"]),
        tmp_path / "night",
    )
    training = run.epochs()
    next(training)
    assert "1 of at most 2 epochs done" in run._repr_html_()
    list(training)
    done = gtcrec.Run.load(run.folder)
    page = done._repr_html_()
    assert "night" in page
    assert "all 2 epochs done" in page
    assert "validation, " in page
    report = done.evaluate()
    assert f"{report['ndcg@20']:.4f}" in done._repr_html_()


def test_a_report_has_its_metrics_intervals_and_slices(data):
    split = gtcrec.split(data)
    report = gtcrec.evaluate(gtcrec.Recommender("popular").fit(split), split, on="valid")
    page = report._repr_html_()
    low, high = report.intervals["recall@20"]
    assert f"{report['recall@20']:.4f} ({low:.4f} to {high:.4f})" in page
    assert f"{report.lists['coverage@20']:.4f}" in page
    assert all(group in page for group in report.slices)
