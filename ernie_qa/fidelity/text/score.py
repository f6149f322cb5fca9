"""How well a text was read: characters, words and whole lines, as pure functions.

Before comparing, texts are brought to one form: NFKC, no case, no white space (docs/text.md says why).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

LONGEST = 2.0
"""How many times as long as the expected text a piece of what was read may be and still be taken for it."""

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Kana and Chinese characters."""
_WORD = re.compile(rf"(\s*)({_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern})\S)+)")
"""White space before a word, and the word: a run of anything else, or one character of an unspaced script."""


@dataclass(frozen=True, slots=True)
class Score:
    """One expected text against what was read.

    `read` is the piece that fits it best. `errors` are the characters to insert, delete or replace to make
    one of the other (Levenshtein), at most `length`, the characters that were expected. Of `words` expected
    ones `found` stand in that piece without an error.
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


def score(expected: str, lines: Sequence[str], columns: Sequence[Sequence[int]] = ()) -> Score:
    """How well `expected` can be found in `lines`, what was read in a picture from top to bottom; `columns`
    are the places of lines that stand below each other (`ernie_qa.fidelity.text.columns`).

    It may run over several lines, in the order given or down a column, and share a line with other text. It
    begins and ends with a word of what was read, so that a digit too many is an error and not another text;
    Chinese and Japanese are written without spaces, and there it begins and ends with any character.
    """
    wanted = normalized(expected)
    errors, read = len(wanted), ""
    for order in (range(len(lines)), *columns):
        for piece in _pieces([lines[at] for at in order], LONGEST * len(wanted)):
            # of two that fit as well the first: a later one is as likely somebody else's
            if (distance := _distance(wanted, normalized(piece), errors)) < errors:
                errors, read = distance, piece
    words = [normalized(word) for word in expected.split()]
    seen = Counter(normalized(word) for word in read.split())
    # where nothing separates words, as in Chinese, or an engine saw no space, the text as a whole tells
    found = len(words) if not errors else sum((Counter(words) & seen).values())
    return Score(read, errors, len(wanted), len(words), found)


def _pieces(lines: Sequence[str], longest: float) -> Iterator[str]:
    """Every run of words over the lines that has at most `longest` characters."""
    words: list[str] = []
    for line in lines:
        for blank, word in _WORD.findall(line):
            # the words of two lines are apart, but the characters of an unspaced script are not
            apart = blank or (words and not (_UNSPACED.match(word) and _UNSPACED.search(words[-1])))
            words.append(f" {word}" if apart else word)
    sizes = [len(normalized(word)) for word in words]
    for start in range(len(words)):
        size = 0
        for end in range(start, len(words)):
            size += sizes[end]
            if size > longest and end > start:
                break
            yield "".join(words[start : end + 1]).strip()


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
