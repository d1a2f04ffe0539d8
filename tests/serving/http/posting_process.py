"""Post events from four threads and print each item once it is acknowledged, until killed: FOLDER, ROUND."""

import itertools
import os
import sys
import threading
from pathlib import Path

from gtcrec.serving.http.events import Event, EventLog

folder, number = sys.argv[1:]
log = EventLog(Path(folder) / "events.db")


def post(name: int) -> None:
    for count in itertools.count():
        item = f"{number}-{name}-{count}"
        log.append([Event("ann", item, "click")])
        os.write(1, f"{item}\n".encode())  # one call: whole lines, whoever else writes


os.write(1, b"ready\n")
for name in range(4):
    threading.Thread(target=post, args=(name,)).start()
