"""Go from an own table with pictures to a page with pictures, by a wheel in an environment of its own.

    python tests/own_shop_process.py FOLDER

Needs a package index, and minutes. FOLDER gets the wheel, the environment, the shop, its data and its run.
"""

import csv
import random
import re
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRAW = "import sys; from PIL import Image; Image.new('RGB', (60, 60), tuple(map(int, sys.argv[2:]))).save(sys.argv[1])"


def main(folder: Path) -> None:
    program = install(folder)
    write_shop(folder, program)
    build = ["data", "build", "--items", "items.csv", "--interactions", "orders.csv", "--out", "data/shop"]
    call(folder, [program / "gtcrec", *build, "image=photo", "category=category", "numbers=price"])
    call(folder, [program / "gtcrec", "train", "data/shop", "gtc", "epochs=2", "--out", "runs/gtc"])
    command = [program / "gtcrec", "serve", "runs/gtc", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            line = next(line for line in server.stderr if " answers until Ctrl-C" in line)
            look(line.split()[0])
        finally:
            server.terminate()


def install(folder: Path) -> Path:
    """Build the wheel, install it into a new environment, and return where its programs lie."""
    venv.create(folder / "environment", with_pip=True)
    program = folder / "environment/bin"
    call(folder, [program / "pip", "install", "-q", "torch==2.13.0"])
    call(folder, [program / "pip", "wheel", "-q", "--no-deps", "-w", "wheel", ROOT])
    (wheel,) = (folder / "wheel").glob("gtcrec-*.whl")
    call(folder, [program / "pip", "install", "-q", f"{wheel}[serve]"])
    return program


def write_shop(folder: Path, program: Path) -> None:
    """Write 60 items with photos, and the orders of 80 users."""
    rng = random.Random(0)
    (folder / "photos").mkdir()
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "category", "price", "photo"])
        for item in range(60):
            color = [str(rng.randrange(256)) for _ in range(3)]
            call(folder, [program / "python", "-c", DRAW, f"photos/{item}.jpg", *color])
            kind = rng.choice(["shoe", "bag", "hat"])
            rows.writerow([f"p{item}", f"{kind} {item}", kind, rng.randrange(5, 90), f"photos/{item}.jpg"])
    with (folder / "orders.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user in range(80):
            for item in rng.sample(range(60), 12):
                rows.writerow([f"u{user}", f"p{item}", 1_700_000_000 + rng.randrange(10**6)])


def look(address: str) -> None:
    """Ask for a user's page, and for each picture on it."""
    page = read(f"{address}/user?id=u1").decode()
    pictures = re.findall(r'<img src="(/picture\?id=[^"]+)"', page)
    if len(pictures) < 10:
        raise SystemExit(f"expected at least 10 pictures on the page, found {len(pictures)}")
    for picture in pictures:
        if not read(address + picture).startswith(b"\xff\xd8"):
            raise SystemExit(f"{picture}: no JPEG")
    sys.stdout.write(f"a page with {len(pictures)} pictures\n")


def read(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def call(folder: Path, command: Sequence[object]) -> None:
    subprocess.run([str(word) for word in command], cwd=folder, check=True)


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    place.mkdir(parents=True)
    main(place)
