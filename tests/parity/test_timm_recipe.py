"""A recipe that takes tokenizer and encoder out of one timm file computes what timm computes."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from metaformer.assemble import assemble
from metaformer.build import load_pretrained
from metaformer.recipe_file import read_recipe
from metaformer.types import Batch

RECIPE = Path(__file__).parents[2] / "recipes/imagenet_frozen.yaml"


@pytest.mark.parametrize("size", [64, 96])
def test_timm_tokenizer_and_encoder_by_recipe(tmp_path, size):
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    uri = f"file:{tmp_path / 'timm.safetensors'}"
    encoder = "use: transformer, dim: 192, depth: 3, num_heads: 3, norm_eps: 1.0e-6, norm_out: true"
    file = read_recipe(
        RECIPE,
        (
            f"tokenizers.image={{use: image, patch_size: 16, image_size: {size}, normalize: none, weights: '{uri}'}}",
            f"encoders.shared={{{encoder}, weights: '{uri}'}}",
        ),
    )
    model = assemble(file.recipe).eval()
    receipts = load_pretrained(model, file.recipe, tmp_path)
    assert [receipt.name for receipt in receipts] == ["tokenizers.image", "encoders.shared"]
    assert not any(receipt.missing for receipt in receipts)
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    batch = Batch("imagenet", {"image": {"pixels": pixels}}, {"image": torch.ones(2, dtype=torch.bool)}, {}, ["a", "b"])
    theirs.set_input_size(img_size=(size, size))
    with torch.no_grad():
        expected = theirs.forward_features(pixels / 255)
        ours = model.stream(batch, "image").x
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
