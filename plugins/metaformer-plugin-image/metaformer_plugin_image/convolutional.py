"""Pictures → the last feature map of a convolutional network, a token per place.

Source: ALIGN (arXiv 2102.05918), whose image tower is an EfficientNet (arXiv 1905.11946); timm for the networks.
Ours differs: ranks agree on the running statistics of batch norms, and stand-ins for missing pictures count in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor, distributed, nn

from metaformer.base import Preprocess, Tokenizer
from metaformer.errors import MetaformerError, WeightsError
from metaformer.layers.init import init_transformer
from metaformer.layers.pixels import Preset, pixel_statistics, standardize
from metaformer.types import Raw, TokenBatch
from metaformer_plugin_image.efficientnet import MARK, from_hugging_face
from metaformer_plugin_image.preprocess import ImagePreprocess, Interpolation
from metaformer_plugin_image.tokenizer import Positive, Probability, Share, Size

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTER = "num_batches_tracked"
"""A buffer of torch's batch norms that older files lack; nothing here reads it."""


@dataclass(frozen=True)
class ConvolutionalPreprocess(Preprocess):
    """What `picture` makes, and `real` bool []: batch norms have to know stand-ins from pictures."""

    reads_files: ClassVar[bool] = True

    picture: ImagePreprocess

    def __call__(self, value: Any, train: bool) -> Raw:
        return {**self.picture(value, train), "real": torch.tensor(True)}

    def blank(self) -> Raw:
        return {**self.picture.blank(), "real": torch.tensor(False)}

    def example(self) -> Raw:
        return {**self.picture.example(), "real": torch.tensor(True)}


class ConvolutionalTokenizer(Tokenizer):
    """`pixels` uint8 [B C H W], `real` bool [B] → TokenBatch [B h*w D]: one token per place of the map, grid (h, w).

    `backbone` names a convolutional network of timm, without a tag and never with downloaded weights: those come by the
    recipe's `weights:`. Its map is the last one before pooling and, in EfficientNets, before `conv_head`, as in ALIGN.
    Where its channels are not the encoder's width a linear layer follows. There is no class token, and no positions are
    added: padding at its borders tells a convolution where it is. `drop_path` is for networks that know it.

    Batch norm. Frozen, it stays in eval mode like everything frozen, and its statistics do not move. Trained, it
    normalises by the statistics of the rank's own micro-batch, so a pass's rows depend on one another, and results on
    the size of the micro-batch: as in timm, and unlike everything else here. After each pass ranks average the running
    statistics, weighed by their pictures; all ranks evaluate with the same, and a checkpoint, which keeps rank
    zero's buffers, has them. Blank stand-ins for missing pictures are left out of the pass; without a single picture,
    or with one entry per channel, running statistics are used and stay.

    Pixels: `image_size`, `resize` and what follows are as those of `ImageTokenizer`.
    """

    def __init__(
        self,
        dim: int,
        *,
        backbone: str,
        image_size: Size | tuple[Size, Size] = 224,
        channels: Literal[1, 3] = 3,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        normalize: Preset = "imagenet",
        mean: tuple[float, ...] | None = None,
        std: tuple[Positive, ...] | None = None,
        resize: Literal["crop", "exact"] = "crop",
        crop_pct: Share = 0.875,
        interpolation: Interpolation = "bicubic",
        augment: Literal["none", "light", "timm"] = "none",
        crop_scale: tuple[Share, Share] = (0.08, 1.0),
        crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        hflip: Probability = 0.5,
        color_jitter: Annotated[float, Field(ge=0)] = 0.4,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        erase: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.name, self.channels = backbone, channels
        self.size = (image_size, image_size) if isinstance(image_size, int) else image_size
        features = _features(backbone, channels, drop_path)
        self.backbone: Any = features.model
        self.last = features.out_indices
        (width,), (self.stride,) = features.feature_info.channels(), features.feature_info.reduction()
        self.proj = nn.Identity() if width == dim else nn.Linear(width, dim)
        init_transformer(self.proj)
        self.mean, self.std = pixel_statistics(normalize, channels, mean, std)
        picture = ImagePreprocess(
            size=self.size,
            channels=channels,
            mean=self.mean,
            std=self.std,
            resize=resize,
            crop_pct=crop_pct,
            interpolation=interpolation,
            augment=augment,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            hflip=hflip,
            color_jitter=color_jitter,
            auto_augment=auto_augment,
            erase=erase,
        )
        self.preprocess = ConvolutionalPreprocess(picture)

    def forward(self, raw: Raw) -> TokenBatch:
        pixels = raw["pixels"]
        norms = self._moving_norms()
        features = self._trained(pixels, raw["real"], norms) if norms else self._map(pixels)
        x = self.proj(features.flatten(2).transpose(1, 2))
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return TokenBatch(x, mask, self.modality, grid=(features.shape[2], features.shape[3]))

    def _map(self, pixels: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B Z h w"]:
        flat = standardize(pixels.flatten(2).unsqueeze(1), self.mean, self.std, 255.0)
        x = flat.view(pixels.shape).to(next(self.backbone.parameters()).dtype)
        out: Tensor = self.backbone.forward_intermediates(x, indices=self.last, intermediates_only=True)[-1]
        return out

    def _trained(
        self, pixels: UInt8[Tensor, "B C H W"], real: Bool[Tensor, " B"], norms: Sequence[nn.Module]
    ) -> Float[Tensor, "B Z h w"]:
        """With batch norms that are being trained: of the real pictures alone, zero for stand-ins."""
        rows = int(real.sum())
        height, width = (ceil(side / self.stride) for side in pixels.shape[2:])
        if rows * height * width < 2:  # torch refuses to take a deviation of one number
            with _at_rest(norms):
                features = self._map(pixels)
            rows = 0
        elif rows == len(real):
            features = self._map(pixels)
        else:
            some = self._map(pixels[real])
            features = some.new_zeros(len(real), *some.shape[1:]).index_put((real,), some)
        _agree(norms, rows)
        return features

    def _moving_norms(self) -> list[nn.Module]:
        kind = nn.modules.batchnorm._NormBase
        modules = self.backbone.modules()
        return [m for m in modules if isinstance(m, kind) and m.training and m.running_mean is not None]

    def translate(self, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Out of timm's model of the same name, or, for EfficientNets, Hugging Face's AlignVisionModel or EfficientNet;
        ours as they are. The classifier, and the convolution before it, are left out."""
        ours = {key.removeprefix("backbone."): value for key, value in self.state_dict().items()}
        names = [key for key in self.backbone.state_dict() if not key.endswith(COUNTER)]
        first, last = names[0], names[-1]
        if f"backbone.{first}" in source:
            return source
        marked = [key.removesuffix(MARK) for key in source if key == MARK or key.endswith(f".{MARK}")]
        if marked:
            found = from_hugging_face(_under(source, marked, self.name), self.backbone.state_dict(), self.name)
        else:
            # Both ends: the blocks of a ResNet have a `conv1` as well.
            starts = [key.removesuffix(first) for key in source if key == first or key.endswith(f".{first}")]
            whole = [prefix for prefix in starts if prefix + last in source]
            found = self._out_of_timm(_under(source, whole, self.name))
        for key, value in ours.items():
            if key.endswith(COUNTER):
                found.setdefault(key, torch.zeros_like(value))
        return {f"backbone.{key}": _for_channels(value, ours[key]) for key, value in found.items()}

    def _out_of_timm(self, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = self.backbone.state_dict().keys()
        with torch.device("meta"):
            import timm

            head = timm.create_model(self.name).state_dict().keys() - kept
        strange = sorted(source.keys() - kept - head)
        if strange:
            raise WeightsError(
                f"weights of {self.name}",
                f"{len(strange)} tensors that it does not have: {', '.join(strange[:4])}",
                "set `backbone` to the network that the weights are of",
            )
        return {key: value for key, value in source.items() if key in kept}

    def describe(self) -> str:
        (height, width), step = self.size, self.stride
        return f"{height}x{width}x{self.channels} pixels through {self.name}: a token per {step}x{step} pixels"


def _features(name: str, channels: int, drop_path: float) -> Any:
    """timm's network with its last map as the only output, and without the layers behind that."""
    import timm

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        do = f"did you mean {', '.join(close)}?" if close else "`timm.list_models()` gives all names"
        raise MetaformerError(f"backbone: {name}", f"no network of that name in timm {timm.__version__}", do)
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        found = "a network that takes one size of picture, as transformers do"
        raise MetaformerError(f"backbone: {name}", found, "name a convolutional one; for patches, `use: image`")
    knobs: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    last = {"features_only": True, "feature_cls": "getter", "out_indices": (-1,)}
    try:
        return timm.create_model(name, pretrained=False, in_chans=channels, **last, **knobs)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise MetaformerError(f"drop_path: {drop_path}", f"backbone {name}, which has none", "leave it out") from error


@contextmanager
def _at_rest(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, the norms are in eval mode."""
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


@torch.no_grad()
def _agree(norms: Sequence[nn.Module], rows: int) -> None:
    """Running statistics become their average over ranks, weighed by how many pictures each has seen. Called on all
    ranks. As they follow a batch's statistics linearly, this is what one rank would have that saw those averages."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    buffers = [b for norm in norms for b in norm.buffers(recurse=False) if b.is_floating_point()]
    flat = torch.cat([b.float().flatten() for b in buffers])
    total = torch.cat([flat * rows, flat.new_tensor([float(rows)])])
    distributed.all_reduce(total)
    if total[-1] == 0:
        return
    parts = torch.split(total[:-1] / total[-1], [b.numel() for b in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.data.copy_(part.view_as(buffer))  # `.data`: a backward pass to come reads none of them, and must not ask


def _under(source: Mapping[str, Tensor], prefixes: Sequence[str], name: str) -> dict[str, Tensor]:
    """The tensors below the only prefix."""
    if len(prefixes) != 1:
        several = ", ".join(f"{prefix or '(none)'}" for prefix in prefixes)
        some = (
            f"several, at {several}" if prefixes else f"none among {len(source)} tensors ({', '.join([*source][:4])})"
        )
        raise WeightsError(f"weights of {name}", some, "name weights of that network, or the part after a #")
    return {key.removeprefix(prefixes[0]): value for key, value in source.items() if key.startswith(prefixes[0])}


def _for_channels(value: Tensor, own: Tensor) -> Tensor:
    """A first convolution of three channels is summed for one: gray has three equal ones."""
    if value.ndim == 4 and value.shape[1] == 3 and own.shape[1] == 1 and value.shape[2:] == own.shape[2:]:
        return value.sum(1, keepdim=True)
    return value
