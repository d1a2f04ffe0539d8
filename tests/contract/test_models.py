"""What every model of the registry keeps to, and what the registry says of those it does not know."""

from dataclasses import replace

import pytest

from gtcrec import models
from gtcrec.errors import ConfigError
from gtcrec.testing import model_checks

GTC = models.get_spec("gtc")
VARIANTS = {
    "gtc, item_id": {"condition": "item_id"},
    "gtc, refined": {"attention_refinement": True},
    "gtc, item_id, refined": {"condition": "item_id", "attention_refinement": True},
}


def checks():
    for name in models.list_models():
        for claim, check in model_checks(models.get_spec(name)):
            yield pytest.param(check, id=f"{name} {claim}")
    for name, settings in VARIANTS.items():
        found = dict(model_checks(replace(GTC, small={**GTC.small, **settings})))
        claim = "a resumed training ends as the unbroken one"
        yield pytest.param(found[claim], id=f"{name} {claim}")


@pytest.mark.parametrize("check", list(checks()))
def test_every_model_keeps_the_contract(check):
    check()


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown model 'lightgnc' \(did you mean 'lightgcn'\?\); known: popular, "):
        models.get_spec("lightgnc")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"gtc has no preset 'relesed' \(did you mean 'released'\?\)"):
        models.make_config("gtc", {}, "relesed")


def test_a_setting_out_of_range_is_refused_with_what_was_found():
    with pytest.raises(ConfigError, match="gtc: embedding_dim: Input should be greater than or equal to 1, found 0"):
        models.make_config("gtc", {"embedding_dim": 0})


def test_every_model_with_settings_has_a_space():
    assert [name for name in models.list_models() if not models.get_spec(name).search_space] == ["popular"]
