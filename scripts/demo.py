"""The demo: a trained face classifier of 24x24 pixels, converted, proven, and run over a photograph."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

import surgery
from surgery.benchmark import in_turns
from surgery.model import read
from surgery.session import Session

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
ORIGINAL = ROOT / "fixtures" / "rnet24.onnx"
PHOTOGRAPH = ROOT / "fixtures" / "astronaut.png"
INPUT_RANGE = (-127.5 / 128, 127.5 / 128)  # what the net was trained on: (pixel - 127.5) / 128
FACE = 1  # the class, beside 0 for no face
SCALES = (0.18, 0.21, 0.25)  # the face is about 24 pixels high at these
RUNS = 5


def main() -> None:
    """Convert, prove, scan, time."""
    OUTPUT.mkdir(exist_ok=True)
    converted = OUTPUT / "face.onnx"
    headline(f"1. Convert {ORIGINAL.name}, which takes one window of 24x24 pixels, and prove the result")
    print(surgery.convert(ORIGINAL, converted, force=True))

    headline(f"2. Scan {PHOTOGRAPH.name} for faces, one pass for each of {len(SCALES)} scales")
    scanner = surgery.Scanner(converted, input_range=INPUT_RANGE)
    found = scanner.scan(PHOTOGRAPH, scales=SCALES, label=FACE, top=3)
    paths = found.save(OUTPUT, force=True)
    print(found)

    headline("3. Time one pass against crop by crop")
    picture = next(path for path in paths if path.suffix == ".png")
    print(speed(scanner))
    print(f"\nThe picture in which the face lights up: {picture}")


def headline(text: str) -> None:
    """Begin a part."""
    print(f"\n{text}\n{'=' * len(text)}\n", flush=True)


def speed(scanner: surgery.Scanner) -> str:
    """How long the windows of the whole photograph take in one pass, and as crops through the original."""
    with Image.open(PHOTOGRAPH) as photograph:
        image = scanner.feed.tensor(photograph.convert("RGB"))
    size = image.shape[2:]
    g = scanner.card.geometry
    boxes = [g.box(*cell) for cell in np.ndindex(g.grid(size))]
    dense, original = (Session(read(p).proto) for p in (OUTPUT / "face.onnx", ORIGINAL))

    def crop_by_crop() -> None:
        for top, left, bottom, right in boxes:
            original.run({scanner.feed.name: image[:, :, top:bottom, left:right].copy()})

    works = {"one pass": lambda: dense.run({scanner.feed.name: image}), "crops": crop_by_crop}
    taken = {name: median(seconds) for name, seconds in in_turns(works, RUNS).items()}
    return (
        f"{len(boxes):,} windows of the {size[0]}x{size[1]} photograph, medians of {RUNS} runs in turns:\n"
        f"crop by crop {taken['crops']:.3f} s, one pass {taken['one pass']:.4f} s: "
        f"{taken['crops'] / taken['one pass']:.0f} times faster."
    )


if __name__ == "__main__":
    main()
