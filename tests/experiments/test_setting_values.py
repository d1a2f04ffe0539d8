"""Settings as they are given: text stays text, numpy's values are values, and no YAML leaves by another error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtcrec.errors import ConfigError, GtcrecError
from gtcrec.experiments.config import load_config, parse_yaml


@pytest.mark.parametrize(
    "text", ["0", "007", "1e3", "true", "null_", "2021-01-01", "[a]", "a: b", "1:30", "#", "*x", "a\tb"]
)
def test_a_setting_of_text_takes_what_stands_after_the_sign(text: str) -> None:
    assert load_config("shop", "bpr", assignments=[f"data.user={text}"]).data.user == text


@pytest.mark.parametrize(("text", "value"), [("'0'", "0"), ('"null"', "null"), ("null", None), ("~", None)])
def test_quotes_and_null_keep_their_meaning(text: str, value: str | None) -> None:
    assert load_config("shop", "bpr", assignments=[f"data.user={text}"]).data.user == value


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5)])
def test_values_of_numpy_are_values(value: Any) -> None:
    config = load_config("shop", "bpr", values={"learning_rate": value, "epochs": np.int64(3), "data.user": Path("x")})
    assert (config.train.learning_rate, config.train.epochs, config.data.user) == (0.5, 3, "x")
    metrics = np.array(["ndcg@20", "recall@20"])
    assert load_config("shop", "bpr", values={"evaluate.metrics": metrics}).evaluate.metrics == tuple(metrics)


def test_a_value_that_no_setting_holds_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        load_config("shop", "bpr", values={"learning_rate": object()})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed=010", "seed=010: not YAML: 010 may be in base 8; write 10, or in quotes what is text"),
        ("seed=-007", "write 7, or in quotes"),
        ("seed=1:30", "seed"),
        ("preset=3", "bpr has no preset '3'"),
        ("epochs=" + "9" * 5000, "Exceeds the limit"),
        ("epochs=" + "[" * 3000, "nested deeper than 50 levels"),
        ("epochs=" + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("epochs=\x07", "special characters are not allowed"),
        ("epochs=!!timestamp 2001-99-99", "not YAML"),
        ("epochs={a: 1, a: 2}", "the key 'a' stands twice"),
    ],
)
def test_odd_values_are_refused_in_one_line(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("shop", "bpr", assignments=[line])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize(
    "text",
    [
        "model: 3",
        "model: [a]",
        "preset: [default]",
        "settings: 3",
        "train: [1, 2]",
        "data: {1: 2}",
        "split: null\ndata: null",
        "train: {epochs: 2021-01-01}",
        "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
        "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\ntrain: [*e, *e, *e, *e]",
        "train: &t [*t]",
    ],
)
def test_a_file_of_odd_sections_is_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(None, "bpr" if "model" not in text else None, tmp_path / "c.yaml")
    assert len(str(caught.value)) < 1000


ODD = st.text(st.sampled_from("{}[]:,-&*!|>'\"%@`#? \n\tab01.e~<=\x00\x85\ud800é"), max_size=40)


def check_yaml(text: str) -> None:
    try:
        parse_yaml(text, "text")
    except GtcrecError as error:
        assert "\n" not in str(error)  # noqa: PT017


@settings(deadline=None, max_examples=200)
@given(ODD | st.text(max_size=60))
def test_only_our_errors_leave_yaml(text: str) -> None:
    check_yaml(text)


@pytest.mark.slow
@settings(deadline=None, max_examples=20_000)
@given(ODD | st.text(max_size=200))
def test_only_our_errors_leave_much_yaml(text: str) -> None:
    check_yaml(text)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["seed", "epochs", "preset", "data.user", "split.ratios", "evaluate.metrics", "reg"]), ODD)
def test_only_our_errors_leave_settings(key: str, text: str) -> None:
    try:
        load_config("shop", "bpr", assignments=[f"{key}={text}"])
    except GtcrecError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["a: *x" + "1" * 5000, "a: [0.8, 0" + "1" * 5000 + ": ", "? " + "9" * 6000 + "e: [}"])
def test_the_error_shows_the_beginning_of_a_long_word(text: str) -> None:
    with pytest.raises(ConfigError, match="not YAML") as caught:
        parse_yaml(text, "text")
    assert len(str(caught.value)) < 1000
