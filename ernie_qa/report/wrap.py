"""Text in lines of a width."""

import textwrap


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
