"""Projected content: the closed form, in blocks and from files that stay on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gtcrec.models import content
from gtcrec.models.content import ContentProjection


def projection(x, present, dim=4):
    torch.manual_seed(0)
    return ContentProjection(x, present, dim)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3.0, 5.0, size=(9, 6)).astype(np.float32)


@pytest.fixture
def present():
    return np.array([True] * 7 + [False] * 2)


def test_projected_content_is_the_standardised_content_in_closed_form(x, present, monkeypatch):
    x[:, 2] = 7.0  # a constant column counts as 0
    items = torch.tensor([4, 0, 8, 0, 6])
    model = projection(x, present)
    have = x[present].astype(np.float64)
    spread = have.std(axis=0)
    spread[2] = np.inf
    weight, bias = (p.detach().double().numpy() for p in (model.linear.weight, model.linear.bias))
    wanted = ((x - have.mean(axis=0)) / spread) @ weight.T + bias
    wanted = (wanted - wanted.mean(axis=1, keepdims=True)) / np.sqrt(wanted.var(axis=1, keepdims=True) + 1e-5)
    wanted[~present] = 0
    for numbers in (1 << 20, 12):  # all at once, and two rows at a time
        monkeypatch.setattr(content, "_BLOCK_NUMBERS", numbers)
        np.testing.assert_allclose(model(items).detach(), wanted[items], atol=2e-5)


def test_its_gradient_is_that_of_a_plain_linear_layer(x, present, monkeypatch):
    monkeypatch.setattr(content, "_BLOCK_NUMBERS", 12)
    model = projection(x, present)
    items = torch.tensor([1, 3, 3, 5, 8])
    model(items).pow(3).sum().backward()
    found = [p.grad.clone() for p in (model.linear.weight, model.linear.bias)]
    model.zero_grad()
    scaled = (model.x[items] - model.mean) * model.inverse
    h = torch.nn.functional.layer_norm(model.linear(scaled), (4,))
    h[model.present[items]].pow(3).sum().backward()
    for one, wanted in zip(found, (model.linear.weight.grad, model.linear.bias.grad), strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-4)


def test_a_memory_mapped_matrix_is_used_where_it_lies(x, present, tmp_path: Path):
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    model = projection(mapped, present)
    assert model.x.data_ptr() == mapped.ctypes.data
    torch.testing.assert_close(model(torch.arange(9)), projection(x, present)(torch.arange(9)))


def test_content_of_no_item_at_all_is_zero(x):
    model = projection(x, np.zeros(9, dtype=bool))
    assert model(torch.arange(9)).abs().sum() == 0
