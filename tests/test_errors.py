"""Pydantic's errors in our words."""

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gtcrec.errors import ConfigError, GtcrecError, WriteError, config_error


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    epochs: Annotated[int, Field(ge=1)] = 1


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    data: Mapping[Annotated[str, Field(min_length=2)], Entry] = {}
    one: Entry | None = None
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> "Whole":
        if self.low > self.high:
            raise ValueError(f"low must not be above high, found {self.low}")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hihg": 1}, "f.yaml: unknown key 'hihg' (did you mean 'high'?); known: data, one, low, high"),
        ({"one": {"path": "x", "pth": 1}}, "f.yaml: unknown key 'one.pth' (did you mean 'path'?); known: path, epochs"),
        ({"data": {"ab": {"path": "x", "q": 1}}}, "f.yaml: unknown key 'data.ab.q'; known: path, epochs"),
        ({"data": {"ab": {}}}, "f.yaml: data.ab.path: Field required"),
        ({"data": {"a": {"path": "x"}}}, "f.yaml: data.a: String should have at least 2 characters, found 'a'"),
        (
            {"one": {"path": "x", "epochs": 0}},
            "f.yaml: one.epochs: Input should be greater than or equal to 1, found 0",
        ),
        ({"low": 3}, "f.yaml: low must not be above high, found 3"),
    ],
)
def test_the_first_fault_names_key_and_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(values)
    error = config_error(caught.value, "f.yaml", Whole)
    assert isinstance(error, ConfigError)
    assert str(error) == message


def test_without_the_model_an_unknown_key_has_no_hint() -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate({"hihg": 1})
    assert str(config_error(caught.value)) == "unknown key 'hihg'"


@pytest.mark.parametrize("error", [GtcrecError("a " + "9" * 5000 + " z"), GtcrecError("word " * 5000 + "z")])
def test_an_error_is_of_bounded_length_and_keeps_its_ends(error: GtcrecError) -> None:
    assert len(str(error)) <= 4000
    assert (str(error)[0], str(error)[-1]) == (error.args[0][0], "z")


def test_an_error_over_a_path_with_a_line_break_is_one_line() -> None:
    assert str(WriteError("a\nb\x1b[2J", "no space")) == "a b\\x1b[2J: cannot be written: no space"
