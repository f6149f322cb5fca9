"""How well a text was read: characters, words and whole lines, as pure functions.

Before comparing, texts are brought to one form: NFKC, no case, no white space (docs/text.md says why).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

LONGEST = 2.0
"""How many times as long as the expected text a piece of what was read may be and still be taken for it."""


@dataclass(frozen=True, slots=True)
class Score:
    """One expected text against what was read.

    `read` is the piece that fits it best. `errors` are the characters to insert, delete or replace to make
    one of the other (Levenshtein), at most `length`, the characters that were expected. Of `words` expected
    ones `found` were read without an error, somewhere in the picture.
    """

    read: str
    errors: int
    length: int
    words: int
    found: int


def normalized(text: str) -> str:
    """`text` in the form in which it is compared."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(folded.split())


def score(expected: str, lines: Sequence[str]) -> Score:
    """How well `expected` can be found in `lines`, what was read in a picture from top to bottom.

    It may run over several lines, and share a line with other text; it begins and ends with a word of what
    was read, so that a digit too many is an error and not somebody else's.
    """
    wanted = normalized(expected)
    errors, read = len(wanted), ""
    for piece in _pieces(lines, LONGEST * len(wanted)):
        # of two that fit as well the first: a later one is as likely somebody else's
        if (distance := _distance(wanted, normalized(piece), errors)) < errors:
            errors, read = distance, piece
    words = [normalized(word) for word in expected.split()]
    seen = Counter(normalized(word) for line in lines for word in line.split())
    # where nothing separates words, as in Chinese, or an engine saw no space, the text as a whole tells
    found = len(words) if not errors else sum((Counter(words) & seen).values())
    return Score(read, errors, len(wanted), len(words), found)


def _pieces(lines: Sequence[str], longest: float) -> Iterator[str]:
    """Every run of words over the lines that has at most `longest` characters."""
    words = [word for line in lines for word in line.split()]
    sizes = [len(normalized(word)) for word in words]
    for start in range(len(words)):
        size = 0
        for end in range(start, len(words)):
            size += sizes[end]
            if size > longest and end > start:
                break
            yield " ".join(words[start : end + 1])


def _distance(one: str, other: str, enough: int) -> int:
    """Levenshtein's distance; `enough` where it is that much or more."""
    from rapidfuzz.distance import Levenshtein

    if abs(len(one) - len(other)) >= enough:
        return enough
    return min(enough, Levenshtein.distance(one, other, score_cutoff=enough))


def marked(expected: str, read: str) -> str:
    """`read` with what differs from `expected` in brackets: `$6.[8]0`, `4[1]2`, and `wo[-r]d` where an r is
    missing. Case, white space and NFKC forms are no difference."""
    # a letter and its accent are one character
    read = unicodedata.normalize("NFC", read)
    forms = [normalized(character) for character in read]
    # the place in `read` that each character of the normalized text came from
    places = [place for place, form in enumerate(forms) for _ in form]
    wanted, found = normalized(expected), "".join(forms)
    told, at = "", 0
    edits = SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes()
    for kind, start, end, first, last in edits:
        if kind == "equal":
            continue
        begins = places[first] if first < len(places) else len(read)
        ends = places[last - 1] + 1 if last > first else begins
        lost = f"-{wanted[start:end]}" if kind == "delete" else read[begins:ends]
        told, at = f"{told}{read[at:begins]}[{lost}]", ends
    return told + read[at:]
