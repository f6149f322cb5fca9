"""Model cards read back: their tables and their code."""

import re


def tables(text: str) -> dict[str, list[list[str]]]:
    """First column's title -> rows of cells. With the last one's after it where two tables begin alike."""
    found = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        titles, aligned, *rows = (
            [cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()
        )
        assert {len(titles)} == {len(row) for row in (aligned, *rows)}, titles
        assert all(re.fullmatch("---:?", cell) for cell in aligned)
        name = f"{titles[0]} {titles[-1]}" if titles[0] in ("#", "Component") else titles[0]
        assert name not in found
        found[name] = rows
    return found


def code(text: str) -> str:
    """All Python in the card, as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
