"""Lists of other programs: TREC run files and MMRec's top-k tables, measured and compared as our own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gtcrec.cli.main import execute
from gtcrec.data import load, split, write_catalog
from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation.comparison import compare
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.evaluation.trec import evaluate_lists, read_lists, read_mmrec_lists, read_trec_run
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.ops.topk import recommend
from gtcrec.types import Dataset, Interactions, ItemFeatures, Split, TopK, Vocabulary

USERS = Vocabulary(np.array(["ann", "bob", "cem"]), "user")
ITEMS = Vocabulary(np.array(["p", "q", "r", "s", "t"]), "item")


def pairs(*found: tuple[int, int]) -> Interactions:
    users, items = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return Interactions(users, items, 3, 5)


SPLIT = Split(pairs((0, 0), (1, 1), (2, 2)), pairs((0, 1)), pairs((0, 2), (1, 3), (1, 4)), ItemFeatures(5), {})
DATASET = Dataset("x", SPLIT.train, ItemFeatures(5), USERS, ITEMS)

TREC = """\
bob Q0 t 1 7.5 tag
ann Q0 s 2 0.5 tag
ann Q0 r 1 0.5 tag

bob Q0 p 3 -1 tag
bob Q0 q 2 2e0 tag
"""
MMREC = "id\ttop_0\ttop_1\n1\t4\t3\n0\t2\t4\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "lists.txt"
    path.write_text(text)
    return path


def test_a_trec_run_goes_by_rank_in_the_ids_of_the_data(tmp_path: Path) -> None:
    lists = read_lists(written(tmp_path, TREC), DATASET)
    assert lists.users.tolist() == [0, 1]
    assert lists.items.tolist() == [[2, 3, -1], [4, 1, 0]]
    assert lists.scores.tolist() == [[0.5, 0.5, -np.inf], [7.5, 2, -1]]


def test_mmrecs_table_is_in_dense_ids(tmp_path: Path) -> None:
    lists = read_lists(written(tmp_path, MMREC), DATASET)
    assert lists.users.tolist() == [0, 1]
    assert lists.items.tolist() == [[2, 4], [4, 3]]
    assert (np.diff(lists.scores, axis=1) < 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lists.txt: expected lines of `user Q0 item rank score tag`, found none"),
        ("ann Q0 p 1 2\n", r"lists.txt, line 1: expected `user Q0 item rank score tag`, found 5 words"),
        (TREC.replace("bob Q0 q", "bo Q0 q"), r"lists.txt, line 6: user 'bo' is not in the data"),
        (TREC.replace("bob Q0 q", "bob Q0 z"), r"lists.txt, line 6: item 'z' is not in the data"),
        (TREC.replace("q 2 2e0", "q two 2"), r"lists.txt, line 6: expected a whole number as rank, found 'two'"),
        (TREC.replace("q 2 2e0", "q 2 nan"), r"lists.txt, line 6: expected a finite number as score, found 'nan'"),
        (TREC.replace("q 2 2e0", "q 2 1e39"), r"lists.txt, line 6: expected a finite number as score, found '1e39'"),
        (TREC.replace("q 2 2e0", "q 2 high"), r"lists.txt, line 6: expected a finite number as score, found 'high'"),
        (TREC.replace("q 2 2e0", "q 3 2e0"), r"lists.txt, line 6: rank 3 stands twice for this user"),
        (
            TREC.replace("q 2 2e0", "q 2 8"),
            r"line 6: score 8 at rank 2 is above the score 7.5 of rank 1; expected ranks",
        ),
        (TREC.replace("q 2 2e0", "t 2 2e0"), r"lists.txt, line 6: an item stands twice in the list of one user"),
    ],
)
def test_a_wrong_trec_run_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_trec_run(written(tmp_path, text), DATASET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lists.txt: expected a header `id top_0 top_1 ...` and a line a user, found ''"),
        ("id\ttop_1\n1\t2\n", r"expected a header `id top_0 top_1 ...` and a line a user, found 'id\\ttop_1'"),
        ("id\ttop_0\n", r"expected a header `id top_0 top_1 ...` and a line a user"),
        (MMREC + "2\t3\n", r"lists.txt, line 4: expected 3 columns, found 2"),
        (MMREC + f"{2**64}\t3\t4\n", r"lists.txt, line 4: expected a whole number as id, found '18446744073709551616'"),
        (MMREC + "9" * 5000 + "\t3\t4\n", r"lists.txt, line 4: expected a whole number as id, found '9+\.\.\.9+'"),
        (MMREC + "2\t3\tx\n", r"lists.txt, line 4: expected a whole number as id, found 'x'"),
        (MMREC + "3\t3\t0\n", r"lists.txt, line 4: users lie in \[0, 3\), found 3"),
        (MMREC + "2\t5\t0\n", r"lists.txt, line 4: items lie in \[0, 5\), found 5"),
        (MMREC + "2\t-1\t0\n", r"lists.txt, line 4: items lie in \[0, 5\), found -1"),
        (MMREC + "1\t0\t2\n", r"lists.txt, line 4: user 1 stands twice"),
        (MMREC + "2\t0\t0\n", r"lists.txt, line 4: an item stands twice in the list of one user"),
    ],
)
def test_a_wrong_table_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_mmrec_lists(written(tmp_path, text), DATASET)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.run: cannot be read: .*No such file"):
        read_lists(tmp_path / "none.run", DATASET)


def lists_of(*items: list[int], users: tuple[int, ...] = (0, 1)) -> TopK:
    rows = np.array(items)
    return TopK(np.array(users), rows, np.zeros(rows.shape, dtype=np.float32))


def test_lists_are_measured_by_the_usual_metrics() -> None:
    report = evaluate_lists(lists_of([2, 4, -1], [0, 4, 3]), SPLIT, metrics=["recall@1", "recall@3", "mrr@3"])
    assert report.users.tolist() == [0, 1]
    assert report.per_user["recall@1"].tolist() == [1, 0]
    assert report.per_user["recall@3"].tolist() == [1, 1]
    assert report.per_user["mrr@3"].tolist() == [1, 0.5]
    assert report.context.on == "test"


def test_item_0_in_a_list_with_empty_places_keeps_its_place() -> None:
    both = Split(pairs((0, 1), (1, 1)), pairs(), pairs((0, 0), (1, 0)), ItemFeatures(5), {})
    report = evaluate_lists(lists_of([2, 0, -1], [2, -1, -1]), both, metrics=["mrr@3"])
    assert report.per_user["mrr@3"].tolist() == [0.5, 0]


def test_metrics_that_need_longer_lists_are_left_out_or_refused_by_name() -> None:
    lists = lists_of([2, 4, 3, 1, -1], [0, 4, 3, 2, -1])
    config = EvaluateConfig(metrics=("recall@5", "recall@10"), lists=("coverage@5", "coverage@10"))
    report = evaluate_lists(lists, SPLIT, config=config)
    assert (list(report.means), list(report.lists)) == (["recall@5"], ["coverage@5"])
    with pytest.raises(ConfigError, match="recall@10 needs lists of 10 items, found lists of 5"):
        evaluate_lists(lists, SPLIT, metrics=["recall@10"])
    with pytest.raises(ConfigError, match="lists are measured among all items, found candidates: cold"):
        evaluate_lists(lists, SPLIT, config=EvaluateConfig(candidates="cold"))
    with pytest.raises(ConfigError, match="expected lists of at least 5 items, found lists of 3"):
        evaluate_lists(lists_of([2, 4, 3], [0, 4, 3]), SPLIT)


def test_masked_items_and_users_without_a_list_are_refused() -> None:
    with pytest.raises(DataError, match=r"protocol mmrec masks train items, found item 1 of user 1 at place 2"):
        evaluate_lists(lists_of([2, 4], [3, 1]), SPLIT, metrics=["recall@2"])
    valid_listed = lists_of([1, 2], [3, 4])
    assert evaluate_lists(valid_listed, SPLIT, metrics=["recall@2"])["recall@2"] == 1
    with pytest.raises(DataError, match=r"protocol strict masks valid items, found item 1 of user 0 at place 1"):
        evaluate_lists(valid_listed, SPLIT, config=EvaluateConfig(protocol="strict"), metrics=["recall@2"])
    with pytest.raises(DataError, match=r"a list for every measured user, found none for user 1 \(by index\)"):
        evaluate_lists(lists_of([2, 4], users=(0,)), SPLIT, metrics=["recall@2"])
    with pytest.raises(DataError, match=r"found none for user 0 \(by index\) and 1 more"):
        evaluate_lists(lists_of([0, 4], users=(2,)), SPLIT, metrics=["recall@2"])


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was measured on test, beside its data."""
    folder = tmp_path_factory.mktemp("tested")
    data = write_catalog(folder / "shop", n_users=120, n_items=80, per_user=8)
    run = Run.create(load_config(str(data), "popular"), folder / "popular")
    for _ in run.epochs():
        pass
    run.evaluate()
    return folder


def test_a_models_own_lists_written_as_either_file_give_its_own_figures(tested: Path, tmp_path: Path) -> None:
    run = Run.load(tested / "popular")
    dataset, parts = run.dataset, run.split
    lists = recommend(run.scorer, np.arange(len(dataset.users)), 50, [parts.train])
    ids = [dataset.users.external(lists.users), dataset.items.external(lists.items)]
    trec = "".join(
        f"{user} Q0 {item} {rank} {score} popular\n"
        for user, items, scores in zip(*ids, lists.scores.tolist(), strict=True)
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), 1)
    )
    rows = ["\t".join(map(str, (user, *items))) for user, items in enumerate(lists.items.tolist())]
    table = "\n".join(["\t".join(["id", *(f"top_{place}" for place in range(50))]), *rows])
    own = json.loads((tested / "popular" / "report.json").read_text())["test"]
    for text in (trec, table):
        report = evaluate_lists(read_lists(written(tmp_path, text), dataset), parts)
        assert report.means == own["means"]
        assert report.lists == own["lists"]
        assert {name: list(bounds) for name, bounds in report.intervals.items()} == own["intervals"]
    (one,) = compare({"a": report, "b": replace(report)}, "recall@20")
    assert (one.difference, one.p_holm) == (0, 1)


def random_run(tested: Path, path: Path, seed: int, users: int | None = None) -> Path:
    """Twenty items that each user has not met, in random order."""
    dataset = load(tested / "shop")
    train, rng = split(dataset).train, np.random.default_rng(seed)
    lines = []
    for user in range(len(dataset.users))[:users]:
        free = np.setdiff1d(np.arange(train.n_items), train.items_of(user))
        for rank, item in enumerate(rng.permutation(free)[:20].tolist(), 1):
            lines.append(f"{dataset.users.ids[user]} Q0 {dataset.items.ids[item]} {rank} {1 / rank} random\n")
    path.write_text("".join(lines))
    return path


def test_the_command_sets_lists_beside_a_run_with_the_same_tests(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = random_run(tested, tmp_path / "random.run", 0)
    line = ["compare", str(tested / "popular"), "--lists", str(file), "--metric", "ndcg@20"]
    assert execute([*line, "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    run = Run.load(tested / "popular")
    report = evaluate_lists(read_lists(file, run.dataset), run.split)
    own = json.loads((tested / "popular" / "report.json").read_text())["test"]["means"]["ndcg@20"]
    assert [one["name"] for one in facts["runs"]] == ["popular", "random.run"]
    assert facts["runs"][1]["means"] == {"ndcg@20": report["ndcg@20"]}
    (test,) = facts["tests"]
    assert test["difference"] == pytest.approx(report["ndcg@20"] - own)
    assert execute(line) == 0
    assert "paired tests against popular" in capsys.readouterr().out
    assert execute([*line, "--format", "latex"]) == 0
    assert "random.run" in capsys.readouterr().out


def test_lists_alone_need_the_data_and_two_of_them(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [random_run(tested, tmp_path / f"{seed}.run", seed) for seed in (0, 1)]
    lists = [word for file in files for word in ("--lists", str(file))]
    data = ["--data", str(tested / "shop")]
    assert execute(["compare", *lists, *data, "--format", "markdown"]) == 0
    assert "| 1.run |" in capsys.readouterr().out
    few = random_run(tested, tmp_path / "few.run", 2, users=40)
    for line, code, message in (
        (lists, 2, "--lists without a run folder: expected --data DIR"),
        ([*lists[:2], *data], 2, "expected at least two run folders or lists"),
        ([*lists, *lists, *data], 2, "expected run folders and lists of different names"),
        ([*lists, *data, "--html", str(tmp_path / "x.html")], 2, "--html shows run folders alone"),
        ([*lists, *data, "--metric", "recall@50"], 1, "'recall@50' was not measured in all (did you mean 'recall@5'?)"),
        ([*lists, *data, "--lists", str(few)], 1, "expected a list for every measured user, found none"),
    ):
        assert execute(["compare", *line]) == code
        said = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert message in said


def test_a_run_that_was_not_measured_on_test_is_refused(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.create(load_config(str(tested / "shop"), "popular"), tmp_path / "fresh")
    for _ in run.epochs():
        pass
    file = random_run(tested, tmp_path / "random.run", 0)
    assert execute(["compare", str(tmp_path / "fresh"), "--lists", str(file)]) == 1
    assert "fresh: not measured on test; run `gtcrec evaluate" in capsys.readouterr().err
    other = Run.create(load_config(str(tested / "shop"), "popular", assignments=["split.seed=5"]), tmp_path / "other")
    for _ in other.epochs():
        pass
    other.evaluate()
    line = ["compare", str(tested / "popular"), str(tmp_path / "other"), "--lists", str(file)]
    assert execute(line) == 1
    assert "other and popular were measured on different users or pairs; expected the same split" in (
        capsys.readouterr().err
    )
