"""A job of blocks in a process of its own, for test_blocks.py: python blocks_process.py OUT WORKERS HOW.

WORKERS 0 is this process, else that many of Ray's. HOW says what befalls block 3. Prints what came of it as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa

from gtcrec.errors import DataError
from gtcrec.runtime.block_jobs import Local, RayData, run_in_blocks

out, workers, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
MARK = out.with_suffix(".mark")  # the stage leaves a line here for each block


def make_stage():
    def stage(block):
        number = block["x"][0].as_py() // 2
        past = MARK.read_text().split() if MARK.exists() else []
        with MARK.open("a") as stream:
            stream.write(f"{number}\n")
        if how == "slow":
            time.sleep(0.2)
        if number == 3:
            if how == "always killed" or (how == "once killed" and past.count("3") == 0):
                os._exit(9)
            if how == "bad data":
                raise DataError("block 3 is bad")
        return pa.table({"y": [2 * x for x in block["x"].to_pylist()]})

    return stage


def assemble(results, path):
    numbers = [y for table in results for y in table["y"].to_pylist()]
    path.write_text(json.dumps(numbers))
    return len(numbers)


if __name__ == "__main__":
    executor = RayData(workers) if workers else Local()
    settings = {"how": "all alike"}  # a job that a killed one left is gone on with, whoever goes on
    try:
        found = run_in_blocks(pa.table({"x": range(20)}), 2, make_stage, settings, out, assemble, executor)
    except Exception as error:
        found = [type(error).__name__, str(error)]
    sys.stdout.write(json.dumps(found) + "\n")
