"""Text on the terminal: tables and errors, in words that no terminal may obey."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from metaformer.plaintext import printable


def print_error(text: str, every_rank: bool = False) -> None:
    """A message on standard error; from rank zero only where every rank under a launcher meets the same fault."""
    if every_rank or os.environ.get("RANK", "0") == "0":
        print(printable(text), file=sys.stderr)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: drawn by rich on a terminal, plain aligned columns elsewhere, so that logs can be searched."""
    if not rows:
        return
    clean = [[printable(cell, lines=False) for cell in row] for row in rows]
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
