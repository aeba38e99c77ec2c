"""What stands in the project's documents: sections, tables and blocks of code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING, FIELDS = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "recipes.md"
DOCUMENTS = [README, CONTRIBUTING, *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("examples/**/*.md"))]


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(), re.DOTALL | re.MULTILINE)


def section(file: Path, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", file.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{file.name} has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables in a text, without headings."""
    lines = re.findall(r"^\|(.+)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    rules = [i for i, row in enumerate(cells) if set("".join(row)) == {"-"}]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


def word(cell: str) -> str:
    return cell.strip("`")


# Recipes: fragments become whole with what they leave out.
