"""Draw a verdict table, read from stdin, as SVG: `ernie-qa gate | python tools/verdict_picture.py`."""

import re
import sys
from html import escape

from ernie_qa.report.terminal import WORDS
from ernie_qa.verdict import Status

COLOURS = {Status.PASS: "#3fb950", Status.FAIL: "#ff7b72", Status.NOT_COMPARABLE: "#d29922"}
CELL = 8.4
"""Width of one letter, in pixels, at a font size of 14."""
LINE = 20


def picture(text: str) -> str:
    """`text` in a dark frame, in a fixed-width font, with the words of a verdict coloured."""
    lines = text.rstrip().splitlines()
    width = CELL * max(map(len, lines)) + 32
    height = LINE * len(lines) + 32
    rows = "\n".join(
        f'<text x="16" y="{16 + LINE * (number + 0.75):g}">{_coloured(escape(line))}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" xml:space="preserve" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="#e6edf3">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n{rows}\n</svg>\n'
    )


def _coloured(line: str) -> str:
    for status, colour in COLOURS.items():
        word = WORDS[status]
        words = rf"(?<!\S)({word}|{word.upper()})(?!\S)"
        line = re.sub(words, rf'<tspan fill="{colour}">\1</tspan>', line)
    return line


if __name__ == "__main__":
    sys.stdout.write(picture(sys.stdin.read()))
