"""Reports against small worked cases: who takes part, what is masked, slices, comparisons, forms on disk."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pydantic
import pytest
import torch

from gtcrec.errors import ConfigError, DataError
from gtcrec.evaluation.comparison import compare, compare_to_baseline, correct_together
from gtcrec.evaluation.evaluator import evaluate_scorer, evaluate_split, validation_users
from gtcrec.evaluation.protocol import PROTOCOLS, EvaluateConfig
from gtcrec.evaluation.report_io import per_user_table, report_from_json, report_to_json
from gtcrec.evaluation.statistics import holm
from gtcrec.types import Interactions, ItemFeatures, Report, ReportContext, Split, Vocabulary

SMALL = EvaluateConfig(metrics=("recall@2", "ndcg@2"), lists=("coverage@2",), resamples=50)


def pairs(*held, n_users=4, n_items=5):
    users, items = np.array(held, dtype=np.int64).reshape(-1, 2).T
    return Interactions(users, items, n_users, n_items)


def ascending(users):
    """Rank the items 0, 1, 2, .. for everyone."""
    return -torch.arange(5.0).expand(len(users), -1)


# User 3 is cold. Training counts of the items 0..4: 3, 1, 0, 0, 0.
TRAIN = pairs((0, 0), (1, 0), (2, 0), (2, 1))
VALID = pairs((0, 1), (3, 1))
TEST = pairs((0, 2), (1, 1), (1, 4), (3, 0))
SPLIT = Split(TRAIN, VALID, TEST, ItemFeatures(5), {"strategy": "label"})


def report_of(values, users=None):
    users = np.arange(len(values)) if users is None else users
    return Report(users, {"recall@2": values}, {"recall@2": float(values.mean())})


def test_candidates_that_are_cold_are_ranked_alone_and_only_liked_ones_count():
    report = evaluate_split(ascending, SPLIT, "test", SMALL.model_copy(update={"candidates": "cold"}))
    # Items 2, 3, 4 have no training pair. User 0 likes 2, user 1 likes 4 (and 1, which is warm): lists 2, 3.
    assert report.users.tolist() == [0, 1]
    assert report.per_user["recall@2"].tolist() == [1.0, 0.0]
    assert report.context.candidates == "cold"
    assert report.context.counts["items"] == 3
    assert report.context.counts["relevant pairs"] == 2


def test_candidates_that_are_warm_leave_the_cold_ones_out():
    report = evaluate_split(ascending, SPLIT, "test", SMALL.model_copy(update={"candidates": "warm"}))
    assert report.users.tolist() == [1]  # user 0 likes a cold item alone, user 3 is cold
    assert report.per_user["recall@2"].tolist() == [1.0]


def test_validation_measures_users_who_like_a_candidate():
    split = Split(TRAIN, pairs((0, 1), (1, 3), (2, 4)), TEST, ItemFeatures(5), {})
    assert validation_users(split, SMALL.model_copy(update={"candidates": "cold"})).tolist() == [1, 2]
    assert validation_users(split, SMALL).tolist() == [0, 1, 2]


def test_candidates_without_a_liked_pair_are_an_error_that_says_so():
    with pytest.raises(DataError, match="evaluation needs at least one relevant pair of cold items, found none"):
        evaluate_split(ascending, SPLIT, "valid", SMALL.model_copy(update={"candidates": "cold"}))


def test_mmrec_masks_train_alone_and_leaves_out_cold_users():
    report = evaluate_split(ascending, SPLIT, "test", SMALL)
    # Lists without training items: user 0: 1, 2; user 1: 1, 2. User 3 has no training item.
    assert report.users.tolist() == [0, 1]
    assert report.per_user["recall@2"].tolist() == [1.0, 0.5]
    assert report["recall@2"] == 0.75
    assert report.context.masked == ("train",)
    assert report.context.counts["users left out as cold"] == 1


def test_only_the_users_named_are_measured_and_the_report_says_so():
    report = evaluate_split(ascending, SPLIT, "test", SMALL, users=[1])
    assert report.per_user["recall@2"].tolist() == [0.5]
    assert report.context.users == "1 of 2"
    assert report.context.counts["users left out as cold"] == 1
    assert evaluate_split(ascending, SPLIT, "test", SMALL).context.users == "all"
    with pytest.raises(DataError, match="user 3 cannot be measured: without a relevant item, or left out by mmrec"):
        evaluate_split(ascending, SPLIT, "test", SMALL, users=[0, 3])


def test_validation_users_are_drawn_once_from_the_seed():
    liked = pairs(*((user, 1) for user in range(50)), n_users=50)
    train = pairs(*((user, 0) for user in range(2, 50)), n_users=50)
    split = Split(train, liked, liked, ItemFeatures(5), {})
    assert validation_users(split).tolist() == validation_users(split, at_most=48).tolist() == list(range(2, 50))
    few, others = (validation_users(split, at_most=9, seed=seed).tolist() for seed in (4, 5))
    assert len(set(few)) == 9
    assert few == sorted(few)
    assert set(few) <= set(range(2, 50))
    assert few == validation_users(split, at_most=9, seed=4).tolist() != others


@pytest.mark.parametrize("protocol", ["recbole", "strict"])
def test_recbole_and_strict_mask_validation_items_at_test_and_keep_cold_users(protocol):
    config = SMALL.model_copy(update={"protocol": protocol})
    report = evaluate_split(ascending, SPLIT, "test", config)
    # User 0 now gets 2, 3 (item 1 is masked) and has the first place right.
    assert report.users.tolist() == [0, 1, 3]
    assert report.per_user["recall@2"].tolist() == [1.0, 0.5, 1.0]
    assert report.per_user["ndcg@2"][0] == 1.0
    assert report.context.masked == ("train", "valid")
    assert report.context.counts["masked pairs"] == len(TRAIN) + len(VALID)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_validation_masks_train_alone_and_never_reads_the_test_pairs(protocol, monkeypatch):
    def refuse(self):
        raise AssertionError("the test pairs were read")

    monkeypatch.setattr(Split, "final_test", refuse)
    report = evaluate_split(ascending, SPLIT, "valid", SMALL.model_copy(update={"protocol": protocol}))
    assert report.context.on == "valid"
    assert report.context.masked == ("train",)
    assert report.per_user["recall@2"].tolist() == [1.0] * (2 if PROTOCOLS[protocol].cold_users else 1)


def test_the_protocol_is_stored_whole_in_the_report():
    report = evaluate_split(ascending, SPLIT, "test", SMALL, seed=3)
    assert report.context.protocol == {
        "name": "mmrec",
        "masked_at_test": ["train"],
        "cold_users": False,
        "printed_as_map": "map_cut",
        "ranking": "all items",
        "ties": "ascending item",
    }
    assert report.context.seed == 3
    assert {name for name, protocol in PROTOCOLS.items() if protocol.name == name} == set(PROTOCOLS)


def test_item_slices_count_only_liked_items_of_their_group():
    config = SMALL.model_copy(update={"protocol": "strict"})
    slices = evaluate_split(ascending, SPLIT, "test", config).slices
    # Two items were seen in training, so the head is one item, 0; the tail is item 1; 2, 3, 4 are cold.
    assert slices["items: head"] == {"users": 1, "recall@2": 1.0, "ndcg@2": 1.0}
    assert slices["items: tail"] == {"users": 1, "recall@2": 1.0, "ndcg@2": 1.0}
    # User 0 likes the cold item 2 (found first), user 1 the cold item 4 (not found).
    assert slices["items: cold"] == {"users": 2, "recall@2": 0.5, "ndcg@2": 0.5}


def test_the_head_is_the_most_popular_fifth_of_the_items_seen_in_training():
    counts = [1, 9, 2, 8, 0, 1, 1, 1, 1, 1, 1, 0]  # 10 seen items: the head is items 1 and 3
    train = pairs(*[(u, i) for i, n in enumerate(counts) for u in range(n)], n_users=10, n_items=12)
    liked = pairs(*[(9, i) for i in range(12)], n_users=10, n_items=12)
    scores = torch.zeros(10, 12)
    scores[:, [1, 3]] = 1.0
    config = EvaluateConfig(metrics=("recall@2",), protocol="strict", lists=(), resamples=1)
    slices = evaluate_scorer(lambda users: scores[users], liked, train, config).slices
    recalls = {name: means["recall@2"] for name, means in slices.items() if name.startswith("items")}
    assert recalls == {"items: cold": 0.0, "items: tail": 0.0, "items: head": 1.0}


def test_user_slices_are_thirds_by_training_pairs_with_equal_counts_together():
    counts = [1, 1, 2, 2, 3, 3]
    train = pairs(*[(u, i) for u, n in enumerate(counts) for i in range(n)], n_users=6)
    liked = pairs(*[(u, 3) for u in range(5)], (5, 4), n_users=6)
    config = EvaluateConfig(metrics=("recall@1",), lists=(), resamples=1)
    scores = torch.tensor([0.0, 0, 0, 1, 0])
    slices = evaluate_scorer(lambda users: scores.expand(len(users), -1), liked, train, config).slices
    assert slices["users: low"] == {"users": 2, "recall@1": 1.0}
    assert slices["users: mid"] == {"users": 2, "recall@1": 1.0}
    assert slices["users: high"] == {"users": 2, "recall@1": 0.5}
    same = pairs(*[(u, 0) for u in range(6)], n_users=6)
    alike = evaluate_scorer(lambda users: scores.expand(len(users), -1), liked, same, config).slices
    assert [name for name in alike if name.startswith("users")] == ["users: low"]


def test_every_default_metric_has_a_mean_an_interval_and_a_value_per_user_on_a_tiny_catalogue():
    report = evaluate_scorer(ascending, TEST, TRAIN)  # lists of 50 from 5 items
    names = set(EvaluateConfig().metrics)
    assert set(report.means) == set(report.intervals) == set(report.per_user) == names
    assert {len(values) for values in report.per_user.values()} == {2}
    for name, (low, high) in report.intervals.items():
        assert low <= report.means[name] <= high
    assert report["recall@50"] == 1.0
    assert report.lists["coverage@10"] == 4 / 5  # both users have item 0 in training


def test_the_light_path_gives_only_the_metrics_asked_for():
    report = evaluate_scorer(ascending, TEST, TRAIN, metrics=("hit@1",), details=False)
    assert report.means == {"hit@1": 0.5}
    assert (report.intervals, report.lists, report.slices) == ({}, {}, {})
    full = evaluate_scorer(ascending, TEST, TRAIN)
    assert evaluate_split(ascending, SPLIT, "test", details=False).means == full.means


def test_the_same_seed_gives_the_same_intervals_and_blocks_change_nothing():
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.integers(0, 5, size=(40, 30)), dtype=torch.float32)
    cells = rng.permutation(1200)
    train, liked = (Interactions(*np.divmod(part, 30), 40, 30) for part in (cells[:300], cells[300:420]))
    whole = report_to_json(evaluate_scorer(lambda users: scores[users], liked, train, seed=1))
    blocked = evaluate_scorer(lambda users: scores[users], liked, train, EvaluateConfig(block=3), seed=1)
    assert report_to_json(blocked) == whole
    other = evaluate_scorer(lambda users: scores[users], liked, train, seed=2)
    assert other.means == whole["means"]
    assert report_to_json(other)["intervals"] != whole["intervals"]


def test_evaluation_without_anything_to_measure_is_refused():
    with pytest.raises(DataError, match="evaluation needs at least one relevant pair, found none"):
        evaluate_scorer(ascending, pairs(), TRAIN)
    with pytest.raises(DataError, match="protocol mmrec expects users with training pairs, found none with a relevant"):
        evaluate_scorer(ascending, pairs((3, 0)), TRAIN)
    with pytest.raises(DataError, match="a relevant pair must not be masked as well, found user 1, item 0"):
        evaluate_scorer(ascending, pairs((0, 2), (1, 0)), TRAIN)
    with pytest.raises(DataError, match="a relevant pair must not be masked as well, found user 0, item 1"):
        evaluate_scorer(ascending, pairs((0, 1)), TRAIN, exclude=(VALID,))
    with pytest.raises(DataError, match="the same users and items, found 4 x 5 and 4 x 6"):
        evaluate_scorer(ascending, TEST, pairs((0, 0), n_items=6))
    with pytest.raises(ConfigError, match="on must be 'valid' or 'test', found 'train'"):
        evaluate_split(ascending, SPLIT, "train")


def test_a_wrong_setting_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"unknown metric 'recal@5' \(did you mean 'recall'\?\)"):
        EvaluateConfig(metrics=("recal@5",))
    with pytest.raises(ConfigError, match="unknown metric 'recall@5', expected one of coverage"):
        EvaluateConfig(lists=("recall@5",))
    with pytest.raises(ConfigError, match="metrics must name at least one metric, found none"):
        EvaluateConfig(metrics=())
    with pytest.raises(pydantic.ValidationError, match="Input should be 'mmrec', 'recbole' or 'strict'"):
        EvaluateConfig(protocol="loose")
    with pytest.raises(pydantic.ValidationError, match="Extra inputs are not permitted"):
        EvaluateConfig(topk=5)


def test_compare_finds_a_planted_difference_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    base = rng.random(400)
    reports = {
        "base": report_of(base),
        "twin": report_of(base + rng.normal(0, 0.1, 400)),
        "better": report_of(base + rng.normal(0.05, 0.1, 400)),
    }
    found = {(one.name, one.base): one for one in compare(reports, "recall@2", seed=1)}
    assert list(found) == [("base", "twin"), ("base", "better"), ("twin", "better")]
    low, high = found["base", "twin"].interval
    assert found["base", "twin"].p_holm > 0.05
    assert low < 0 < high
    better = found["base", "better"]
    assert better.metric == "recall@2"
    assert better.difference == pytest.approx(-0.05, abs=0.02)
    assert better.interval[1] < 0
    assert better.p_holm == pytest.approx(3 / 10_001)  # Holm's factor for the smallest of three


def test_compare_tests_each_against_the_baseline_metric_by_metric():
    rng = np.random.default_rng(0)
    users, base = np.arange(60), rng.random((2, 60))
    values = {"a": base + rng.normal(0.02, 0.1, (2, 60)), "base": base, "c": base + rng.normal(0, 0.1, (2, 60))}
    reports = {name: Report(users, dict(zip(("recall@2", "ndcg@2"), x, strict=True)), {}) for name, x in values.items()}
    found = compare(reports, ("ndcg@2", "recall@2"), baseline="base", seed=3)
    assert [(one.metric, one.name, one.base) for one in found] == [
        (metric, name, "base") for metric in ("ndcg@2", "recall@2") for name in ("a", "c")
    ]
    for metric in ("recall@2", "ndcg@2"):  # one draw for both metrics gives what each gets alone
        pairs = {name: (reports[name].per_user[metric], reports["base"].per_user[metric]) for name in ("a", "c")}
        alone = [one.test for one in compare_to_baseline("base", metric, pairs, seed=3).values()]
        assert [replace(one, p_holm=0) for one in found if one.metric == metric] == [
            replace(one, p_holm=0) for one in alone
        ]
    assert [one.p_holm for one in found] == holm([one.p for one in found]).tolist()  # one family
    together = {
        (metric, name): one
        for metric in ("ndcg@2", "recall@2")
        for name, one in compare_to_baseline(
            "base", metric, {n: (reports[n].per_user[metric], reports["base"].per_user[metric]) for n in ("a", "c")}, 3
        ).items()
    }
    assert [one.test for one in correct_together(together).values()] == found
    raw = compare(reports, ("ndcg@2", "recall@2"), baseline="base", correction="none", seed=3)
    assert [one.p_holm for one in raw] == [one.p for one in found] == [one.p for one in raw]


def test_compare_pairs_values_by_user_whatever_their_order():
    a, order = np.array([0.1, 0.2, 0.9, 0.4]), np.array([2, 0, 3, 1])
    reports = {"a": report_of(a), "shuffled": report_of(a[order], users=order), "again": report_of(a)}
    for one in compare(reports, "recall@2"):
        assert (one.interval, one.p) == ((0.0, 0.0), 1.0)


def test_compare_refuses_what_cannot_be_paired():
    a = report_of(np.ones(3))
    with pytest.raises(ConfigError, match="a comparison needs at least two reports, found 1"):
        compare({"a": a}, "recall@2")
    with pytest.raises(ConfigError, match=r"baseline 'bb' is not among the reports.*: a, b"):
        compare({"a": a, "b": a}, "recall@2", baseline="bb")
    with pytest.raises(
        ConfigError, match=r"'recall@3' was not measured in a \(did you mean 'recall@2'\?\); found recall"
    ):
        compare({"a": a, "b": a}, "recall@3")
    other = report_of(np.ones(3), users=np.array([1, 2, 5]))
    with pytest.raises(DataError, match="'a' and 'b' were measured on different users: 1 are only in the first, 1 "):
        compare({"a": a, "b": other}, "recall@2")
    one, two = (replace(a, context=ReportContext(fingerprints={"relevant": text})) for text in "xy")
    with pytest.raises(DataError, match="'a' and 'b' were measured on different relevant pairs"):
        compare({"a": one, "b": two}, "recall@2")


def test_a_context_that_version_0_1_stored_reads_as_one_of_today():
    stored = {
        "on": "valid",
        "masked": ["train"],
        "counts": {"liked pairs": 3, "items": 5},
        "fingerprints": {"liked": "a"},
    }
    context = ReportContext.from_dict({**stored, "later": 1})
    assert context == ReportContext(
        on="valid", masked=("train",), counts={"relevant pairs": 3, "items": 5}, fingerprints={"relevant": "a"}
    )
    assert ReportContext.from_dict(context.to_dict()) == context


def test_a_report_shows_part_users_and_means():
    means = {"recall@5": 0.05, "recall@20": 0.1, "ndcg@20": 0.06}
    report = Report(np.arange(3), {}, means, context=ReportContext(on="test"))
    assert repr(report) == "Report(on='test', users=3, recall@20=0.1000, ndcg@20=0.0600)"


@pytest.mark.parametrize("ids", [np.array(["ann", "bob", "cem", "dee"]), np.array([7, 3, 900, 1])])
def test_a_report_comes_back_whole_from_its_json_and_its_table(ids, tmp_path):
    users = Vocabulary(ids, "user")
    report = evaluate_split(ascending, SPLIT, "test", EvaluateConfig(protocol="strict"))
    table = per_user_table(report, users)
    assert table["user"].to_pylist() == ids[[0, 1, 3]].tolist()
    pq.write_table(table, tmp_path / "per_user.parquet")
    text = json.dumps(report_to_json(report), allow_nan=False)
    back = report_from_json(json.loads(text), pq.read_table(tmp_path / "per_user.parquet"), users)
    assert report_to_json(back) == report_to_json(report)
    assert back.users.tolist() == report.users.tolist()
    assert back.intervals == report.intervals
    assert all(back.per_user[name].tolist() == values.tolist() for name, values in report.per_user.items())


def test_a_report_and_a_table_that_do_not_belong_together_are_refused():
    users = Vocabulary(np.array(["a", "b", "c", "d"]), "user")
    report = evaluate_scorer(ascending, TEST, TRAIN, SMALL)
    found, table = report_to_json(report), per_user_table(report, users)
    with pytest.raises(
        DataError, match=r"the report has 2 users and the columns \['user', 'recall@2', 'ndcg@2'\], the"
    ):
        report_from_json(found, table.drop_columns(["ndcg@2"]), users)
    with pytest.raises(DataError, match="the table 1 users"):
        report_from_json(found, table.slice(1), users)
    with pytest.raises(DataError, match="the report lacks slices"):
        report_from_json({name: part for name, part in found.items() if name != "slices"}, table, users)
    with pytest.raises(DataError, match="user 'a' is not in the data"):
        report_from_json(found, table, Vocabulary(np.array(["x", "y"]), "user"))
