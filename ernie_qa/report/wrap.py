"""Text in lines of a width, and in columns."""

import textwrap
from collections.abc import Iterator, Sequence


def wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """`text` in lines of at most `width`, the first one indented by `first`; a path or a setting stays
    whole, to be copied."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest cell, the last one open; nothing at all without a row."""
    if not rows:
        return
    yield ""
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header) - 1)]
    for row in (header, *rows):
        yield "  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip()
