"""Hide shares of ml100k's texts and posters, train on what is left, and publish the table and the curves.

    python benchmarks/missing.py train    # runs/missing; goes on where it stopped
    python benchmarks/missing.py write    # docs/results/missing.md and its plot, from these runs

The data folder is data/movies, as docs/own-data.md builds it.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

RUNS, PAGE = Path("runs/missing"), Path("docs/results/missing.md")
SEEDS = "0"
COMMAND = [
    *("gtcrec", "missing", "--data", "data/movies", "--out", str(RUNS), "--shares", "0,0.3,0.6,0.9", "--seeds", SEEDS),
    *("--set", "epochs=30", "--set", "patience=10", "--set", "learning_rate=0.004", "--on", "test"),
    *("--metric", "recall@20", "--metric", "ndcg@20"),
]

NOTES = """
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["train", "write"])
    given = parser.parse_args()
    end = [] if given.verb == "train" else ["--table-only"]
    subprocess.run([sys.executable, "-m", *COMMAND, *end], check=True)
    if given.verb == "write":
        made = (RUNS / "missing.md").read_text(encoding="utf-8")
        command = f"`{' '.join(COMMAND)}`, published by `python benchmarks/missing.py write`; do not edit."
        page = made.replace("Written by `gtcrec missing`.", f"Written by {command}\n\n", 1)
        PAGE.write_text(page.rstrip() + "\n" + NOTES.rstrip() + "\n", encoding="utf-8")
        shutil.copyfile(RUNS / "missing.svg", PAGE.with_name("missing.svg"))
        print(PAGE)


if __name__ == "__main__":
    main()
