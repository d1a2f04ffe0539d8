"""What is exported answers as the model does: read back by the programs that it is meant for."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.evaluation.trec import read_trec_run
from gtcrec.runtime.files import check_manifest
from gtcrec.serving.export import ExportOptions, export_model
from gtcrec.serving.export.onnx_scorer import check_scorer, scorer_graph
from gtcrec.serving.list_request import ListRequest

FAST = {"epochs": 2, "batch_size": 128}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return gtcrec.data.write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=60, n_items=40)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A run of a model by its name."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str) -> Path:
        if not (folder / name).exists():
            settings = FAST if name in ("bpr", "gtc") else {}
            settings = settings | ({"preset": "embedding"} if name == "gtc" else {})  # whose score is an inner product
            gtcrec.train(data, name, folder / name, **settings, **({"embedding_dim": 8} if settings else {}))
        return folder / name

    return run


def test_the_folder_is_sealed_and_refused_a_second_time(runs, tmp_path):
    names = export_model(runs("bpr"), tmp_path / "out", ["vectors", "card"])
    assert set(check_manifest(tmp_path / "out")["files"]) == set(names)
    with pytest.raises(DataError, match="expected a new or empty folder"):
        export_model(runs("bpr"), tmp_path / "out", ["vectors"])


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_inner_products_of_exported_vectors_are_the_scores(form, runs, tmp_path):
    out, model = tmp_path / form, gtcrec.Recommender.load(runs("gtc"))
    export_model(runs("gtc"), out, ["vectors"], ExportOptions(vector_format=form))
    if form == "npy":
        sides = [np.load(out / f"{side}_vectors.npy", allow_pickle=False) for side in ("user", "item")]
        ids = [json.loads((out / f"{side}_ids.json").read_text()) for side in ("user", "item")]
    else:
        tables = [pq.read_table(out / f"{side}.parquet") for side in ("users", "items")]
        sides = [np.stack(table["vector"].to_numpy()) for table in tables]
        ids = [table.column(0).to_pylist() for table in tables]
        assert {"item_id", "title", "price", "vector"} <= set(tables[1].column_names)
    assert ids == [model.user_ids, model.item_ids]
    np.testing.assert_allclose(sides[0] @ sides[1].T, model.score(model.user_ids, model.item_ids), rtol=1e-5, atol=1e-5)


def test_the_faiss_index_finds_the_best_items(runs, tmp_path):
    faiss = pytest.importorskip("faiss")
    export_model(runs("bpr"), tmp_path / "out", ["index", "vectors"])
    model = gtcrec.Recommender.load(runs("bpr"))
    index, ids = faiss.read_index(str(tmp_path / "out" / "items.faiss")), model.item_ids
    _, found = index.search(np.load(tmp_path / "out" / "user_vectors.npy"), 5)
    expected = model.recommend(k=5, exclude_seen=False)["item_id"].to_pylist()
    assert [ids[item] for item in found.ravel()] == expected


def test_items_that_came_later_are_exported_too(runs, data, tmp_path):
    content = {m: x[:1] for m, x in gtcrec.load_dataset(data).features.values.items()}
    model = gtcrec.Recommender.load(runs("gtc")).add_items("new", content)
    export_model(model.save(tmp_path / "model"), tmp_path / "out", ["vectors", "lists"])
    assert json.loads((tmp_path / "out" / "item_ids.json").read_text())[-1] == "new"
    users, items = (np.load(tmp_path / "out" / f"{side}_vectors.npy") for side in ("user", "item"))
    np.testing.assert_allclose(users @ items[-1], model.score(model.user_ids, "new")[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["popular", "ease", "gtc"])
def test_lists_as_trec_and_csv_are_those_of_recommend(name, runs, data, tmp_path):
    model = gtcrec.Recommender.load(runs(name))
    expected = model.recommend(k=7, where="price > 20").to_pylist()
    for form in ("trec", "csv"):
        options = ExportOptions(list_format=form, request=ListRequest(7, where="price > 20"))
        assert export_model(runs(name), tmp_path / form, ["lists"], options) == [f"lists.{form}"]
    lines = [line.split() for line in (tmp_path / "trec" / "lists.trec").read_text().splitlines()]
    assert [(user, item, int(rank)) for user, _, item, rank, _, _ in lines] == [
        (row["user_id"], row["item_id"], row["rank"]) for row in expected
    ]
    assert [np.float32(line[4]) for line in lines] == [np.float32(row["score"]) for row in expected]
    rows = [line.split(",") for line in (tmp_path / "csv" / "lists.csv").read_text().splitlines()]
    assert rows[0] == ["user_id", "item_id", "rank", "score"]
    assert [tuple(row[:3]) for row in rows[1:]] == [(line[0], line[2], line[3]) for line in lines]
    lists = read_trec_run(tmp_path / "trec" / "lists.trec", gtcrec.load_dataset(data))
    assert (lists.items >= 0).sum() == len(expected)


def test_trec_refuses_an_id_with_white_space(tmp_path):
    rows = [("ann lee" if user == 0 else f"u{user}", f"i{(user + k) % 7}") for user in range(6) for k in range(3)]
    (tmp_path / "shop.csv").write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in rows))
    model = gtcrec.Recommender("popular").fit(gtcrec.load_dataset(tmp_path / "shop.csv"))
    with pytest.raises(DataError, match="user 'ann lee': a TREC run cannot hold an id with white space; use csv"):
        export_model(model.save(tmp_path / "model"), tmp_path / "out", ["lists"])
    assert not (tmp_path / "out").exists()


def test_onnxruntime_answers_as_the_model_in_batches_of_any_size(runs, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = gtcrec.Recommender.load(runs("gtc"))
    assert export_model(runs("gtc"), tmp_path / "out", ["onnx"]) == ["scorer.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "out" / "scorer.onnx"), providers=["CPUExecutionProvider"])
    for size, k in ((1, 3), (5, 40), (60, 10)):
        users = model.user_ids[:size]
        inputs = {"user_vectors": model.user_vectors[:size], "k": np.array([k])}
        scores, best, places = session.run(None, inputs)
        np.testing.assert_allclose(scores, model.score(users, model.item_ids), rtol=1e-5, atol=1e-5)
        lists = model.recommend(users, k=k, exclude_seen=False)
        assert [model.item_ids[place] for place in places.ravel()] == lists["item_id"].to_pylist()
        np.testing.assert_allclose(best.ravel(), lists["score"].to_numpy(), rtol=1e-5, atol=1e-5)


def test_equal_scores_rank_by_ascending_item_in_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    graph = scorer_graph(np.ones((9, 2), dtype=np.float32))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    _, _, places = session.run(None, {"user_vectors": np.ones((2, 2), dtype=np.float32), "k": np.array([4])})
    assert places.tolist() == [[0, 1, 2, 3]] * 2


def test_a_graph_of_other_vectors_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (6, 12))
    (tmp_path / "scorer.onnx").write_bytes(scorer_graph(items).SerializeToString())
    check_scorer(tmp_path / "scorer.onnx", users, items)
    with pytest.raises(RunError, match=r"scorer\.onnx: scores of 1 users by onnxruntime differ from the model's"):
        check_scorer(tmp_path / "scorer.onnx", users, items[::-1])


def test_a_model_without_vectors_says_so_and_leaves_nothing(runs, tmp_path):
    for kind in ("vectors", "index", "onnx"):
        with pytest.raises(RunError, match=r"ease has no vectors of \w+: its scores are no inner products"):
            export_model(runs("ease"), tmp_path / "out", [kind])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_brings_the_nearest(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown export 'vector' \(did you mean 'vectors'\?\)"):
        export_model(runs("bpr"), tmp_path / "out", ["vector"])


def test_the_model_card_says_what_the_run_says(runs, data, tmp_path):
    run = gtcrec.train(data, "bpr", tmp_path / "run", embedding_dim=8, **FAST)
    export_model(run.folder, tmp_path / "before", ["card"])
    report = run.evaluate()
    export_model(run.folder, tmp_path / "after", ["card"], ExportOptions(license="mit"))
    before, after = ((tmp_path / name / "README.md").read_text() for name in ("before", "after"))
    assert "license: unknown" in before
    assert "Not stated" in before
    assert "On the validation interactions" in before
    assert "license: mit" in after
    assert f"On the test interactions of {len(report.users)} users" in after
    assert f"{report.means['ndcg@20']:.4f}" in after
    facts = json.loads((run.folder / "data.json").read_text())
    assert facts["fingerprint"] in after
    for line in ("| embedding_dim | 8 |", "| epochs | 2 |", "| split.seed | 0 |", "| users | 60 |"):
        assert line in after


def test_the_command_names_the_files_and_checks_its_format(runs, tmp_path, capsys):
    line = ["export", str(runs("bpr")), "vectors", "card", "--out", str(tmp_path / "out"), "--format", "parquet"]
    assert execute(line) == 0
    said = capsys.readouterr().err.split()
    assert said == [str(tmp_path / "out" / name) for name in ("README.md", "items.parquet", "users.parquet")]
    assert execute(["export", str(runs("bpr")), "card", "--format", "trec", "--out", str(tmp_path / "no")]) == 2
    assert "--format trec is for lists" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
