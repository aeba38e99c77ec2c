"""Classify your own pictures: one folder per class, one recipe, no model code.

    python classify.py           real pictures made on the spot: scikit-learn's handwritten digits as PNG files
    python classify.py FOLDER    yours: FOLDER/train/CLASS/*.jpg and FOLDER/valid/CLASS/*.jpg

What it does is two commands, which it prints: `metaformer train` and `metaformer predict`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

RECIPE = Path(__file__).parent / "pictures.yaml"


def make_digits(folder: Path) -> None:
    """Write 1797 digits as 8x8 PNG files, every fifth for validation."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = folder / ("valid" if number % 5 == 0 else "train") / str(label) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(file)


def metaformer(*arguments: str) -> None:
    """Run the command, and show it."""
    print("$ metaformer", shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "metaformer", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify your own pictures.")
    parser.add_argument("data", nargs="?", type=Path, help="folder that holds train/CLASS/ and valid/CLASS/")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="where runs go")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    data = options.data
    if data is None:
        data = options.output / "digits"
        make_digits(data)
    classes = sorted(folder.name for folder in (data / "train").iterdir() if folder.is_dir())
    values = {
        "tasks.pictures.data.train.root": data / "train",
        "tasks.pictures.data.valid.root": data / "valid",
        "heads.label.num_classes": len(classes),
        "steps": options.steps,
        "output": options.output,
    }
    metaformer("train", str(RECIPE), *(part for name, value in values.items() for part in ("--set", f"{name}={value}")))
    picture = min(file for file in (data / "valid" / classes[-1]).rglob("*") if file.is_file())
    metaformer("predict", str(options.output / "pictures"), "--input", str(picture))


if __name__ == "__main__":
    main()
