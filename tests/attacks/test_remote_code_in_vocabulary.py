"""S9. A text vocabulary that brings its own program, which `trust_remote_code` would run."""

from __future__ import annotations

import json

import pytest


def test_it_is_refused_and_never_run(tmp_path, trap, refuse):
    transformers = pytest.importorskip("transformers")
    from metaformer_plugin_text.vocabulary import open_vocabulary

    folder = tmp_path / "evil"
    folder.mkdir()
    auto = {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None], "AutoConfig": "tokenization_evil.EvilConfig"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EvilTokenizer", "auto_map": auto}))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "tokenization_evil.py").write_text(f"from pathlib import Path\nPath({str(trap.mark)!r}).touch()\n")

    def unprotected():
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever comes after the program has run
            transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)

    trap.would_spring(unprotected)
    refuse(lambda: open_vocabulary(f"hf:{folder}"), "text vocabulary")
    assert not trap.sprung
