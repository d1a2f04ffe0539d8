"""Measure how many items a second of one core encodes.

    python -m benchmarks.speed.encode run --out FILE.json      # a quarter of an hour

Every measurement is a process of its own with one thread. Seconds are CPU time from the first batch on, so that neither
the loading of a model nor other work on the machine counts.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.blocks import Block
from benchmarks.paths import module_command, module_environment

# case -> what it is, items, settings of EncodeConfig
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "text": ("texts of 40 words, all-MiniLM-L6-v2", 320, {"text": ["title"]}),
    "poster": ("JPEG of 92 x 138, colours and layout", 3200, {"image": "small"}),
    "photo": ("JPEG of 1,000 x 1,000, colours and layout", 960, {"image": "large"}),
    "clip": ("JPEG of 1,000 x 1,000, CLIP ViT-B/32", 160, {"image": "large", "encoder": "clip"}),
    "tags": ("5 of 2,000 tags, TF-IDF and 128 directions", 20_000, {"tags": ["tags"]}),
    "numbers": ("3 numbers", 20_000, {"numbers": ["a", "b", "c"]}),
    "again": ("JPEG of 1,000 x 1,000, known by its content", 960, {"image": "large"}),
}
IMAGES = {"small": (92, 138), "large": (1000, 1000)}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_ = verbs.add_parser("run", help="measure")
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--rounds", type=int, default=3)
    run_.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), metavar="CASE")
    one = verbs.add_parser("one", help="one measurement; `run` calls it")
    one.add_argument("case", choices=CASES)
    arguments = parser.parse_args(words)
    if arguments.verb == "run":
        run(arguments.out, arguments.rounds, arguments.only)
    else:
        print(json.dumps(measure(arguments.case)))


def run(out: Path, rounds: int, cases: Sequence[str]) -> None:
    environment = module_environment(1, HF_HUB_OFFLINE="1", OMP_WAIT_POLICY="passive")
    rates: dict[str, list[float]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            line = module_command("benchmarks.speed.encode", "one", case)
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=environment, check=True)
            rates[case].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"round {number + 1} of {rounds}", flush=True)
    found = {case: {"min": min(x), "median": median(x), "max": max(x)} for case, x in rates.items()}
    result = {"about": {"rounds": rounds, "python": platform.python_version(), "processor": _processor()}, **found}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(out)


def measure(case: str) -> float:
    """Return how many items a CPU second encodes."""
    from gtcrec.data.features.extract import EncodeConfig, encode

    _, items, settings = CASES[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, items, settings)
        if settings.get("encoder"):
            settings = {**settings, "encoder": str(folder / settings["encoder"])}
        config, out, times = EncodeConfig(**settings), folder / "x_feat.npy", []
        if case == "again":
            encode(folder / "items.csv", out, config)
        start = time.process_time()
        encode(folder / "items.csv", out, config, on_block=lambda *_: times.append(time.process_time()))
        end = time.process_time()
    if len(times) > 2:  # the first batch comes after the loading of the model
        start, items = times[1], items - config.batch
    return items / (end - start)


def prepare(folder: Path, items: int, settings: dict[str, Any]) -> None:
    """Write a table of drawn contents, no two alike, and the model that is asked for."""
    rng = np.random.default_rng(0)
    columns: dict[str, list[str]] = {}
    if settings.get("text"):
        words = np.array([f"{a}{b}{c}" for a in ("ba", "co", "di", "fu") for b in ("lin", "mar", "so") for c in "eo"])
        columns["title"] = [" ".join([*text, str(row)]) for row, text in enumerate(rng.choice(words, (items, 39)))]
    if settings.get("tags"):
        drawn = (2000 * rng.random((items, 5)) ** 2).astype(int)
        columns["tags"] = ["|".join(f"tag{tag}" for tag in row) for row in drawn]
    for number in settings.get("numbers", ()):
        columns[number] = [f"{x:.4f}" for x in rng.normal(size=items)]
    if settings.get("image"):
        columns[settings["image"]] = draw(folder, items, IMAGES[settings["image"]], rng)
    if settings.get("encoder"):
        save_clip(folder / settings["encoder"])
    rows = zip(*columns.values(), strict=True)
    text = "\n".join([",".join(columns), *(",".join(row) for row in rows), ""])
    (folder / "items.csv").write_text(text, encoding="utf-8")


def draw(folder: Path, items: int, size: tuple[int, int], rng: np.random.Generator) -> list[str]:
    """Save smooth noise as JPEG files."""
    from PIL import Image

    names = [f"{row}.jpg" for row in range(items)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / name, quality=85)
    return names


def save_clip(folder: Path) -> None:
    """Save a CLIP of the published size ViT-B/32 with random weights, which take the time of trained ones."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    facts = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        **{f"do_{what}": True for what in ("resize", "center_crop", "rescale", "normalize", "convert_rgb")},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")


def table_block(result: dict[str, Any]) -> Block:
    """The rates of the cases that were measured."""
    about = result["about"]
    text = (
        f"Median (smallest to largest) of {about['rounds']} rounds, in CPU time with one thread on "
        f"{about['processor']}; drawn contents; CLIP with random weights of the published size."
    )
    rows = [
        (name, "{median:,.0f} ({min:,.0f} to {max:,.0f})".format(**result[case]))
        for case, (name, _, _) in CASES.items()
        if case in result
    ]
    return Block([text], ("content and encoder", "items a second of one core"), rows)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
