"""Settings under their names of version 0.1."""

import pytest

from gtcrec import models
from gtcrec.data import write_catalog
from gtcrec.errors import ConfigError
from gtcrec.experiments.config import load_config
from gtcrec.experiments.tuning.space import resolve_space
from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.renamed import RENAMED, current_setting
from gtcrec.training.trainer import TrainConfig

CONFIGS = {name: models.get_spec(name).config for name in models.list_models()} | {"train": TrainConfig}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return str(write_catalog(tmp_path_factory.mktemp("data") / "shop", n_users=40, n_items=40))


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_stands_for_the_new_one_and_its_values(old):
    new, having = RENAMED[old].name, [one for one in CONFIGS.values() if RENAMED[old].name in one.model_fields]
    assert having
    for config in having:
        assert current_setting(old, config) == new
        default = getattr(config(), new)
        values = {after: before for before, after in RENAMED[old].values.items()}
        assert config(**{old: values.get(default, default)}) == config()


def test_no_config_has_an_old_name():
    for config in CONFIGS.values():
        assert [key for key in config.model_fields if key in RENAMED and RENAMED[key].name != key] == []


def test_old_values_are_read_as_what_they_meant():
    old = GTCConfig(condition="identity", taste="own", echo=True, start="als")  # type: ignore[call-arg]
    assert (old.condition, old.modality_preference, old.leave_one_out, old.init) == ("item_id", "learned", False, "als")
    training = TrainConfig(tables="sharded", negatives="met", decay="linear")  # type: ignore[call-arg]
    assert training.model_dump(include={"embedding_sharding", "negative_items", "lr_decay"}) == {
        "embedding_sharding": "row_wise",
        "negative_items": "warm",
        "lr_decay": "linear",
    }


def test_a_setting_under_both_names_is_refused():
    with pytest.raises(ConfigError, match="embedding_dim is given twice: dim is its old name"):
        models.make_config("bpr", {"embedding_dim": 8, "dim": 8})
    with pytest.raises(ConfigError, match="lr_decay is given twice: decay is its old name"):
        TrainConfig(decay="none", lr_decay="none")  # type: ignore[call-arg]


def test_a_removed_setting_may_have_the_value_that_it_has_now(shop, monkeypatch):
    config = CONFIGS["bpr"]
    monkeypatch.setattr(config, "removed_settings", {"bias": False})
    assert models.make_config("bpr", {"bias": False, "dim": 8}) == config(embedding_dim=8)
    assert config(bias=False) == config()
    assert load_config(shop, "bpr", assignments=["bias=false", "settings.bias=false"]) == load_config(shop, "bpr")
    with pytest.raises(ConfigError, match="the setting bias was removed: expected bias=False, found True"):
        models.make_config("bpr", {"bias": True})


def test_the_command_line_and_files_take_old_names(shop, tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("model: gtc\nsettings: {dim: 8, condition: audience}\ntrain: {negatives: met}\n")
    given = ["width=16", "settings.echo=true", "tables=whole", "train.decay=linear", "condition=liked"]
    config = load_config(shop, file=file, assignments=given)
    found = {key: config.settings[key] for key in ("embedding_dim", "content_dim", "leave_one_out", "condition")}
    assert found == {"embedding_dim": 8, "content_dim": 16, "leave_one_out": False, "condition": "user_history"}
    assert (config.train.negative_items, config.train.lr_decay) == ("warm", "linear")
    assert load_config(shop, file=file, assignments=["embedding_dim=4"]).settings["embedding_dim"] == 4


def test_a_search_space_takes_old_names(shop, tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("layers: [1, 2]\ncondition: [liked, audience]\ntrain.decay: [none, linear]\nhidden: [8, 64]\n")
    space = resolve_space(load_config(shop, "gtc"), ["hidden=8"], file)
    assert space == {
        "num_layers": (1, 2),
        "condition": ("user_history", "item_audience"),
        "train.lr_decay": ("none", "linear"),
    }
