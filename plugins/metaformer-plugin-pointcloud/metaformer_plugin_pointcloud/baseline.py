"""What trivial and classical methods reach on the bundled tasks: `python -m metaformer_plugin_pointcloud.baseline`."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64

from metaformer_plugin_pointcloud.scenes import TerrainDataset

TRAIN, VALID = 4096, 1024
SIZE, POINTS = 32, 384
"""As in the starter recipes."""
NEIGHBOURS = 24


def main() -> None:
    """Prints accuracies of both tasks of the terrain: the commonest class, and scikit-learn on hand-made features."""
    _up()
    _landform()


def _sets(task: Any, train: int, valid: int) -> tuple[TerrainDataset, TerrainDataset]:
    knobs: Any = {"task": task, "points": POINTS, "size": SIZE}
    return (
        TerrainDataset(split="train", samples=train, **knobs),
        TerrainDataset(split="valid", samples=valid, **knobs),
    )


def _up() -> None:
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, valid = _sets("up", TRAIN, VALID)
    (x, local, y), (vx, vlocal, vy) = _blocks(train), _blocks(valid)
    print(f"which way is up: {len(y)} train, {len(vy)} valid")
    print(f"  either class                                        accuracy {max(vy.mean(), 1 - vy.mean()):.3f}")
    # Skewness of heights is the last of the plain features.
    skew = max(((vx[:, -1] > 0) == vy).mean(), ((vx[:, -1] < 0) == vy).mean())
    print(f"  sign of the heights' skewness                       accuracy {skew:.3f}")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    trees = ExtraTreesClassifier(300, random_state=0)
    boosted = HistGradientBoostingClassifier(max_iter=150, random_state=0)
    for name, model in {"logistic regression": linear, "random trees": trees, "boosted trees": boosted}.items():
        plain = model.fit(x, y).score(vx, vy)
        more = model.fit(np.hstack([x, local]), y).score(np.hstack([vx, vlocal]), vy)
        print(f"  {name:20s} sorted heights, covariance     accuracy {plain:.3f}")
        print(f"  {name:20s} and curvature of neighbourhoods accuracy {more:.3f}")


def _blocks(data: TerrainDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per block, as the network sees it (centred, on the unit sphere): 33 quantiles of heights, the covariance's
    eigenvalues, skewness; and 17 quantiles of the heights above each neighbourhood's plane, and their skewness."""
    plain, local, labels = [], [], []
    for i in range(len(data)):
        sample = data[i]
        points = sample[data.stream] / np.linalg.norm(sample[data.stream], axis=1).max()
        heights, above = points[:, 2], _above(points)
        values = np.linalg.eigvalsh(np.cov(points.T))
        plain.append(np.concatenate([np.quantile(heights, np.linspace(0, 1, 33)), values, [_skew(heights)]]))
        local.append(np.concatenate([np.quantile(above, np.linspace(0, 1, 17)), [_skew(above)]]))
        labels.append(sample[data.target] == "up")
    return np.stack(plain), np.stack(local), np.array(labels)


def _above(points: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, " N"]:
    """Height of every point above the mean of its neighbours by the level distance, itself among them."""
    level = ((points[:, None, :2] - points[None, :, :2]) ** 2).sum(axis=2)
    near = np.argpartition(level, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return points[:, 2] - points[near, 2].mean(axis=1)


def _skew(values: Float64[np.ndarray, " N"]) -> float:
    spread = values - values.mean()
    return float((spread**3).mean() / (spread.std() ** 3 + 1e-12))


def _landform() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    train, valid = _sets("landform", TRAIN // 16, VALID // 4)
    (x, y), (vx, vy) = _points(train), _points(valid)
    share = np.bincount(vy).max() / len(vy)
    print(f"landform of each point: {len(y)} train, {len(vy)} valid")
    print(f"  commonest class                                     accuracy {share:.3f}")
    model = HistGradientBoostingClassifier(max_iter=150, random_state=0)
    plain = model.fit(x[:, :2], y).score(vx[:, :2], vy)
    print(f"  boosted trees, height in the block                  accuracy {plain:.3f}")
    print(f"  boosted trees, and height above the neighbourhood   accuracy {model.fit(x, y).score(vx, vy):.3f}")


def _points(data: TerrainDataset) -> tuple[np.ndarray, np.ndarray]:
    """Per point: height, the block's deviation of heights, height above the neighbourhood's mean."""
    rows, labels = [], []
    for i in range(len(data)):
        sample = data[i]
        points = sample[data.stream] / np.linalg.norm(sample[data.stream], axis=1).max()
        spread = np.full(len(points), points[:, 2].std())
        rows.append(np.stack([points[:, 2], spread, _above(points)], axis=1))
        labels.append(np.array(sample[data.target]))
    return np.concatenate(rows), np.concatenate(labels)


if __name__ == "__main__":
    main()
