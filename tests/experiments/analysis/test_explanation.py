"""Why a user gets an item."""

import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError, DataError, RunError
from gtcrec.experiments.analysis.explanation import ScoreContribution, explain
from gtcrec.experiments.config import load_config
from gtcrec.experiments.run import Run
from gtcrec.models.gtc.embedding.interest_filter import InterestFilter
from gtcrec.models.gtc.embedding.latent_filter import LatentFilter
from gtcrec.models.gtc.embedding.model import EmbeddingGTC
from gtcrec.models.gtc.explain import ContentView
from gtcrec.serving.list_request import ListRequest
from gtcrec.serving.trained_model import TrainedModel

Trained = Callable[[str], Run]
SMALL = ["epochs=2", "embedding_dim=8", "batch_size=256", "learning_rate=0.02"]
VARIANTS = {
    "liked": ["preset=embedding"],
    "one prototype": ["preset=embedding", "num_prototypes=1"],
    "liked off": ["preset=embedding", "filter=off"],
    "identity": ["preset=embedding", "condition=item_id", "num_prototypes=3"],
    "audience": ["preset=embedding", "condition=item_audience", "num_prototypes=3", "num_content_layers=2"],
    "audience off": ["preset=embedding", "condition=item_audience", "filter=off"],
    "refined": ["preset=embedding", "condition=item_id", "attention_refinement=true", "modality_preference=learned"],
    "bare": ["preset=embedding", "data.modalities=[]"],
    "reranked": ["preset=plain", "pair_diffusion_weight=0.7", "rerank_top_n=5"],
}
SCORED = [name for name in VARIANTS if name != "reranked"]


def train(data: Path, model: str, folder: Path, given: list[str]) -> Run:
    run = Run.create(load_config(str(data), model, assignments=given), folder)
    for _ in run.epochs():
        pass
    return run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue in which some items lack their image."""
    return write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=60, n_items=40)


@pytest.fixture(scope="module")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Finished runs by name, each trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(name: str) -> Run:
        model, given = ("gtc", VARIANTS[name]) if name in VARIANTS else (name, [])
        return train(shop, model, folder / name, given if name in ("popular", "itemknn") else SMALL + given)

    return run


def gtc(run: Run) -> EmbeddingGTC:
    assert isinstance(run.model, EmbeddingGTC)
    return run.model


@pytest.mark.parametrize("name", SCORED)
def test_the_parts_are_the_blocks_of_the_folded_score(trained: Trained, name: str) -> None:
    run = trained(name)
    model, items = gtc(run), run.dataset.items.ids.tolist()
    users, vectors = (side.double() for side in model.vectors())
    widths = [model.config.embedding_dim, *(model.content.widths() if model.content else [])]
    for user in (0, 17, 59):
        found = explain(run, run.dataset.users.ids[user], items, nearest=0)
        scores = run.scorer(torch.tensor([user]))[0]
        blocks = torch.stack([b.sum(dim=1) for b in (users[user] * vectors).split(widths, dim=1)], dim=1)
        for one, score, expected in zip(found.items, scores.tolist(), blocks.tolist(), strict=True):
            assert one.score == score
            assert [part.view for part in one.parts] == ["identity", *model.keys]
            assert [part.value for part in one.parts] == pytest.approx(expected, abs=1e-5)
            assert sum(part.value for part in one.parts) == pytest.approx(score, abs=1e-5)
            total = sum(map(abs, expected))
            assert [p.percent for p in one.parts] == pytest.approx([100 * abs(e) / total for e in expected], abs=0.1)


def test_what_reranking_moved_is_a_part_of_its_own(trained: Trained) -> None:
    run = trained("reranked")
    user, moved = run.dataset.users.ids[3], 0.0
    for one in explain(run, user, run.dataset.items.ids).items:
        assert [part.view for part in one.parts] == ["identity", "image", "text", "rerank"]
        assert sum(part.value for part in one.parts) == pytest.approx(one.score, abs=1e-9)
        if one.rank > 5 or one.seen:
            assert one.parts[-1].value == pytest.approx(0, abs=1e-5)
        moved += abs(one.parts[-1].value)
    assert moved > 1e-3
    (best,) = TrainedModel.of_run(run).recommend(np.array([3]), ListRequest(1)).to_pylist()
    (one,) = explain(run, user, [best["item_id"]]).items
    assert one.rank == 1
    assert one.score == pytest.approx(best["score"], abs=1e-6)


@pytest.mark.parametrize("name", ["liked", "audience", "bpr", "popular"])
def test_ranks_are_places_among_the_items_that_were_not_met(trained: Trained, name: str) -> None:
    run = trained(name)
    for user in (0, 17):
        external, met = run.dataset.users.ids[user], run.split.train.items_of(user)
        found = explain(run, external, run.dataset.items.ids)
        assert (found.user, found.model) == (external, run.config.model)
        assert (found.n_seen, found.n_unseen) == (len(met), 40 - len(met))
        assert np.flatnonzero([one.seen for one in found.items]).tolist() == met.tolist()
        unmet = sorted((one for one in found.items if not one.seen), key=lambda one: -one.score)
        lists = TrainedModel.of_run(run).recommend(np.array([user]), ListRequest(len(unmet)))
        assert [one.item for one in unmet] == lists.column("item_id").to_pylist()
        for place, one in enumerate(unmet, 1):
            assert one.rank <= place
            assert one.rank == place or one.score == unmet[one.rank - 1].score
        for one in found.items:
            assert one.rank == 1 + sum(other.score > one.score for other in unmet)


def test_tastes_are_the_view_weights_and_the_mix_of_prototypes(trained: Trained) -> None:
    for name, k in (("liked", 8), ("one prototype", 1), ("liked off", 1), ("identity", 3), ("audience off", 1)):
        run = trained(name)
        model = gtc(run)
        found = explain(run, run.dataset.users.ids[4], run.dataset.items.ids[:1])
        for place, taste in enumerate(found.preferences):
            raw = model.weights[4, place].item()
            assert taste.modality == list(model.keys)[place]
            assert taste.weight == pytest.approx(2 * 0.3 / (1 + math.exp(-raw)), rel=1e-5)
            assert len(taste.prototypes) == k
            assert sum(taste.prototypes) == pytest.approx(1, abs=1e-5)
        if name == "liked":
            assert isinstance(model.content, InterestFilter)
            mix = model.content["text"].interest(torch.tensor([4])).mix[0].tolist()
            assert found.preferences[1].prototypes == pytest.approx(mix)
            assert len(set(mix)) > 1
    assert (
        explain(
            trained("bare"), trained("bare").dataset.users.ids[4], trained("bare").dataset.items.ids[:1]
        ).preferences
        == ()
    )


def test_an_item_that_lacks_a_modality_has_nothing_kept_in_it(trained: Trained) -> None:
    run = trained("liked")
    has = run.split.features.present["image"]
    assert 0 < has.sum() < len(has)
    for one, there in zip(explain(run, run.dataset.users.ids[0], run.dataset.items.ids).items, has, strict=True):
        assert [kept.modality for kept in one.retained] == (["image", "text"] if there else ["text"])
        assert there or one.parts[1] == ScoreContribution("image", 0.0, 0.0)


def test_a_liked_model_keeps_what_the_user_is_sure_about(trained: Trained) -> None:
    run, user = trained("liked"), 5
    content = gtc(run).content
    assert isinstance(content, InterestFilter)
    for item, one in enumerate(explain(run, run.dataset.users.ids[user], run.dataset.items.ids).items):
        for kept in one.retained:
            m = content[kept.modality]
            y = m.y[item].double().numpy()
            sure = 1 - m.interest(torch.tensor([user])).spread[0].detach().double().numpy()
            x = m.filtered(torch.tensor([item]))[0].detach().double().numpy()
            along = x @ y / (y @ y)
            assert kept.matters is not None
            assert kept.matters.along == pytest.approx((sure * y**2).sum() / (y**2).sum(), abs=1e-5)
            assert kept.matters.residual == pytest.approx(math.hypot(*((1 - sure) * y)) / math.hypot(*y), abs=1e-5)
            assert 0 < kept.matters.along < 1
            assert kept.filtered.along == pytest.approx(along, abs=1e-5)
            aside = x @ x - along**2 * (y @ y)  # Pythagoras
            assert kept.filtered.residual == pytest.approx(math.sqrt(aside / (y @ y)), abs=1e-4)
            assert kept.filtered.residual > 0.01


def test_a_projected_model_scores_what_its_filter_keeps_for_the_user(trained: Trained) -> None:
    # s_m = <q, g + x / sqrt(dim)>: the difference of two items without their neighbours' g shows x.
    run, user = trained("identity"), torch.tensor([7])
    model = gtc(run)
    assert isinstance(model.content, LatentFilter)
    every = torch.arange(40)
    with torch.no_grad():
        rows = model.content.encode(model.views.encode(user, every), user, every)
    for one in model.explain_content(7, every):
        q, g = rows.preference[one.modality][0], rows.neighbors[one.modality]
        assert one.matters is None
        torch.testing.assert_close(one.parts, one.weight * (g + one.filtered / math.sqrt(8)) @ q, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.content, rows.content[one.modality])
    for reason in explain(run, run.dataset.users.ids[7], run.dataset.items.ids).items:
        assert all(kept.matters is None and kept.filtered.along != 1 for kept in reason.retained)


@pytest.mark.parametrize("name", ["liked off", "audience off"])
def test_without_a_filter_all_content_is_kept(trained: Trained, name: str) -> None:
    run = trained(name)
    found = [
        kept for one in explain(run, run.dataset.users.ids[0], run.dataset.items.ids).items for kept in one.retained
    ]
    assert len(found) == sum(int(has.sum()) for has in run.split.features.present.values())
    for kept in found:
        assert astuple(kept.filtered) == pytest.approx((1, 0))
        assert (kept.matters is None) == (name == "audience off")
        assert kept.matters is None or astuple(kept.matters) == pytest.approx((1, 0))


def test_kept_and_nearest_by_hand(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("liked")
    user = int(run.split.train.user_counts.argmax())
    met = run.split.train.items_of(user)
    n = 1 + len(met)  # the item that is asked for, a liked one too, stands first and again at its own place
    image = torch.zeros(n, 2)
    image[:4] = torch.tensor([[3.0, 0.0], [3.0, 0.0], [2.0, 2.0], [0.0, 1.0]])
    text = torch.zeros(n, 2)
    text[:4] = torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0], [5.0, 0.0]])
    mix, parts = torch.ones(1), torch.zeros(n)
    only = torch.arange(n) < 4
    with_text = only & (torch.arange(n) != 2)
    y, x = torch.tensor([[3.0, 4.0]]).expand(n, 2), torch.tensor([[0.0, 5.0]]).expand(n, 2)
    views = [
        ContentView("image", 0.5, mix, parts, only, y, x, image),
        ContentView("text", 0.5, mix, parts, with_text, y, text, None),
    ]
    monkeypatch.setattr(EmbeddingGTC, "explain_content", lambda *_: views)
    (one,) = explain(run, run.dataset.users.ids[user], run.dataset.items.ids[met[:1]], nearest=9).items
    # (3, 0) of (3, 4): share 9 / 25, and 4 of 5 is missing; (0, 5): share 20 / 25, and (-2.4, 1.8) is aside.
    assert astuple(one.retained[0]) == ("image", pytest.approx((0.36, 0.8)), pytest.approx((0.8, 0.6)))
    assert astuple(one.retained[1]) == ("text", None, pytest.approx((0.12, 0.16)))
    # Item 2 by its image alone, 45 degrees; item 3 by image, 90 degrees, and text, 0; the others share nothing.
    assert run.dataset.item_metadata is not None
    ids, titles = run.dataset.items.ids[met].tolist(), [run.dataset.item_metadata.titles[i] for i in met]
    assert [astuple(near) for near in one.nearest] == [
        (ids[1], titles[1], pytest.approx(math.sqrt(0.5))),
        (ids[2], titles[2], pytest.approx(0.5)),
    ]
    assert all(titles[:3])
    (one,) = explain(run, run.dataset.users.ids[user], run.dataset.items.ids[met[:1]], nearest=1).items
    assert [near.item for near in one.nearest] == ids[1:2]


@pytest.mark.parametrize("name", ["liked", "audience"])
def test_the_nearest_are_liked_items_most_similar_first(trained: Trained, name: str) -> None:
    run, user = trained(name), 9
    liked = set(run.dataset.items.ids[run.split.train.items_of(user)].tolist())
    for one in explain(run, run.dataset.users.ids[user], run.dataset.items.ids, nearest=4).items:
        similar = [near.similarity for near in one.nearest]
        assert {near.item for near in one.nearest} <= liked - {one.item}
        assert len(one.nearest) == 4
        assert similar == sorted(similar, reverse=True)
        assert all(abs(value) < 1 + 1e-9 for value in similar)


@pytest.mark.parametrize(("name", "inner"), [("bpr", True), ("freedom", True), ("popular", False), ("itemknn", False)])
def test_other_models_tell_score_and_rank(trained: Trained, name: str, inner: bool) -> None:
    run = trained(name)
    found = explain(run, run.dataset.users.ids[2], run.dataset.items.ids)
    assert found.preferences == ()
    scores = run.scorer(torch.tensor([2]))[0].tolist()
    for one, score in zip(found.items, scores, strict=True):
        assert one.score == score
        assert one.parts == ((ScoreContribution("identity", score, 100.0),) if inner else ())
        assert (one.retained, one.nearest) == ((), ())


def test_what_cannot_be_explained_is_named(trained: Trained, shop: Path, tmp_path: Path) -> None:
    run = trained("bpr")
    user, items = run.dataset.users.ids[0], run.dataset.items.ids[:1]
    with pytest.raises(DataError, match="user 'nobody' is not in the data, which has 60 users"):
        explain(run, "nobody", items)
    with pytest.raises(DataError, match="item 'nothing' is not in the data, which has 40 items"):
        explain(run, user, ["nothing"])
    with pytest.raises(ConfigError, match="expected at least one item to explain, found none"):
        explain(run, user, [])
    with pytest.raises(ConfigError, match="nearest must be at least 0, found -1"):
        explain(run, user, items, nearest=-1)
    with pytest.raises(RunError, match="run: training has not ended"):
        explain(Run.create(load_config(str(shop), "bpr", assignments=SMALL), tmp_path / "run"), user, items)


def test_the_command_prints_json_or_tables(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("liked")
    user, items = run.dataset.users.ids[1], run.dataset.items.ids[:2].tolist()
    expected = explain(run, user, items, nearest=2)
    line = [
        "analyze",
        "explain",
        str(run.folder),
        "--user",
        user,
        "--item",
        items[0],
        "--item",
        items[1],
        "--nearest",
        "2",
    ]
    assert execute([*line, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["user"], facts["n_unseen"], [one["item"] for one in facts["items"]]) == (
        user,
        expected.n_unseen,
        items,
    )
    first = expected.items[0]
    assert facts["items"][0]["parts"] == [vars(part) for part in first.parts]
    assert facts["items"][0]["nearest"] == [vars(near) for near in first.nearest]
    assert execute(line) == 0
    out = capsys.readouterr().out
    head = f"gtc, user {user}: {expected.n_seen} items seen in training, ranks among {expected.n_unseen} others\n"
    assert out.startswith(head)
    for one in expected.items:
        assert re.search(rf"^{one.item} +{one.score:.4f} +{one.rank} +(seen +)?{one.title}", out, re.MULTILINE)
        section = out[out.index(f"score of {one.item} {one.title}") :]
        for place, part in enumerate(one.parts):
            assert re.search(rf"^{part.view} +[+-]{abs(part.value):.4f} +{part.percent:.1f}%", section, re.MULTILINE)
            if place and part.view in (kept := {k.modality: k for k in one.retained}):
                matters, filtered = kept[part.view].matters, kept[part.view].filtered
                assert matters
                cells = " +".join(f"{v:.1%}" for v in (*astuple(matters), *astuple(filtered)))
                assert re.search(rf"^{part.view} .* {cells} +\d: \d+%, \d: \d+%, \d: \d+%", section, re.MULTILINE)
        for near in one.nearest:
            assert re.search(rf"^{near.item} +{near.similarity:.4f} +{near.title}", section, re.MULTILINE)


def test_the_command_shows_no_parts_where_there_are_none(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("popular")
    user, item = run.dataset.users.ids[1], run.dataset.items.ids[int(run.split.train.items_of(1)[0])]
    assert execute(["analyze", "explain", str(run.folder), "--user", user, "--item", item]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[2].split()[:1] == [item]
    assert out[2].split()[3] == "seen"
    assert execute(["analyze", "explain", str(run.folder), "--user", user, "--item", "nothing"]) == 1
    assert capsys.readouterr().err == "error: item 'nothing' is not in the data, which has 40 items\n"
