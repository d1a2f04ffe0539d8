"""Metrics on random data against trec_eval (through ir-measures) and a brute force over sets and loops."""

import math

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG

from gtcrec.evaluation.metrics import RANKING_METRICS, compute, hits
from gtcrec.types import Interactions, TopK

CUTS = (1, 3, 5, 10, 20)
TREC = {"recall": R, "ndcg": nDCG, "precision": P, "map": AP, "mrr": RR, "hit": Success}


def brute(kind, ranked, liked, k):
    """One metric of one user: `ranked` list of items, `liked` set of items."""
    got = [item in liked for item in ranked[:k]]
    sums = sum(sum(got[: i + 1]) / (i + 1) for i in range(k) if got[i])
    ideal = sum(1 / math.log2(i + 2) for i in range(min(k, len(liked))))
    values = {"recall": sum(got) / len(liked), "precision": sum(got) / k, "hit": float(any(got))}
    values["mrr"] = 1 / (1 + got.index(True)) if any(got) else 0.0
    values["ndcg"] = sum(1 / math.log2(i + 2) for i in range(k) if got[i]) / ideal
    values["map"], values["map_cut"] = sums / len(liked), sums / min(k, len(liked))
    return values[kind]


@pytest.fixture(scope="module", params=range(5))
def random_case(request):
    """Random lists of 20 of 40 items for 60 users, who like between 1 and 30 items."""
    rng = np.random.default_rng(request.param)
    n_users, n_items = 60, 40
    ranked = np.stack([rng.permutation(n_items)[:20] for _ in range(n_users)])
    liked = [set(rng.permutation(n_items)[: rng.integers(1, 31)].tolist()) for _ in range(n_users)]
    users = np.repeat(np.arange(n_users), [len(own) for own in liked])
    items = np.array([item for own in liked for item in own])
    held = Interactions(users, items, n_users, n_items)
    lists = TopK(np.arange(n_users), ranked, np.zeros(ranked.shape, dtype=np.float32))
    names = [f"{kind}@{k}" for kind in RANKING_METRICS for k in CUTS]
    return ranked, liked, compute(names, hits(lists, held), held.user_counts)


def test_every_metric_of_every_user_equals_the_brute_force(random_case):
    ranked, liked, found = random_case
    assert len(found) == 7 * len(CUTS)
    for name, values in found.items():
        kind, k = name.split("@")
        expected = [brute(kind, row.tolist(), own, int(k)) for row, own in zip(ranked, liked, strict=True)]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9, err_msg=name)


def test_every_metric_that_trec_eval_has_equals_it_for_every_user(random_case):
    ranked, liked, found = random_case
    qrels = [ir_measures.Qrel(str(u), str(i), 1) for u, own in enumerate(liked) for i in own]
    run = [
        ir_measures.ScoredDoc(str(u), str(i), float(-place))
        for u, row in enumerate(ranked)
        for place, i in enumerate(row)
    ]
    measures = {kind + f"@{k}": measure @ k for kind, measure in TREC.items() for k in CUTS}
    names = {str(measure): name for name, measure in measures.items()}
    seen = 0
    for one in ir_measures.iter_calc(list(measures.values()), qrels, run):
        name = names[str(one.measure)]
        assert found[name][int(one.query_id)] == pytest.approx(one.value, abs=1e-9), (name, one.query_id)
        seen += 1
    assert seen == len(measures) * len(liked)
