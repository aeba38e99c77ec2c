"""Tabular tokenizer: every column of a row is a token.

Source: FT-Transformer (arXiv 2106.11959), section 3.3: value times a column's vector, or a category's
embedding, plus the column's bias.
Ours differs: missing and unknown cells have a learned vector, which starts at zero, so that a missing number
counts as the column's average until it has learned better; statistics are fitted here and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor, nn

from metaformer.base import Tokenizer
from metaformer.errors import DataError, MetaformerError
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_tabular.date import FEATURES
from metaformer_plugin_tabular.row import UNKNOWN, RowPreprocess

QUANTILES = 1001
"""Landmarks of the quantile scaling; the two ends are one in a thousand apart from the next."""

LARGEST = 1e6
"""Scaled cells stop here: far beyond any that means something, far below infinity in float32."""


class TabularTokenizer(Tokenizer):
    """{numeric [B N], categories [B K], dates [B M 7]} → tokens [B T D], T = class token + N + K + M, all real."""

    fits: ClassVar[bool] = True
    preprocess: RowPreprocess
    mean: Float64[Tensor, " N"]
    std: Float64[Tensor, " N"]
    quantiles: Float64[Tensor, "N Q"]
    starts: Tensor
    class_token: Float[Tensor, "1 D"] | None

    def __init__(
        self,
        dim: int,
        *,
        numeric: tuple[str, ...] = (),
        categorical: dict[str, tuple[str, ...]] = {},  # noqa: B006 - never changed
        dates: tuple[str, ...] = (),
        scaling: Literal["standard", "quantile", "none"] = "standard",
        class_token: bool = True,
        cell_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        _check_columns(numeric, categorical, dates)
        self.preprocess = RowPreprocess(numeric, categorical, dates, cell_dropout)
        self.scaling = scaling
        self.num_prefix = int(class_token)
        n, k, m = len(numeric), len(categorical), len(dates)
        bound = dim**-0.5
        # None rather than empty where there are no such columns: ZeRO-3 cannot partition an empty parameter.
        self.weight = nn.Parameter(torch.empty(n, dim).uniform_(-bound, bound)) if n else None
        self.bias = nn.Parameter(torch.empty(n + k + m, dim).uniform_(-bound, bound))
        self.missing = nn.Parameter(torch.zeros(n, dim)) if n else None
        sizes = [UNKNOWN + 1 + len(names) for names in categorical.values()]
        starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
        # One table for all the columns; a column's part begins with its missing and unknown rows.
        self.embedding = nn.Embedding(sum(sizes), dim) if k else None
        if self.embedding is not None:
            nn.init.uniform_(self.embedding.weight, -bound, bound)
            with torch.no_grad():
                self.embedding.weight[torch.cat([starts, starts + UNKNOWN])] = 0
        self.date_weight = nn.Parameter(torch.empty(m, FEATURES, dim).uniform_(-bound, bound)) if m else None
        self.date_missing = nn.Parameter(torch.zeros(m, dim)) if m else None
        first = nn.Parameter(torch.empty(1, dim).uniform_(-bound, bound)) if class_token else None
        self.register_parameter("class_token", first)
        self.register_buffer("starts", starts)
        self.register_buffer("mean", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("std", torch.ones(n, dtype=torch.float64))
        self.register_buffer("date_mean", torch.zeros(m, dtype=torch.float64))
        self.register_buffer("date_std", torch.ones(m, dtype=torch.float64))
        if scaling == "quantile":
            self.register_buffer("quantiles", _normal_quantiles().expand(n, -1).clone())

    def forward(self, raw: Raw) -> TokenBatch:
        cells = []
        if self.weight is not None and self.missing is not None:
            absent = raw["numeric"].isnan()
            scaled = self.scale(raw["numeric"]).to(self.weight.dtype).unsqueeze(-1)
            cells.append(torch.where(absent.unsqueeze(-1), self.missing, scaled * self.weight))
        if self.embedding is not None:
            cells.append(self.embedding(raw["categories"] + self.starts))
        if self.date_weight is not None and self.date_missing is not None:
            features = raw["dates"].clone()
            features[..., 0] = (features[..., 0] - self.date_mean) / self.date_std
            absent = features.isnan().any(dim=2, keepdim=True)
            features = features.nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST).to(self.date_weight.dtype)
            x = (features.unsqueeze(-1) * self.date_weight).sum(dim=2)
            cells.append(torch.where(absent, self.date_missing, x))
        # A view of its own: the parameter itself is emptied after this pass under ZeRO-3.
        positions: Tensor = self.bias.view_as(self.bias)
        x = torch.cat(cells, dim=1) + positions
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
            positions = torch.cat([torch.zeros_like(self.class_token), positions])
        return TokenBatch(
            x=x,
            mask=torch.ones(x.shape[:2], dtype=torch.bool, device=x.device),
            modality=self.modality,
            num_prefix=self.num_prefix,
            positions=positions,
        )

    def scale(self, numeric: Float64[Tensor, "B N"]) -> Float64[Tensor, "B N"]:
        """Cells on a common scale, missing ones as 0."""
        if self.scaling == "quantile":
            numeric = _to_normal(numeric, self.quantiles)
        elif self.scaling == "standard":
            numeric = (numeric - self.mean) / self.std
        return numeric.nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST)

    def fit(self, values: Iterable[Any]) -> None:
        """Missing and unusable rows are left out: the loader meets the latter again, and there the recipe's
        policy for bad samples holds. Raises DataError where no row is left."""
        if not self.preprocess.dates and (self.scaling == "none" or not self.preprocess.numeric):
            return
        rows = list(self._usable(values))
        if not rows:
            raise DataError("rows to fit the scaling of numeric columns on", "none that can be used")
        for column, days in enumerate(np.stack([row["dates"].numpy()[:, 0] for row in rows]).T):
            there = days[~np.isnan(days)]
            if len(there):
                self.date_mean[column] = there.mean()
                self.date_std[column] = there.std() or 1.0
        if self.scaling == "none" or not self.preprocess.numeric:
            return
        table = np.stack([row["numeric"].numpy() for row in rows])
        seen = ~np.isnan(table).all(axis=0)
        # A column that is empty in training stays at mean 0 and deviation 1.
        self.mean[seen] = torch.from_numpy(np.nanmean(table[:, seen], axis=0)).to(self.mean)
        std = np.nanstd(table[:, seen], axis=0)
        # A constant column's deviation is rounding noise, which must not be divided by.
        tiny = std <= 1e-12 * np.abs(np.nanmean(table[:, seen], axis=0))
        self.std[seen] = torch.from_numpy(np.where(tiny, 1.0, std)).to(self.std)
        if self.scaling == "quantile":
            marks = np.nanquantile(table[:, seen], np.linspace(0, 1, QUANTILES), axis=0)
            self.quantiles[seen] = torch.from_numpy(marks.T.copy()).to(self.quantiles)

    def _usable(self, values: Iterable[Any]) -> Iterator[Raw]:
        for value in values:
            if value is None:
                continue
            try:
                yield self.preprocess(value, train=False)
            except DataError:
                continue

    def describe(self) -> str:
        n, k = len(self.preprocess.numeric), len(self.preprocess.categories)
        dates = f", {len(self.preprocess.dates)} dates" if self.preprocess.dates else ""
        return f"tabular: {n} numeric columns ({self.scaling} scaling), {k} categorical{dates}"


def _check_columns(numeric: tuple[str, ...], categorical: dict[str, tuple[str, ...]], dates: tuple[str, ...]) -> None:
    columns = [*numeric, *categorical, *dates]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if not columns or twice:
        raise MetaformerError(
            "tabular columns",
            f"named twice: {', '.join(twice)}" if twice else "none named",
            "name each column once, in `numeric`, in `dates`, or with its categories in `categorical`",
        )
    for column, names in categorical.items():
        if len(set(names)) < len(names) or not names:
            raise MetaformerError(
                f"categories of column {column!r}",
                "none" if not names else "a name that stands there twice",
                "list every category once",
            )


def _normal_quantiles() -> Float64[Tensor, " Q"]:
    """Values of a normal distribution at the landmarks; the outermost, which are infinite, at half a step."""
    share = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    half = 0.5 / (QUANTILES - 1)
    normal: Tensor = torch.special.ndtri(share.clamp(half, 1 - half))
    return normal


def _to_normal(numeric: Float64[Tensor, "B N"], marks: Float64[Tensor, "N Q"]) -> Float64[Tensor, "B N"]:
    """Each cell to the normal value of its rank: linear between landmarks, constant beyond them; where some
    landmarks are equal, the middle of their ranks."""
    cells = numeric.T.contiguous()
    low = torch.searchsorted(marks, cells)
    high = torch.searchsorted(marks, cells, right=True)
    last = marks.shape[1] - 1
    left, right = (high - 1).clamp(0, last), high.clamp(0, last)
    from_mark, to_mark = marks.gather(1, left), marks.gather(1, right)
    between = ((cells - from_mark) / (to_mark - from_mark).clamp(min=torch.finfo(cells.dtype).tiny)).clamp(0, 1)
    rank = torch.where(high > low, (low + high - 1) / 2, left + between * (right - left))
    share, half = rank / last, 0.5 / last
    return torch.where(cells.isnan(), cells, torch.special.ndtri(share.clamp(half, 1 - half))).T
