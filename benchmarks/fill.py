"""Put tables from standard input in place of those with the same head in a page.

    python benchmarks/memory.py | python benchmarks/fill.py docs/results/studies/memory.md

A table whose head is not in the page is an error, and the page stays as it was.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from script import script


def tables(text: str) -> list[str]:
    """Return the tables of a Markdown text."""
    runs = groupby(text.splitlines(), key=lambda line: line.startswith("|"))
    return ["\n".join(lines) for is_table, lines in runs if is_table]


def main() -> None:
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    old = {t.partition("\n")[0]: t for t in tables(text)}
    made = tables(sys.stdin.read())
    if not made:
        sys.exit(f"{page}: standard input holds no table")
    for table in made:
        head = table.partition("\n")[0]
        if head not in old:
            sys.exit(f"{page}: no table with the head {head}")
        text = text.replace(old[head], table)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    script(main)
