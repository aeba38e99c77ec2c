"""Retrieve across two modalities: pairs of files in a table, one recipe, no model code.

    python retrieve.py           real pairs made on the spot: near-infrared pictures, and spectra of their middles
    python retrieve.py FOLDER    yours: FOLDER/train.csv and FOLDER/valid.csv, whose columns are the recipe's streams

What it does is two commands, which it prints, `metaformer train` and `metaformer retrieve`, and a search: which
held-out spectra fit a held-out picture best?
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from metaformer_plugin_infrared.pictures import tensorly_folder
from PIL import Image

import metaformer

RECIPE = Path(__file__).parent / "pictures_and_spectra.yaml"
BAND, SIZE, BLOCK, GAP = 120, 6, 12, 1
"""The picture's band (the spectra have all others) and side; the scene's squares, in turn for training and validation,
and how far inside them pictures stay: no pixel is in both, and neighbours are not either."""


def make_fields(folder: Path) -> None:
    """Write pictures as PNG files of 16 bits, spectra of 199 bands as .npy files, and the two tables of pairs.

    Data: the Indian Pines scene out of the tensorly package (CC-BY 3.0; doi:10.4231/R7RX991C)."""
    scene = np.load(tensorly_folder() / "Indian_pines_corrected.npy")
    for split, stride in (("train", 1), ("valid", 2)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows = []
        steps = range(GAP, BLOCK - GAP - SIZE + 1, stride)
        for number in range((len(scene) // BLOCK) ** 2):
            row, column = divmod(number, len(scene) // BLOCK)
            if (row + column) % 2 != (split == "valid"):
                continue
            for top, left in ((row * BLOCK + down, column * BLOCK + across) for down in steps for across in steps):
                square = scene[top : top + SIZE, left : left + SIZE].astype(np.uint16)
                picture, spectrum = (f"{split}/{top}-{left}.{kind}" for kind in ("png", "npy"))
                Image.fromarray(np.ascontiguousarray(square[..., BAND])).save(folder / picture)
                np.save(folder / spectrum, np.delete(square[SIZE // 2, SIZE // 2], BAND).astype(np.float32))
                rows.append((picture, spectrum))
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("picture", "spectrum"), *rows])


def run(*arguments: str) -> None:
    """Run a command of metaformer, and show it."""
    print("$ metaformer", shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "metaformer", *arguments], check=True)


def search(folder: Path, table: Path, count: int = 3) -> None:
    """Print which things in the table's second column fit the thing in its first row's first best."""
    with table.open(newline="") as file:
        (one, other), *rows = csv.reader(file)
    trained = metaformer.load(folder)
    query = trained.predict(**{one: table.parent / rows[0][0]})[one]
    keys = [said[other] for said in trained.predict_many([{other: table.parent / row[1]} for row in rows])]
    fits = np.array(keys) @ np.array(query)
    print(f"{rows[0][0]} belongs to {rows[0][1]}; the best of {len(rows)}:")
    for place in np.argsort(-fits)[:count]:
        print(f"  {fits[place]:.3f} {rows[place][1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Retrieve across two modalities.")
    parser.add_argument("data", nargs="?", type=Path, help="folder that holds train.csv and valid.csv")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="where runs go")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    data = options.data
    if data is None:
        data = options.output / "fields"
        make_fields(data)
    values = {
        "tasks.pairs.data.train.path": data / "train.csv",
        "tasks.pairs.data.valid.path": data / "valid.csv",
        "steps": options.steps,
        "output": options.output,
    }
    run("train", str(RECIPE), *(part for name, value in values.items() for part in ("--set", f"{name}={value}")))
    run("retrieve", str(options.output / "pictures_and_spectra"))
    search(options.output / "pictures_and_spectra", data / "valid.csv")


if __name__ == "__main__":
    main()
