"""Numbers of parameters of published systems, from the project's recipes, on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metaformer.assemble import assemble
from metaformer.recipe_file import read_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A vocabulary of BERT's size."""
    letters = [chr(97 + i) for i in range(26)]
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*words, *(f"w{i}" for i in range(30522 - len(words)))]) + "\n")
    return f"file:{path}"


def counts(recipe, *sets):
    """Parameters by the first two parts of their names."""
    with torch.device("meta"):
        model = assemble(read_recipe(RECIPES / recipe, sets).recipe)
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:2])
        found[part] = found.get(part, 0) + parameter.numel()
    return found


@pytest.mark.parametrize(
    ("name", "width", "published"), [("vit_b_16", 512, 149_620_737), ("vit_l_14", 768, 427_616_513)]
)
def test_clip(name, width, published):
    # Our vocabulary has two ids more: padding and a mask.
    assert sum(counts(f"clip/{name}.yaml").values()) - 2 * width == published


def test_vilt(bert):
    found = counts("vilt/pretrain.yaml", f"tokenizers.caption.vocabulary={bert}")
    # The paper's 87.4 M are the transformer and the patches, without the words.
    assert found["encoders.shared"] + found["tokenizers.image"] == pytest.approx(87.4e6, rel=0.002)


def test_albef(bert):
    found = counts("albef/pretrain.yaml", f"tokenizers.caption.vocabulary={bert}")
    assert found["encoders.vision"] + found["tokenizers.image"] == pytest.approx(85.8e6, rel=0.001)
    # The tied table counts with the tokenizer; BERT has 512 positions and two kinds of token, the recipe 30 places.
    text = sum(found[part] for part in ("tokenizers.caption", "encoders.text", "bridges.fused", "heads.words"))
    assert text + (512 + 2 - 30) * 768 == pytest.approx(123.7e6, rel=0.001)


def vlmo(bert, *sets):
    found = counts("vlmo/stage3_pairs.yaml", f"tokenizers.caption.vocabulary={bert}", *sets)
    return sum(found[part] for part in ("encoders.shared", "tokenizers.image", "tokenizers.caption", "passes.pair"))


def test_vlmo(bert):
    assert vlmo(bert) == pytest.approx(175e6, rel=0.01)
    large = ("encoders.shared.dim=1024", "encoders.shared.depth=24", "encoders.shared.num_heads=16")
    heads = [f"heads.{name}.size=1024" for name in ("image", "caption", "image_vl", "caption_vl")]
    assert vlmo(bert, *large, "encoders.shared.pair_from=21", *heads) == pytest.approx(562e6, rel=0.01)


def test_align(bert):
    transformers = pytest.importorskip("transformers")
    found = counts("align/base.yaml", f"tokenizers.caption.vocabulary={bert}")
    with torch.device("meta"):
        public = transformers.AlignModel(transformers.AlignConfig())  # the sizes of kakaobrain/align-base
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in public.named_children()}
    assert found["tokenizers.image"] == parts["vision_model"] == 62_143_440
    # BERT has 512 positions and a pooler, which ALIGN does not read, and two kinds of token; the recipe has 64 places.
    spare = (512 + 2 - 64) * 768 + (768 + 1) * 768
    assert found["tokenizers.caption"] + found["encoders.text"] == parts["text_model"] - spare
    assert found["heads.caption"] == parts["text_projection"]
    assert "heads.image" not in found
