"""DiffMM beside its authors' code: both phases of an epoch, rebuilt rows, noise levels and graphs."""

import pytest
import torch

from helpers.training import stream
from parity.published import BATCH, DATA, GRADIENT, KEYS, SCORE, TERM, Parity, build, load_case, stored_draws

N_USERS, N_ITEMS = DATA["n_users"], DATA["n_items"]
NODES = N_USERS + N_ITEMS
DENOISING = load_case("diffmm", "denoise")
CONTRAST = {
    "recommend": ["users", "items"],
    "recommend_main": ["users_image", "items_image", "users_text", "items_text"],
    "recommend_dropped": ["users", "items"],
    "recommend_linear": ["users", "items"],
}


def recommender_names(published):
    found = {"users": published["uEmbeds"], "items": published["iEmbeds"], "mix": published["modal_weight"]}
    for name, key in KEYS.items():
        if f"{name}_trans.weight" in published:
            found |= {f"projections.{key}.{part}": published[f"{name}_trans.{part}"] for part in ("weight", "bias")}
        else:
            found[f"projections.{key}.weight"] = published[f"{name}_trans"].T
    return found


def denoiser_weights(published):
    """The level passes through two maps there, and through their product here."""
    found = {}
    for name, key in KEYS.items():
        place, ours = f"denoise_model_{name}", f"denoisers.{key}"
        enter, level = published[f"{place}.in_layers.0.weight"].split([N_ITEMS, 10], dim=1)
        found |= {
            f"{ours}.enter.weight": enter,
            f"{ours}.enter.bias": published[f"{place}.in_layers.0.bias"] + level @ published[f"{place}.emb_layer.bias"],
            f"{ours}.level.weight": level @ published[f"{place}.emb_layer.weight"],
            f"{ours}.leave.weight": published[f"{place}.out_layers.0.weight"],
            f"{ours}.leave.bias": published[f"{place}.out_layers.0.bias"],
        }
    return found


def make(case, **given):
    s = case.settings
    return build(
        "diffmm",
        {**recommender_names(case.parameters), **denoiser_weights(case.parameters)},
        num_layers=s["gnn_layer"],
        projection="linear" if s["trans"] else "leaky_relu",
        hidden_dim=12,
        diffusion_steps=s["steps"],
        noise_scale=s["noise_scale"],
        noise_min=s["noise_min"],
        noise_max=s["noise_max"],
        num_generated_items=s["rebuild_k"],
        edge_dropout=1 - s["keepRate"],
        generated_graph_weight=s["ris_adj_lambda"],
        residual_weight=s["ris_lambda"],
        injection_weight=s["e_loss"],
        contrast_views="main" if s["cl_method"] else "modalities",
        contrast_weight=s["ssl_reg"],
        temperature=s["temp"],
        reg=s["reg"],
        **given,
    )


def dense(entries):
    found = torch.zeros(NODES, NODES)
    found[entries["rows"], entries["columns"]] = torch.tensor(entries["values"])
    return found


@pytest.fixture(params=list(CONTRAST))
def parity(request):
    terms = [f"contrast_{name}" for name in CONTRAST[request.param]]
    case = load_case("diffmm", request.param)
    return Parity(case, recommender_names, {"bpr": ["bpr"], "reg": ["reg"], "contrast": terms})


@pytest.fixture
def model(parity):
    """With the published graphs, and those of their entries that the edge dropout kept."""
    found, facts, keep = make(parity.case), parity.case.facts, parity.case.settings["keepRate"]
    for m, name in enumerate(KEYS):
        found.chosen[m] = torch.tensor(facts["chosen"][name])
        if keep < 1:
            kept = dense(facts["graphs"][name]) != 0
            users, items = torch.arange(N_USERS), N_USERS + found.chosen[m, :, 0]
            whole = torch.cat([kept[users, items], kept[items, users], kept.diagonal()])
            found.edge_scales[m] = whole / keep
    return found


def recommender_loss(model):
    found = model.loss(BATCH, stream())
    return {name: value for name, value in found.items() if name not in ("diffusion", "injection")}


def test_the_recommenders_scores_are_the_published_ones(parity, model):
    parity.check_scores(model)


def test_the_recommenders_terms_and_gradients_are_the_published_ones(parity, model):
    found = recommender_loss(model)
    parity.check_terms(found)
    parity.check_gradients(model, found, without=["denoisers"])


def test_the_observed_graph_is_the_published_one():
    expected = dense(load_case("diffmm", "recommend").facts["adjacency"])
    found = make(DENOISING)._propagate(torch.eye(NODES))
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert (expected.diagonal() > 0).all()


@pytest.mark.parametrize("parity", [name for name in CONTRAST if name != "recommend_linear"], indirect=True)
def test_the_generated_graphs_are_the_published_ones(parity, model):
    for name, (a, at) in zip(KEYS, model._generated_graphs(), strict=True):
        expected = dense(parity.case.facts["graphs"][name])
        assert torch.allclose(a.to_dense(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(at.to_dense(), a.to_dense().T)


def test_noise_levels_and_their_weights_are_the_published_ones():
    process, expected = make(DENOISING).process, DENOISING.facts["schedule"]
    kept = torch.tensor(expected["alphas_cumprod"], dtype=torch.float64)
    torch.testing.assert_close(process.schedule.signal, kept.sqrt().float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(process.schedule.noise, (1 - kept).sqrt().float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(process.weights, torch.tensor(expected["loss_weight"]), rtol=1e-6, atol=0)
    assert process.clean == pytest.approx(expected["posterior_mean_of_clean"], rel=1e-9)
    assert process.noisy == pytest.approx(expected["posterior_mean_of_noisy"], rel=1e-9)


def test_rebuilt_rows_and_the_items_kept_of_them_are_the_published_ones():
    model, expected = make(DENOISING), DENOISING.facts["cases"]["rebuild"]
    users = torch.tensor(DATA["score_users"])
    model.refresh()
    for m, name in enumerate(KEYS):
        rows, found = torch.tensor(expected["rebuilt"][name]), model.rebuild_rows(m, users)
        assert (found - rows).abs().max() <= SCORE * rows.std()
        assert model.chosen[m].tolist() == expected["chosen"][name]


def denoising_loss(model, case):
    draws = case.draws
    kept = [draws[f"kept_{name}"].float() for name in KEYS if f"kept_{name}" in draws]  # .5 and more is kept
    with stored_draws(randint=[draws["levels"]] * 2, randn=[draws["noise"]] * 2, rand=kept):
        return model.denoising_loss(draws["users"], torch.Generator())


def published_gradients(published, found):
    """Those of the published parameters that the gradients `found`, under gtcrec's names, imply."""
    implied = {}
    for name, key in KEYS.items():
        place, ours = f"denoise_model_{name}", f"denoisers.{key}"
        level = published[f"{place}.in_layers.0.weight"][:, N_ITEMS:]
        emb, bias = published[f"{place}.emb_layer.weight"], published[f"{place}.emb_layer.bias"]
        enter, shift, waves = (found[f"{ours}.{one}"] for one in ("enter.weight", "enter.bias", "level.weight"))
        implied |= {
            f"{place}.in_layers.0.weight": torch.cat([enter, waves @ emb.T + torch.outer(shift, bias)], dim=1),
            f"{place}.in_layers.0.bias": shift,
            f"{place}.emb_layer.weight": level.T @ waves,
            f"{place}.emb_layer.bias": level.T @ shift,
            f"{place}.out_layers.0.weight": found[f"{ours}.leave.weight"],
            f"{place}.out_layers.0.bias": found[f"{ours}.leave.bias"],
        }
    return implied


@pytest.mark.parametrize("name", ["denoise", "denoise_dropout"])
def test_the_denoisers_terms_and_gradients_are_the_published_ones(name):
    case = load_case("diffmm", name)
    model = make(case, denoiser_dropout=0.5 if name == "denoise_dropout" else 0.0)
    found = denoising_loss(model, case)
    expected = {term: [f"{term}_{content}" for content in KEYS] for term in ("diffusion", "injection")}
    for term, parts in expected.items():
        assert found[term].item() == pytest.approx(sum(case.terms[part] for part in parts), rel=TERM)
    assert sum(value.item() for value in found.values()) == pytest.approx(case.loss, rel=TERM)

    def check(value, gradients):
        own = {n: p for n, p in model.named_parameters() if n.startswith("denoisers.")}
        by_ours = dict(zip(own, torch.autograd.grad(value, list(own.values()), retain_graph=True), strict=True))
        for place, implied in published_gradients(case.parameters, by_ours).items():
            error = (implied - gradients[place]).abs().max()
            assert error <= GRADIENT * gradients[place].abs().max(), place

    check(sum(found.values()), case.gradients)
    if case.term_gradients:
        for term, parts in expected.items():
            places = case.gradients
            check(found[term], {p: sum(case.term_gradients[part][p] for part in parts) for p in places})


def test_the_denoisers_gradients_reach_nothing_else():
    model = make(DENOISING, denoiser_dropout=0.0)
    value = sum(denoising_loss(model, DENOISING).values())
    others = [p for n, p in model.named_parameters() if not n.startswith("denoisers.")]
    assert torch.autograd.grad(value, others, allow_unused=True) == (None,) * len(others)
