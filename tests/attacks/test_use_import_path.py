"""S5. A recipe whose `use:` is the path of something to import."""

from __future__ import annotations

import sys

import pytest

from metaformer.errors import MetaformerError
from metaformer.recipe_file import check_file
from metaformer.registry import registry

PATHS = [
    "evil_module:Encoder",
    "evil_module.Encoder",
    "metaformer.encoders.transformer:TransformerEncoder",
    "metaformer:metaformer.encoders.transformer:TransformerEncoder",
    "../evil_module",
    "os:system",
    "builtins:eval",
    "__import__('evil_module')",
]


@pytest.mark.parametrize("use", PATHS)
def test_nothing_is_imported(recipe, refuse, trap, tmp_path, monkeypatch, use):
    (tmp_path / "evil_module.py").write_text(f"from pathlib import Path\nPath({str(trap.mark)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = recipe()
    given = [f'encoders.shared.use="{use}"', "name=x"]
    refusal = refuse(lambda: check_file(path, given))
    assert any(problem.path == "encoders.shared.use" for problem in refusal.problems)
    with pytest.raises(MetaformerError):
        registry().load("encoder", use)
    assert "evil_module" not in sys.modules
    assert not trap.sprung


def test_the_module_would_have_been_found(trap, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"from pathlib import Path\nPath({str(trap.mark)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    trap.would_spring(lambda: __import__("evil_module"))
    del sys.modules["evil_module"]
