"""What simple methods reach on the bundled pieces of CT: `python -m metaformer_plugin_xray.baseline`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from metaformer_plugin_xray.slices import CtPatchesDataset

RING = 4
"""Pixels around the hole that the regression looks at."""
SIZE, SAMPLES = 24, {"train": 8192, "valid": 512}
"""As in the starter recipe."""


def main() -> None:
    """Prints R2 of the training mean, of the mean level right around the hole, and of ridge regression on a ring."""
    from sklearn.linear_model import RidgeCV  # type: ignore[import-untyped]
    from sklearn.metrics import r2_score  # type: ignore[import-untyped]

    train = CtPatchesDataset(split="train", size=SIZE, samples=SAMPLES["train"])
    valid = CtPatchesDataset(split="valid", size=SIZE, samples=SAMPLES["valid"])
    (x, y), (x_valid, y_valid) = _table(train, RING), _table(valid, RING)
    near = _table(valid, 1)[0].mean(axis=1, keepdims=True)
    ridge = RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(x, y)
    print(f"ct_patches: {len(train)} train, {len(valid)} valid, {y.shape[1]} pixels to guess; R2")
    print(f"  mean of the training holes     {r2_score(y_valid, np.broadcast_to(y.mean(axis=0), y_valid.shape)):.3f}")
    print(f"  mean of the pixels around it   {r2_score(y_valid, np.broadcast_to(near, y_valid.shape)):.3f}")
    print(f"  ridge regression on {RING} around   {r2_score(y_valid, ridge.predict(x_valid)):.3f}")


def _table(data: CtPatchesDataset, reach: int) -> tuple[Float[np.ndarray, "N F"], Float[np.ndarray, "N P"]]:
    """Pixels within `reach` of the hole, -1 to 1, and the hole."""
    p, start = data.patch_size, data.size // data.patch_size // 2 * data.patch_size
    square = slice(start - reach, start + p + reach)
    ring = np.ones((p + 2 * reach, p + 2 * reach), dtype=bool)
    ring[reach : reach + p, reach : reach + p] = False
    samples = [data[i] for i in range(len(data))]
    x = np.stack([sample[data.stream][square, square][ring] * 2 - 1 for sample in samples])
    return x, np.stack([sample[data.target] for sample in samples])


if __name__ == "__main__":
    main()
