"""Weights that are kept while training goes on."""

import torch
from torch import nn

from gtcrec.models.gtc.kept_weights import KeptWeights


def set_all(part: nn.Module, value: float) -> None:
    for parameter in part.parameters():
        parameter.data.fill_(value)


def test_the_best_weights_are_lent_and_given_back() -> None:
    part = nn.Linear(2, 1)
    kept = KeptWeights(part, patience=2)
    for value, judged in ((1.0, 0.3), (2.0, 0.5), (3.0, 0.4)):
        set_all(part, value)
        kept.judge(part, judged)
    with kept.swapped(part):
        assert part(torch.ones(1, 2)).item() == 2 * 2 + 2
    assert part(torch.ones(1, 2)).item() == 3 * 2 + 3


def test_a_part_is_final_after_as_many_judgements_without_a_better_one() -> None:
    part = nn.Linear(2, 1)
    kept, said = KeptWeights(part, patience=2), []
    for judged in (0.5, 0.5, 0.6, 0.1, 0.2):
        kept.judge(part, judged)
        said.append(kept.is_final)
    assert said == [False, False, False, False, True]


def test_before_the_first_judgement_a_part_keeps_its_own() -> None:
    part = nn.Linear(2, 1)
    set_all(part, 4.0)
    with KeptWeights(part, patience=1).swapped(part):
        assert part(torch.ones(1, 2)).item() == 12.0


def test_what_is_kept_is_saved_with_the_model() -> None:
    part = nn.Sequential(nn.Linear(2, 1))
    kept = KeptWeights(part, patience=3)
    set_all(part, 2.0)
    kept.judge(part, 0.5)
    other = KeptWeights(part, patience=3)
    other.load_state_dict(kept.state_dict())
    set_all(part, 0.0)
    with other.swapped(part):
        assert part(torch.ones(1, 2)).item() == 6.0


def test_what_is_not_trained_is_not_kept() -> None:
    part = nn.Linear(2, 1)
    part.bias.requires_grad_(False)
    assert set(KeptWeights(part, 1).state_dict()) == {"best", "since", "weight"}
