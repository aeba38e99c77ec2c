"""Layouts: each is told from the others, whatever stands around it; leftovers are sorted by owner."""

from __future__ import annotations

import pytest

from metaformer.errors import WeightsError
from metaformer.weights.layouts import LAYOUTS, Layout, blocks_only, make_plan

BY_NAME = {layout.name: layout for layout in LAYOUTS}
DEPTH = 3
MARK = {"timm_vit": ["patch_embed.proj.weight", "cls_token"]}


def names(layout: Layout, depth: int = DEPTH, prefix: str = "") -> list[str]:
    """A state dict's names in a layout, without LayerScale."""
    path = f"{layout.blocks}." if layout.blocks else ""
    inside = [
        f"{path}{index}.{source.format(kind)}"
        for index in range(depth)
        for sources in layout.inside.values()
        for source in sources
        for kind in ("weight", "bias")
        if "{}" in source
    ]
    outside = [f"{sources[0]}.{kind}" for sources in layout.outside.values() for kind in ("weight", "bias")]
    return [prefix + name for name in [*inside, *outside, *MARK.get(layout.name, [])]]


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "a.b.c."])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_told_from_the_others_under_any_prefix(layout: Layout, prefix: str) -> None:
    plan = make_plan(names(layout, prefix=prefix), "x")
    assert (plan.layout.name, plan.prefix, plan.depth) == (layout.name, prefix, DEPTH)
    assert len(plan.mapped) == 12 * DEPTH + 2 * len(layout.outside)
    assert (plan.stray, plan.unknown, dict(plan.incomplete)) == ((), (), {})
    assert set(plan.unused.values()) <= {"a tokenizer"}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_no_source_name_is_used_twice(layout: Layout) -> None:
    plan = make_plan(names(layout), "x")
    sources = [source for group in plan.mapped.values() for source in group]
    assert len(sources) == len(set(sources))


def test_rows_are_joined_in_the_order_query_key_value() -> None:
    plan = make_plan(names(BY_NAME["huggingface_clip"]), "x")
    assert plan.mapped["blocks.2.attn.qkv.bias"] == tuple(
        f"encoder.layers.2.self_attn.{part}_proj.bias" for part in "qkv"
    )


@pytest.mark.parametrize(
    ("layout", "vision", "other"),
    [("open_clip", "visual.", ""), ("huggingface_clip", "vision_model.", "text_model.")],
)
def test_of_two_towers_the_vision_tower_is_taken(layout: str, vision: str, other: str) -> None:
    text = names(BY_NAME[layout], prefix=other)
    plan = make_plan([*names(BY_NAME[layout], prefix=vision), *text, "logit_scale"], "x")
    assert plan.prefix == vision
    owners = {plan.unused.get(name) for name in text if "resblocks" in name or "encoder" in name}
    assert owners == {"a text tower"}
    assert plan.unused["logit_scale"] == "a head"


def test_several_encoders_are_not_guessed_among() -> None:
    layout = BY_NAME["metaformer"]
    keys = [*names(layout, prefix="encoders.shared."), *names(layout, prefix="encoders.vision.")]
    with pytest.raises(WeightsError, match=r"encoders\.shared, encoders\.vision"):
        make_plan(keys, "x")


def test_leftovers_are_sorted_by_owner() -> None:
    extra = {
        "pos_embed": "a tokenizer",
        "fc_norm.weight": "a head",
        "head.bias": "a head",
        "mask_token": "a decoder",
        "decoder_blocks.0.attn.qkv.weight": "a decoder",
    }
    plan = make_plan([*names(BY_NAME["timm_vit"]), *extra, "banana.weight"], "x")
    assert {name: plan.unused.get(name) for name in extra} == extra
    assert plan.unknown == ("banana.weight",)


def test_what_blocks_have_beyond_ours_is_never_sorted_away() -> None:
    keys = [*names(BY_NAME["timm_vit"]), "blocks.1.attn.q_norm.weight", "blocks.1.head.weight"]
    assert make_plan(keys, "x").stray == ("blocks.1.attn.q_norm.weight", "blocks.1.head.weight")


def test_layer_scale_is_mapped() -> None:
    keys = [*names(BY_NAME["timm_vit"]), "blocks.0.ls1.gamma", "blocks.0.ls2.gamma"]
    plan = make_plan(keys, "x")
    assert plan.mapped["blocks.0.gamma2"] == ("blocks.0.ls2.gamma",)
    bare = [name for name in keys if name.startswith("blocks.")]
    assert make_plan(bare, "x").layout.name == "timm_vit"


def test_a_join_with_a_part_absent_is_reported() -> None:
    keys = names(BY_NAME["huggingface_vit"])
    keys.remove("layers.1.attention.k_proj.bias")
    plan = make_plan(keys, "x")
    assert plan.incomplete == {"blocks.1.attn.qkv.bias": ("layers.1.attention.k_proj.bias",)}


@pytest.mark.parametrize("keys", [[], ["conv.weight", "fc.bias"], ["layers.0.blocks.0.attn.q.weight"]])
def test_anything_else_is_no_layout(keys: list[str]) -> None:
    with pytest.raises(WeightsError, match="no known layout"):
        make_plan(keys, "x")


def test_windowed_models_are_not_taken_for_a_plain_stack() -> None:
    keys = [f"layers.{i}.blocks.{j}.attn.qkv.weight" for i in range(2) for j in range(2)]
    with pytest.raises(WeightsError, match="2 parts"):
        make_plan([*keys, "patch_embed.proj.weight"], "x")


def test_bare_names_for_meta_transformer() -> None:
    assert blocks_only(["blocks.0.norm1.weight", "norm_out.bias"]) == {"blocks.0.norm1.weight": "0.norm1.weight"}


def test_the_norm_behind_the_blocks_has_another_name_in_text_towers() -> None:
    for layout, vision, text in (
        ("open_clip", "ln_post", "ln_final"),
        ("huggingface_clip", "post_layernorm", "final_layer_norm"),
    ):
        keys = [name.replace(vision, text) for name in names(BY_NAME[layout])]
        plan = make_plan(keys, "x")
        assert plan.mapped["norm_out.weight"] == (f"{text}.weight",)
        assert not plan.unused


def test_learned_keys_and_values_are_mapped_where_there_are_any() -> None:
    for layout in ("imagebind", "metaformer"):
        keys = [*names(BY_NAME[layout]), *(f"blocks.{i}.attn.bias_{part}" for i in range(DEPTH) for part in "kv")]
        plan = make_plan(keys, "x")
        assert plan.mapped["blocks.2.attn.bias_v"] == ("blocks.2.attn.bias_v",)
        assert plan.stray == ()


def test_cross_attention_has_no_place_in_an_encoder() -> None:
    keys = [*names(BY_NAME["bert"]), "encoder.layer.1.crossattention.self.query.weight"]
    assert make_plan(keys, "x").stray == ("encoder.layer.1.crossattention.self.query.weight",)


def test_the_rest_of_albef_vilt_and_imagebind_is_known() -> None:
    albef = {
        "text_encoder.bert.encoder.layer.0.attention.self.query.weight": "a text tower",
        "text_encoder_m.bert.embeddings.word_embeddings.weight": "a momentum copy or its queue",
        "vision_proj_m.weight": "a momentum copy or its queue",
        "image_queue": "a momentum copy or its queue",
        "vision_proj.bias": "a head",
        "itm_head.weight": "a head",
        "temp": "a head",
    }
    vilt = {
        "text_embeddings.word_embeddings.weight": "a tokenizer",
        "token_type_embeddings.weight": "the types of a joint pass",
        "transformer.pos_embed": "a tokenizer",
        "pooler.dense.weight": "a head",
        "mlm_score.transform.dense.weight": "a head",
        "itm_score.fc.bias": "a head",
        "vqa_classifier.3.weight": "a head",
    }
    imagebind = {"modality_preprocessors.vision.cls_token": "a tokenizer", "modality_heads.vision.2.weight": "a head"}
    for layout, prefix, rest in (
        ("timm_vit", "visual_encoder.", albef),
        ("timm_vit", "transformer.", vilt),
        ("imagebind", "modality_trunks.vision.", imagebind),
    ):
        plan = make_plan([*names(BY_NAME[layout], prefix=prefix), *rest], "x")
        assert plan.unknown == ()
        assert {name: plan.unused[name] for name in rest} == rest
