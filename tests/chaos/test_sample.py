"""A short sample of the attacks that `make chaos` runs for long, and the page that its counts make."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.attack import write_counts
from chaos.damages import Damaged, damaged_folders
from chaos.events import EventAttack, Other
from chaos.forks import Forks, can_fork
from chaos.inputs import InputFolder, targets
from chaos.kills import kill_at_random, start_two
from chaos.report import COUNTS, PAGE, page
from chaos.stage import Stage, Tally
from gtcrec.errors import GtcrecError


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("target", list(targets()))
def test_mutated_files_are_read_or_refused(target: str) -> None:
    tally = Tally("hostile input", target)
    with InputFolder() as place:
        place.try_input(*targets()[target], random.Random(target), tally)
    assert (tally.tried, tally.failures) == (100, [])


def test_damaged_files_change_no_answer(stage: Stage) -> None:
    draw = random.Random(2)
    for name, folder in damaged_folders(stage).items():
        tally = Tally("damaged file", name)
        for attack in (folder.attack, folder.forge):
            for _ in range(25):
                attack(draw, tally)
        assert tally.tried > 35
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


@pytest.mark.skipif(not can_fork(), reason="needs Linux and a C compiler")
def test_file_events_are_attacked_and_a_command_that_leaves_something_else_is_a_failure(stage: Stage) -> None:
    one = next(command for command in stage.commands() if command.name == "data convert")
    again = Other("again", one.words)
    draw, tallies = random.Random(5), [Tally(kind, one.name) for kind in ("kill", "fail", "interrupt", "repeat")]
    with Forks() as forks:
        attack = EventAttack(stage, forks, one, 1)
        for tally in tallies:
            more = {"interrupt": [again], "repeat": [forks]}.get(tally.attack, [])
            attack._places = None
            for _ in range(4):
                getattr(attack, tally.attack)(*more, draw, tally)
            assert tally.tried >= 4
            assert tally.failures == []
        assert attack.whole.events > 20
        (attack.place / "left").touch()
        with pytest.raises(GtcrecError, match=r"other files: .*left"):
            attack.whole.compare(attack.place)


def test_counts_of_other_seeds_are_added(tmp_path: Path) -> None:
    def count(seed: int, target: str) -> dict[str, object]:
        return {"attack": "kill", "target": target, "seed": seed, "tried": 1, "failures": []}

    file = tmp_path / "counts.json"
    for counts, forget, expected in (
        ([count(1, "a"), count(1, "b")], False, [(1, "a"), (1, "b")]),
        ([count(2, "a")], False, [(1, "a"), (1, "b"), (2, "a")]),
        ([count(2, "a")], False, [(1, "a"), (1, "b"), (2, "a")]),
        ([count(3, "a")], True, [(1, "b"), (3, "a")]),
    ):
        write_counts(file, {"counts": counts}, forget)
        found = json.loads(file.read_text())["counts"]
        assert [(one["seed"], one["target"]) for one in found] == expected


def test_the_page_is_written_from_the_recorded_counts() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(COUNTS.read_text(encoding="utf-8")))
