"""Receipts: folded names stand for every name once; the summary is short and the record whole."""

from __future__ import annotations

import json

from metaformer.weights.receipt import Receipt, fold


def test_folding_draws_blocks_and_pairs_together() -> None:
    names = [f"blocks.{i}.norm1.{kind}" for i in range(12) for kind in ("weight", "bias")]
    assert fold([*names, "norm_out.weight", "cls_token"]) == [
        "blocks.0-11.norm1.{weight,bias}",
        "norm_out.weight",
        "cls_token",
    ]


def test_folding_keeps_gaps_and_differences() -> None:
    assert fold(["b.0.w", "b.1.w", "b.5.w"]) == ["b.0-1,5.w"]
    assert fold(["0.norm1.weight", "1.norm1.weight"]) == ["0-1.norm1.weight"]
    assert fold(["a.0.weight", "a.1.bias"]) == ["a.0.weight", "a.1.bias"]
    assert fold([]) == []


def test_the_summary_counts_and_the_record_is_complete() -> None:
    mapped = {f"blocks.{i}.norm1.weight": (f"{i}.norm1.weight",) for i in range(12)}
    receipt = Receipt(
        name="encoders.shared",
        uri="file:x.pth",
        layout="meta_transformer",
        digest="sha256:" + "ab" * 32,
        mapped=mapped | {"blocks.0.attn.qkv.weight": ("q", "k", "v")},
        resized={"positions": ((1, 5, 8), (1, 10, 8))},
        missing=("norm_out.weight",),
        unused={"head.weight": "a head", "head.bias": "a head", "cls_token": "a tokenizer"},
        unknown=("strange",),
        cast={"blocks.0.norm1.weight": "float16 → float32"},
        notes=("something to know",),
    )
    text = str(receipt)
    for part in (
        "13 of 14 tensors from file:x.pth",
        "blocks.0-11.norm1.weight",
        "(1, 5, 8) → (1, 10, 8)",
        "missing  1: norm_out.weight",
        "unused   2: head.{weight,bias} (a head)",
        "unknown  1: strange",
        "cast     1: float16 → float32",
        "note     something to know",
    ):
        assert part in text
    assert len(text.splitlines()) < 15
    record = json.loads(json.dumps(receipt.to_dict()))
    assert len(record["mapped"]) == 13
    assert record["mapped"]["blocks.0.attn.qkv.weight"] == ["q", "k", "v"]
    assert record["unused"]["cls_token"] == "a tokenizer"
