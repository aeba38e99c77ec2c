"""Tables of relative positions out of published models: BEiT's, one per layer or one for all, and VLMo's single one.

Source: BEiT's code, and VLMo's. With n = (2 rows - 1)(2 columns - 1) offsets of patches and M text tokens, VLMo's rows
are

* 0 to n - 1: offsets between patches; n to n + 2: class token reads patch, patch reads class token, itself;
* n + 3: text reads image; n + 4: image reads text;
* n + 5 to n + 5 + 2M - 4: offsets between words, key's place less query's, which is the reverse of those of patches;
* then three rows as for patches, of the text's class token;

its columns a head of a layer each, layers first. Each of these four becomes a table of its own here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from metaformer.errors import WeightsError
from metaformer_plugin_experts.positions import CLASS_ROWS, Grid, between, offset_rows, within
from metaformer_plugin_experts.resize import resize_table

TABLE = "relative_position_bias_table"
"""What all of them call it."""
SHARED = (f"rel_pos_bias.{TABLE}", f"shared_position_bias.{TABLE}", f"encoder.relative_position_bias.{TABLE}")
"""A table of BEiT that all layers use: timm's and the original's, transformers 5's and 4's."""
VLMO_TEXT = 196
"""Text tokens that the tables of all published models are for."""

Sizes = Mapping[str, Grid] | None
ASKED = "tables of relative positions"


def read_tables(
    layers: Mapping[int, Tensor],
    beside: dict[str, Tensor],
    serving: Callable[[str], str | None],
    plain: str | None,
    sizes: Sizes,
    depth: int,
) -> dict[str, Tensor]:
    """Our tables out of those `layers` have, and those that are taken out of what stands `beside` them. `serving`: the
    expert of a modality; `plain`: the expert of models with one."""
    shared = [key for key in beside if any(f".{key}".endswith(f".{name}") for name in SHARED)]
    whole = [key for key in beside if key.rpartition(".")[2] == TABLE and key not in shared]
    for key in [key for key in beside if key.endswith("relative_position_index")]:
        del beside[key]
    if not (layers or whole or shared):
        return {}
    if sizes is None:
        fix = f"relative_positions: {{image: [14, 14]{', text: [195]' if whole else ''}}}, or the source's own sizes"
        raise WeightsError(ASKED, "the source has them, and the recipe has none", fix)
    if len(whole) > 1:
        raise WeightsError(ASKED, f"several: {', '.join(whole)}", "name the part of one model after a #")
    if whole:
        return _vlmo(joined([beside.pop(whole[0])], 1, whole[0]), serving, sizes)
    if plain is None:
        raise WeightsError(ASKED, "tables of one expert", "plain_expert: the one that takes them")
    sums = [joined([beside.pop(key)] * depth, 1, key) for key in shared]
    if layers:
        absent = [str(i) for i in range(depth) if i not in layers]
        if absent:
            raise WeightsError(ASKED, f"some blocks have one, and {', '.join(absent)} none", "name other weights")
        sums.append(joined([layers[i] for i in range(depth)], 1, "those of the blocks"))
    if any(table.shape != sums[0].shape for table in sums):
        raise WeightsError(ASKED, f"shapes {[list(table.shape) for table in sums]}", "name other weights")
    return {f"positions.{within(plain)}.weight": _fitted(torch.stack(sums).sum(dim=0), plain, sizes[plain])}


def joined(tensors: Sequence[Tensor], axis: int, what: str) -> Tensor:
    """Tensors of one shape, of more than `axis` axes, put together along it."""
    shapes = [list(tensor.shape) for tensor in tensors]
    if len(shapes[0]) <= axis or any(shape != shapes[0] for shape in shapes):
        raise WeightsError("tensors of one shape", f"{what}: {shapes[:4]}", "name other weights")
    return torch.cat(list(tensors), dim=axis)


def _vlmo(table: Tensor, serving: Callable[[str], str | None], sizes: Mapping[str, Grid]) -> dict[str, Tensor]:
    text, image = serving("text"), serving("image")
    if text is None or image is None or text == image:
        raise WeightsError(ASKED, "VLMo's, of two experts", "give `experts` one that serves text, another for image")
    side, words = _sizes(len(table), sizes[text])
    patches, rest = table[: offset_rows((side, side)) + CLASS_ROWS], table[offset_rows((side, side)) + CLASS_ROWS :]
    pairs, line = rest[:2], rest[2:]
    line = torch.cat([line[:-CLASS_ROWS].flip(0), line[-CLASS_ROWS:]])
    if len(sizes[text]) != 1:
        raise WeightsError(ASKED, f"a line of {words} words", f"relative_positions: {{{text}: [{words}]}}")
    return {
        f"positions.{within(image)}.weight": _fitted(patches, image, sizes[image]),
        f"positions.{within(text)}.weight": resize_table(line, (words,), sizes[text]),
        f"positions.{between(text, image)}.weight": pairs[:1],
        f"positions.{between(image, text)}.weight": pairs[1:],
    }


def _sizes(rows: int, text: Grid) -> tuple[int, int]:
    """Side of the square of patches, and words beside the class token, of VLMo's table: the words are those of the
    recipe or of the published models, whichever leaves a square."""
    for words in (*text[:1], VLMO_TEXT - 1):
        offsets = rows - 2 * CLASS_ROWS - 2 - (2 * words - 1)
        span = math.isqrt(max(offsets, 0))
        if span % 2 and span * span == offsets:
            return (span + 1) // 2, words
    found = f"VLMo's, of {rows} rows: no square of patches beside {VLMO_TEXT} text tokens"
    raise WeightsError(ASKED, found, "name other weights")


def _fitted(table: Tensor, expert: str, grid: Grid) -> Tensor:
    """For `grid`, out of a table for the same or for a square, or cube, of another size."""
    offsets = len(table) - CLASS_ROWS
    if offsets == offset_rows(grid):
        return table
    span = round(offsets ** (1 / len(grid))) if grid and offsets > 0 else 0
    if not span % 2 or span ** len(grid) != offsets:
        axes = f"{len(grid)} equal axes" if grid else "no axis"
        found = f"{len(table)} rows for the expert '{expert}', which no grid with {axes} has"
        raise WeightsError(ASKED, found, f"relative_positions: {{{expert}: the grid of the source}}")
    return resize_table(table, ((span + 1) // 2,) * len(grid), grid)


def resize_own(source: Mapping[str, Tensor], sizes: Sizes) -> Mapping[str, Tensor]:
    """Tensors by our names; tables of another size resized."""
    if sizes is None:
        own = [key for key in source if re.search(r"(^|\.)positions\.\w+\.weight$", key)]
        if own:
            found = f"the source has {len(own)}, and the recipe has none"
            raise WeightsError(ASKED, found, "set relative_positions as in the run these weights come from")
        return source
    out = dict(source)
    for key, tensor in source.items():
        match = re.search(r"(?:^|\.)positions\.within_(\w+)\.weight$", key)
        if match and match[1] in sizes:
            out[key] = _fitted(tensor, match[1], sizes[match[1]])
    return out
