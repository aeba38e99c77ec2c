"""ImageBind's way from samples to tokens: windows of eight, a linear map without bias, a norm.

Source: ImageBind (arXiv 2305.05665), whose IMU branch takes 6 channels x 2000 samples, 5 seconds, to 250 tokens of
width 512 and a class token; positions are added to that too.
Ours differs: a recording may be shorter, and what is missing counts as 0, the mean; published code reads 2000 samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from metaformer.errors import WeightsError
from metaformer.types import TokenBatch

LARGEST = 1e6
"""Normalised values stop here: far beyond any that means something, and far below infinity in float32."""
PUBLISHED = {
    "imu_stem.proj.weight": "project.weight",
    "imu_stem.norm_layer.weight": "norm.weight",
    "imu_stem.norm_layer.bias": "norm.bias",
    "cls_token": "class_token",
    "pos_embed": "positions",
}
"""Names behind `modality_preprocessors.imu.` → ours."""


class ImageBindEmbedding(nn.Module):
    """values, observed [B L C], mask [B L] → TokenBatch [B 1+T D], T = ⌈L / kernel⌉."""

    num_prefix = 1

    def __init__(self, dim: int, *, channels: int, max_length: int, kernel: int = 8) -> None:
        super().__init__()
        self.channels, self.kernel, self.window = channels, kernel, channels * kernel
        self.project = nn.Linear(self.window, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.class_token = nn.Parameter(torch.randn(1, dim) * dim**-0.5)
        self.positions = nn.Parameter(torch.randn(1 + self.num_windows(max_length), dim) * 0.01)

    def num_windows(self, length: int) -> int:
        """Tokens of a recording of `length` steps, without the class token."""
        return -(-length // self.kernel)

    def forward(
        self, values: Float[Tensor, "B L C"], observed: Bool[Tensor, "B L C"], mask: Bool[Tensor, "B L"]
    ) -> TokenBatch:
        x = self.norm(self.project(self.windows(values, mask)))
        x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        positions = self.positions[: x.shape[1]]
        there = F.pad(self.window_mask(mask), (1, 0), value=True)
        return TokenBatch(
            x + positions, there, "", grid=(x.shape[1] - 1,), num_prefix=1, positions=positions.to(x.dtype)
        )

    def windows(self, values: Float[Tensor, "B L C"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B T W"]:
        """The numbers behind each token, channel by channel: [B T C*kernel]."""
        values = values.nan_to_num(nan=0.0).clamp(-LARGEST, LARGEST) * mask.unsqueeze(-1)
        values = values.to(self.project.weight.dtype)
        values = F.pad(values, (0, 0, 0, self.num_windows(values.shape[1]) * self.kernel - values.shape[1]))
        return values.unfold(1, self.kernel, self.kernel).flatten(2)

    def window_mask(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B T"]:
        """True for the windows a recording of each row's length has by itself."""
        window = torch.arange(self.num_windows(mask.shape[1]), device=mask.device)
        return window * self.kernel < mask.sum(dim=1, keepdim=True)

    def describe(self) -> str:
        return f"ImageBind's windows of {self.kernel}"

    def translate(self, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ours out of a published model, whatever stands before its names. Positions beyond our length are left out."""
        found = {ours: [key for key in source if _is(key, theirs)] for theirs, ours in PUBLISHED.items()}
        prefix = next((key[: -len("imu_stem.proj.weight")] for key in found["project.weight"]), None)
        lacking = [theirs for theirs in PUBLISHED if prefix is None or f"{prefix}{theirs}" not in source]
        if lacking:
            raise WeightsError(
                "the IMU tokenizer of an ImageBind model",
                f"{len(source)} tensors, without {', '.join(lacking)}",
                "give a whole imagebind_huge.pth, or weights under our own names",
            )
        out = {ours: source[f"{prefix}{theirs}"] for theirs, ours in PUBLISHED.items()}
        out["class_token"] = out["class_token"].reshape(-1, out["class_token"].shape[-1])
        positions = out["positions"].reshape(-1, out["positions"].shape[-1])
        if len(positions) < len(self.positions):
            raise WeightsError(
                f"{len(self.positions)} positions out of an ImageBind model",
                f"{len(positions)}",
                f"max_length is at most {(len(positions) - 1) * self.kernel}",
            )
        out["positions"] = positions[: len(self.positions)]
        return out


def _is(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")
