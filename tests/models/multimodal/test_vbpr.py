"""VBPR's own claims: the paper's score and loss, any number of modalities, content's bias, L2 on what content adds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.testing import checkerboard as make_split
from gtcrec.testing import model_checks
from gtcrec.types import ItemFeatures, Split
from helpers.training import a_batch

SEPARATE = {"content_projection": "separate"}
FORMS = pytest.mark.parametrize("given", [{}, SEPARATE], ids=["joined", "separate"])


def make(split, seed=0, **given):
    config = models.make_config("vbpr", {"embedding_dim": 8, "content_dim": 3, **given})
    model = models.build_model("vbpr", split.train, split.features, config, seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # the biases and the offset start at 0, where a wrong sign would not show
        model.bias.copy_(torch.randn(len(model.bias), generator=rng))
        if model.joined:
            model.offset.copy_(torch.randn(len(model.offset), generator=rng))
        for both in model.projections.values():
            both.weight[-1] = torch.randn(both.weight.shape[1], generator=rng)
    return model


def with_rows_of_absent_items(split, value):
    values = {m: x.copy() for m, x in split.features.values.items()}
    for m, x in values.items():
        x[~split.features.present[m]] = value
    features = ItemFeatures(split.features.n_items, values, split.features.present)
    return Split(split.train, split.valid, split.final_test(), features, split.how)


def added_by_content(model, split):
    """Key of factors -> E x_i + a and <b, x_i> [n_items, 3 + 1] in float64; a modality that an item lacks is 0."""
    found = {}
    for m, key in model.keys.items():
        weight = model.projections[key].weight.detach().double().numpy()
        x = split.features.values[m].astype(np.float64)
        found[key] = np.where(split.features.present[m][:, None], x, 0) @ weight.T
    if not model.joined:
        return found
    offset = np.append(model.offset.detach().double().numpy(), 0)
    return {"joined": sum(found.values()) + offset}


def by_hand(model, split):
    """Scores [n_users, n_items] in float64, one pair's sum written out as equation 4."""
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    added = added_by_content(model, split)
    s = np.zeros((split.train.n_users, split.train.n_items))
    for u in range(s.shape[0]):
        for i in range(s.shape[1]):
            s[u, i] = weights["bias"][i] + weights["users"][u] @ weights["items"][i]
            for key, of_items in added.items():
                s[u, i] += weights[f"tastes.{key}"][u] @ of_items[i, :-1] + of_items[i, -1]
    return s


@FORMS
@pytest.mark.parametrize("widths", [{}, {"image": 6}, {"a": 3, "b": 4, "c": 5}])
def test_the_score_is_the_paper_s_with_a_sum_over_modalities(widths, given, checkerboard):
    split = checkerboard(widths, 0.4)
    model = make(split, **given)
    wanted = torch.from_numpy(by_hand(model, split)).float()
    torch.testing.assert_close(model.scorer()(torch.arange(40)), wanted, atol=1e-5, rtol=1e-5)


@FORMS
def test_the_loss_is_bpr_of_the_scores_and_l2_of_all_that_makes_them(given, checkerboard):
    split = checkerboard(missing=0.4)
    model, batch = make(split, reg=0.25, reg_form="half_squares", **given), a_batch(split)
    found = model.loss(batch, torch.Generator())
    s = by_hand(model, split)
    u, i, j = (side.numpy() for side in batch)
    bpr = np.log1p(np.exp(s[u, j] - s[u, i])).mean()
    squares = sum(model.get_parameter(name).detach().double().square().sum(1)[u] for name in _of_users(model)).sum()
    for side in (i, j):
        squares += model.items.detach().double().square().sum(1)[side].sum()
        squares += model.bias.detach().double().square()[side].sum()
        for added in added_by_content(model, split).values():
            squares += np.square(added[side]).sum()
    assert set(found) == {"bpr", "reg"}
    assert found["bpr"].item() == pytest.approx(bpr, abs=1e-5)
    assert found["reg"].item() == pytest.approx(0.25 * squares.item() / (2 * len(u)), rel=1e-5)


def _of_users(model):
    return ["users", *(f"tastes.{key}" for key in model.tastes)]


def test_an_item_s_content_is_regularised_by_what_it_adds_not_by_its_weights(checkerboard):
    split = checkerboard(missing=0.4)
    model = make(split, reg_form="half_squares", **SEPARATE)
    batch = a_batch(split)
    model.loss(batch, torch.Generator())["reg"].backward()
    for key in model.keys.values():
        x = torch.cat([getattr(model, f"x_{key}")[side] for side in batch[1:]])
        weight = model.projections[key].weight
        torch.testing.assert_close(weight.grad, model.config.reg * weight.detach() @ x.T @ x / len(batch.users))
        assert weight.grad.abs().sum() > 0


def test_a_modality_that_an_item_lacks_adds_nothing_whatever_its_row_says(checkerboard):
    split = checkerboard(missing=0.4)
    one, other = make(split), make(with_rows_of_absent_items(split, 7.0))
    batch = a_batch(split)
    assert torch.equal(one.scorer()(torch.arange(40)), other.scorer()(torch.arange(40)))
    assert torch.equal(one.loss(batch, torch.Generator())["bpr"], other.loss(batch, torch.Generator())["bpr"])


def test_factors_of_joined_contents_start_as_one_layer_and_users_as_one_table():
    """Xavier over all inputs and outputs: of users in 4 + 96 columns, and of contents of 30 + 50 numbers to 96."""
    split = make_split({"image": 30, "text": 50}, n=1000)
    config = models.make_config("vbpr", {"embedding_dim": 4, "content_dim": 96})
    model = models.build_model("vbpr", split.train, split.features, config, 0)
    bound = (6 / (1000 + 4 + 96)) ** 0.5
    for table in (model.users, *model.tastes.values()):
        assert table.abs().max().item() == pytest.approx(bound, rel=0.01)
    for both in model.projections.values():
        assert both.weight[:-1].std().item() == pytest.approx((2 / (80 + 96)) ** 0.5, rel=0.05)
        assert not both.weight[-1].any()


def test_a_stored_configuration_without_the_settings_means_the_model_of_then():
    then = models.make_config("vbpr", models.complete_settings("vbpr", {"dim": 8, "content_dim": 4, "reg": 0.1}))
    assert (then.content_projection, then.reg_form, then.biases) == ("separate", "half_squares", True)


def test_weights_of_then_have_the_names_and_shapes_of_separate_projections(checkerboard):
    split = checkerboard()
    shapes = {name: tuple(x.shape) for name, x in make(split, **SEPARATE).state_dict().items()}
    assert shapes == {
        "users": (40, 8),
        "items": (40, 8),
        "bias": (40,),
        "tastes.0_image": (40, 3),
        "tastes.1_text": (40, 3),
        "projections.0_image.weight": (4, 6),
        "projections.1_text.weight": (4, 5),
    }


def test_content_is_read_where_it_lies(checkerboard):
    split = checkerboard(missing=0.4)
    assert make(split).x_0_image.data_ptr() == split.features.values["image"].ctypes.data


def test_an_untrained_model_has_no_opinion_on_popularity(checkerboard):
    split = checkerboard()
    model = models.build_model("vbpr", split.train, split.features, models.make_config("vbpr", {}), 0)
    users, items = model.vectors()
    assert users.shape == items.shape == (40, 64 * 2 + 1)
    assert torch.equal(users[:, -1], torch.ones(40))
    assert torch.equal(items[:, -1], torch.zeros(40))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reg": -1}, "vbpr: reg: .* greater than or equal to 0, found -1"),
        ({"content_dim": 0}, "vbpr: content_dim: .* greater than or equal to 1, found 0"),
        ({"content_dims": 3}, r"vbpr has no setting 'content_dims' \(did you mean 'content_dim'\?\)"),
    ],
)
def test_wrong_settings_are_refused(given, message, checkerboard):
    with pytest.raises(ConfigError, match=message):
        make(checkerboard(), **given)


def checks():
    spec = models.get_spec("vbpr")
    for settings in (SEPARATE, {"biases": False}, {"reg_form": "half_squares", "reg": 0.1}):
        for claim, check in model_checks(replace(spec, small={**spec.small, **settings})):
            yield pytest.param(check, id=f"{settings} {claim}")


@pytest.mark.parametrize("check", list(checks()))
def test_each_variant_keeps_the_contract(check):
    check()
