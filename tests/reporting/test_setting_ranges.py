"""Ranges of settings in words."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gtcrec.models import get_spec, list_models
from gtcrec.reporting.setting_ranges import setting_ranges


class Example(BaseModel):
    any_number: float = 0.0
    at_least: int = Field(1, ge=1)
    above: float = Field(1, gt=0.5)
    at_most: float = Field(1, le=2)
    below: int = Field(1, lt=2)
    half_open: float = Field(0, ge=0, lt=1)
    other_half: float = Field(1, gt=0, le=1)
    switch: bool = True
    choice: Literal["one", "two"] = "one"
    text: str = ""
    maybe: Annotated[int, Field(ge=0)] | None = None
    several: tuple[float, ...] = ()
    pair: tuple[int, int] = (1, 2)
    by_name: Mapping[str, Annotated[float, Field(ge=0)]] = {}


def test_limits_and_choices_are_said_in_words():
    assert setting_ranges(Example) == {
        "any_number": "number",
        "at_least": "whole, >= 1",
        "above": "> 0.5",
        "at_most": "<= 2",
        "below": "whole, < 2",
        "half_open": "[0, 1)",
        "other_half": "(0, 1]",
        "switch": "true, false",
        "choice": "one, two",
        "text": "text",
        "maybe": "whole, >= 0 or none",
        "several": "list of number",
        "pair": "list of whole",
        "by_name": "name: >= 0",
    }


def test_every_setting_of_every_model_has_a_range():
    empty = [
        (name, key) for name in list_models() for key, text in setting_ranges(get_spec(name).config).items() if not text
    ]
    assert empty == []
