"""Tables and progress as text."""

import signal
import sys

import pytest
import typer

from gtcrec.cli import console
from gtcrec.reporting.run_comparison import RankedMean
from gtcrec.reporting.tables import runs_text
from gtcrec.training.trainer import Epoch

CELLS = [
    ("gtc", [RankedMean(0.123456, True, False, False)]),
    ("b_1|x", [RankedMean(0.1, False, True, True)]),
    ("c", [RankedMean(0.05, False, False, True)]),
]


def test_markdown_marks_best_second_and_significant() -> None:
    assert runs_text(CELLS, ["ndcg@20"], "markdown").splitlines() == [
        "| run | ndcg@20 |",
        "| --- | ---: |",
        "| gtc | **0.1235** |",
        r"| b_1\|x | <u>0.1000</u>\* |",
        r"| c | 0.0500\* |",
    ]


def test_latex_is_booktabs_with_escaped_names() -> None:
    assert runs_text(CELLS, ["map_cut@20"], "latex").splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"Run & map\_cut@20 \\",
        r"\midrule",
        r"gtc & \textbf{0.1235} \\",
        r"b\_1|x & \underline{0.1000}$^{*}$ \\",
        r"c & 0.0500$^{*}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


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


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_how_to_go_on(stop: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as end, console.resumable("the same command goes on from here"):
        signal.raise_signal(stop)
    assert end.value.exit_code == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
