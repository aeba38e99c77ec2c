"""S5. A recipe file whose own name holds lines of YAML, which would end up in the run's resolved recipe."""

from __future__ import annotations

from metaformer.recipe_file import read_recipe, resolved
from metaformer.yamlfile import read_yaml


def test_it_stays_in_the_comment(recipe, tmp_path):
    path = recipe(file="evil.yaml\noutput: elsewhere\n# .yaml")
    file = read_recipe(path)
    text = resolved(file)
    (tmp_path / "resolved.yaml").write_text(text)
    assert read_yaml(tmp_path / "resolved.yaml").data["output"] == file.recipe.output == "runs"
    assert text.splitlines()[1].startswith("name: ")
