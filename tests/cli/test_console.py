"""Tables and progress as text."""

import signal
import sys

import pytest
import typer

from gtcrec.cli import console
from gtcrec.reporting.tables import Cell, Table, latex_lines, markdown_lines
from gtcrec.training.trainer import Epoch

ROWS = (
    (Cell("gtc"), Cell("0.1235", best=True)),
    (Cell("b_1|x"), Cell("0.1000", second=True, mark="*")),
    (Cell("c"), Cell("0.0500", mark="*")),
)


def test_markdown_marks_best_second_and_significant() -> None:
    assert markdown_lines(Table("", "", ("run", "ndcg@20"), ROWS)) == [
        "| run | ndcg@20 |",
        "| --- | ---: |",
        "| gtc | **0.1235** |",
        r"| b_1\|x | <u>0.1000</u> \* |",
        r"| c | 0.0500 \* |",
    ]


def test_latex_is_booktabs_with_escaped_names() -> None:
    lines = [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"run & map\_cut@20 \\",
        r"\midrule",
        r"gtc & \textbf{0.1235} \\",
        r"b\_1|x & \underline{0.1000}$^{*}$ \\",
        r"c & 0.0500$^{*}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert latex_lines(Table("", "", ("run", "map_cut@20"), ROWS)) == lines
    titled = Table("shop: 5 %", "p < 0.05", ("run", "map_cut@20"), ROWS)
    assert latex_lines(titled) == [
        r"\begin{table}",
        r"\centering",
        r"\caption{shop: 5 \%. p $<$ 0.05}",
        *lines,
        r"\end{table}",
    ]


def test_a_title_a_note_and_details_stand_in_markdown() -> None:
    table = Table("Means", "95 %", ("a|b", "text"), ((Cell("x"), Cell("1", mark="ns", detail="0 – 2")),), left=(0, 1))
    rows = [r"| a\|b | text |", "| --- | --- |", "| x | 1 ns (0 – 2) |"]
    assert markdown_lines(table) == ["### Means", "", "95 %", "", *rows]


def test_a_terminal_table_keeps_numbers_under_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (*ROWS, (Cell("[d]"), Cell("0.0100", mark="ns")), (Cell("e"), Cell("0.0010", detail="0 – 1")))
    console.print_table(Table("t", "left out", ("run", "ndcg@20"), rows))
    title, header, *lines = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert (title, header.split()) == ("t", ["run", "ndcg@20"])
    assert [line.split() for line in lines] == [
        ["gtc", "0.1235"],
        ["b_1|x", "0.1000*"],
        ["c", "0.0500*"],
        ["[d]", "0.0100", "ns"],
        ["e", "0.0010", "0", "–", "1"],
    ]
    assert len({line.index("0.") for line in lines}) == 1


def test_tables_in_a_pipe_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(console.table(["name", "value"], [["x" * 150, "1"], ["y", "23"]], title="[b]long[/b] " * 9))
    title, header, first, second = capsys.readouterr().out.splitlines()
    assert title.rstrip() == ("[b]long[/b] " * 9).rstrip()
    assert first == "x" * 150 + "      1"
    assert second.endswith("   23")
    assert len({len(line) for line in (header, first, second)}) == 1


def test_text_between_colons_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("nothing answers at 127.0.0.1:1234: refused")
    assert capsys.readouterr().err == "nothing answers at 127.0.0.1:1234: refused\n"


def test_progress_on_a_terminal_shows_bar_losses_and_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with console.progress(4, "recall@20") as (after_epoch, after_step):
        after_step(5, 10)
        after_epoch(Epoch(1, {"bpr": 0.5, "log.tc": 2.0}, {"recall@20": 0.25}, True, ""))
        after_epoch(Epoch(2, {"bpr": 0.375, "log.tc": 2.5}, {"recall@20": 0.125}, False, ""))
    shown = capsys.readouterr().err
    for words in ("epoch 2/4", "bpr 0.3750  tc 2.5000", "recall@20 0.1250 (best 0.2500)", "left"):
        assert words in shown


def test_a_count_is_told_in_about_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console.counted("blocks") as on_block:
        for done in range(101):
            on_block(done, 101)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["0 of 101 blocks", "10 of 101 blocks"]
    assert len(lines) == 11


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the console's clock shows, the last of a list."""
    shown = [0.0]
    monkeypatch.setattr(console, "monotonic", lambda: shown[-1])
    return shown


def test_without_a_terminal_the_time_left_is_told_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress(4, "recall@20", done=1, best=0.5) as (after_epoch, after_step):
        for seconds, step in ((10.0, 1), (40.0, 5), (60.0, 7), (90.0, 10)):
            clock.append(seconds)
            after_step(step, 10)
        after_epoch(Epoch(2, {"bpr": 0.5}, {}, False, ""))
        clock.append(120.0)
        after_epoch(Epoch(3, {"bpr": 0.25}, {}, False, ""))
        clock.append(240.0)
        after_epoch(Epoch(4, {"bpr": 0.25}, {}, False, "all 4 epochs done"))
    assert capsys.readouterr().err.splitlines() == [
        "epoch 2/4  step 5 of 10, at most 0:03:20 left",
        "epoch 2/4  step 10 of 10, at most 0:03:00 left",
        "epoch 2/4  bpr 0.5000  not validated (best 0.5000)",
        "epoch 3/4  bpr 0.2500  not validated (best 0.5000), at most 0:01:00 left",
        "epoch 4/4  bpr 0.2500  not validated (best 0.5000)  all 4 epochs done",
    ]


def test_a_count_that_takes_long_is_told_between_its_tenths(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with console.counted("blocks") as on_block:
        for done in range(101):
            clock.append(31.0 * done)
            on_block(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 101
    assert lines[:2] == ["0 of 100 blocks", "1 of 100 blocks, about 0:51:09 left"]
    assert lines[-1] == "100 of 100 blocks"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_how_to_go_on(stop: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as end, console.resumable("the same command goes on from here"):
        signal.raise_signal(stop)
    assert end.value.exit_code == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
