"""A short sample of the attacks that `make chaos` runs for long, and the page that its counts make."""

import json
import random
from collections.abc import Callable

import pytest

from chaos.damages import Damaged, damaged_folders
from chaos.inputs import targets, try_input
from chaos.kills import kill_at_random, start_two
from chaos.report import COUNTS, PAGE, page
from chaos.stage import Stage, Tally


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("target", list(targets()))
def test_mutated_files_are_read_or_refused(target: str) -> None:
    whole, read = targets()[target]
    tally, draw = Tally("hostile input", target), random.Random(target)
    for _ in range(100):
        try_input(whole, read, draw, tally)
    assert (tally.tried, tally.failures) == (100, [])


def test_damaged_files_change_no_answer(stage: Stage) -> None:
    draw = random.Random(2)
    for name, folder in damaged_folders(stage).items():
        tally = Tally("damaged file", name)
        for _ in range(25):
            folder.attack(draw, tally)
        assert tally.tried > 10
        assert tally.failures == []


def test_a_reader_that_gives_another_answer_is_a_failure(stage: Stage) -> None:
    folder = Damaged(stage.shop, {"bytes": lambda place: [one.read_bytes() for one in sorted(place.glob("*.csv"))]})
    tally, draw = Tally("damaged file", "bytes"), random.Random(3)
    for _ in range(30):
        folder.attack(draw, tally)
    assert 0 < len(tally.failures) <= tally.tried


@pytest.mark.parametrize("attack", [kill_at_random, start_two])
def test_a_build_is_whole_after_kills_and_beside_another(stage: Stage, attack: Callable[..., None]) -> None:
    one = next(command for command in stage.commands() if command.name == "data build")
    tally = Tally(attack.__name__, one.name)
    attack(stage, one, random.Random(4), tally)
    assert tally.failures == []


def test_the_page_is_written_from_the_recorded_counts() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(COUNTS.read_text(encoding="utf-8")))
