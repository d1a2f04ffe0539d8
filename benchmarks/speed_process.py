"""Answer requests to measure, one line of JSON each, every one in a process of its own.

    python speed_process.py THREADS

The libraries are imported once; each request is answered by a fork of this process, which has computed nothing. So a
measurement's memory and warmth are its own, and all start alike.
"""

import json
import os
import sys
from typing import Any

import speed_candidate
import speed_machine
import torch

KINDS: dict[str, Any] = {"candidate": speed_candidate.measure, "machine": speed_machine.measure}


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    torch.optim.Adam([torch.zeros(1)])  # the first optimiser imports a second's worth of modules
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            print(json.dumps(KINDS[request.pop("kind")](**request)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
