"""What classical methods reach on the bundled sets: `python -m metaformer_plugin_infrared.baseline`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from metaformer_plugin_infrared.pictures import NirFieldsDataset
from metaformer_plugin_infrared.smooth import normal_variate
from metaformer_plugin_infrared.spectra import CoffeeDataset, TecatorDataset


def main() -> None:
    """Prints, per set, what the mean or the largest class and a linear method reach."""
    from sklearn.cross_decomposition import PLSRegression  # type: ignore[import-untyped]
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.metrics import mean_absolute_error, r2_score  # type: ignore[import-untyped]
    from sklearn.model_selection import GridSearchCV  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    meat, meat_valid = TecatorDataset(split="train"), TecatorDataset(split="valid")
    x, y = _spectra(meat.spectra), np.array(meat.labels)
    x_valid, y_valid = _spectra(meat_valid.spectra), np.array(meat_valid.labels)
    search = GridSearchCV(PLSRegression(), {"n_components": range(2, 21)}, scoring="neg_mean_absolute_error", cv=5)
    guess = search.fit(x, y).predict(x_valid).ravel()
    mean = np.full(len(y_valid), y.mean())
    print(f"tecator: {len(y)} train, {len(y_valid)} valid")
    print(f"  mean                 R2 {r2_score(y_valid, mean):.3f}, MAE {mean_absolute_error(y_valid, mean):.2f}")
    print(f"  PLS after SNV        R2 {r2_score(y_valid, guess):.3f}, MAE {mean_absolute_error(y_valid, guess):.2f}")

    coffee, coffee_valid = CoffeeDataset(split="train"), CoffeeDataset(split="valid")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    score = model.fit(_spectra(coffee.spectra), coffee.labels).score(
        _spectra(coffee_valid.spectra), coffee_valid.labels
    )
    print(f"coffee_spectra: {len(coffee)} train, {len(coffee_valid)} valid")
    print(f"  logistic regression  accuracy {score:.3f} (three classes of one size)")

    fields, fields_valid = (NirFieldsDataset(split=s) for s in ("train", "valid"))
    (x, names), (x_valid, names_valid) = _crops(fields), _crops(fields_valid)
    largest = Counter(names).most_common(1)[0][0]
    print(f"nir_fields: {len(names)} train, {len(names_valid)} valid")
    print(f"  largest class        accuracy {np.mean([name == largest for name in names_valid]):.3f}")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.01)).fit(x, names)
    print(f"  logistic regression  accuracy {linear.score(x_valid, names_valid):.3f}")
    forest = RandomForestClassifier(300, random_state=0).fit(x, names)
    print(f"  random forest        accuracy {forest.score(x_valid, names_valid):.3f}")


def _spectra(spectra: list[np.ndarray] | np.ndarray) -> np.ndarray:
    return np.stack([normal_variate(spectrum) for spectrum in spectra])


def _crops(data: NirFieldsDataset) -> tuple[np.ndarray, list[str]]:
    samples = [data[i] for i in range(len(data))]
    x = np.stack([sample[data.stream].ravel() for sample in samples]).astype(np.float64)
    return x, [sample[data.target] for sample in samples]


if __name__ == "__main__":
    main()
