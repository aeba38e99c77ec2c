"""What classical methods reach on the graph atlas: `python -m metaformer_plugin_graph.baseline`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from metaformer_plugin_graph.atlas import AtlasDataset, Task
from metaformer_plugin_graph.spectrum import normalized_laplacian

NODES = 7
"""Of the largest graph."""


def main() -> None:
    """Prints, per task, the share of the largest class, a logistic regression's on node and edge counts and degrees,
    and a random forest's on these and the Laplacian's eigenvalues."""
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    tasks: tuple[Task, ...] = ("diameter", "planar", "bipartite", "chordal")
    for task in tasks:
        train, valid = AtlasDataset(task=task, split="train"), AtlasDataset(task=task, split="valid")
        largest = Counter(train.labels).most_common(1)[0][0]
        share = np.mean([label == largest for label in valid.labels])
        print(f"{task}: {len(train)} train, {len(valid)} valid")
        print(f"  majority class                          accuracy {share:.3f}")
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        linear.fit(_degrees(train), train.labels)
        reached = linear.score(_degrees(valid), valid.labels)
        print(f"  logistic regression, degrees            accuracy {reached:.3f}")
        forest = RandomForestClassifier(500, random_state=0)
        forest.fit(_spectra(train), train.labels)
        reached = forest.score(_spectra(valid), valid.labels)
        print(f"  random forest, degrees and eigenvalues  accuracy {reached:.3f}")


def _degrees(data: AtlasDataset) -> np.ndarray:
    """Nodes, edges, and how many nodes have each degree."""
    rows = []
    for nodes, ends in data.graphs:
        degree = np.bincount(ends.reshape(-1), minlength=nodes)
        rows.append([nodes, len(ends), *np.bincount(degree, minlength=NODES)])
    return np.array(rows, dtype=np.float64)


def _spectra(data: AtlasDataset) -> np.ndarray:
    """The same, and the eigenvalues of the normalised Laplacian."""
    rows = []
    for nodes, ends in data.graphs:
        values = np.linalg.eigvalsh(normalized_laplacian(ends, nodes))
        rows.append(np.pad(values, (0, NODES - nodes), constant_values=-1.0))
    return np.concatenate([_degrees(data), np.array(rows)], axis=1)


if __name__ == "__main__":
    main()
