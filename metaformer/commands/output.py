"""Text on the terminal: tables, and words from strangers that no terminal may obey."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def printable(text: str) -> str:
    """`text` without control characters, which could move a terminal's cursor or hide what stands there."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def print_error(text: str) -> None:
    """A message on standard error, from rank zero only: under a launcher every rank meets the same fault."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text), file=sys.stderr)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: drawn by rich on a terminal, plain aligned columns elsewhere, so that logs can be searched."""
    if not rows:
        return
    clean = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header, title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
        for row in clean:
            table.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(table, "")
        return
    widths = [max(len(row[i]) for row in [header, *clean]) for i in range(len(header))]
    print(title)
    for row in clean:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
