"""Access tokens, passwords and home directories taken out of texts that are printed or kept."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|(^|_)KEY$", re.IGNORECASE)
"""Names of settings that hold what nobody else may know."""
_SHORTEST = 8
"""Characters of a secret; a shorter value is a switch, as in TOKENIZERS_PARALLELISM=true."""
# the hub's tokens, https://huggingface.co/docs/hub/security-tokens
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#'\"]+@")
# a library may show a header as a line, as a dictionary's item, as JSON in a text or as a pair of bytes
_HEADER = re.compile(
    r"(authorization\\?['\"]?\s*[:=,]\s*b?(\\?['\"]))(?:(?!\2)[^\n])*|(authorization\s*[:=]\s*)(?!b?\\?['\"])[^\n]+",
    re.IGNORECASE,
)
# whoever has a signed URL, as the hub redirects to, may read what it names
_SIGNED = re.compile(
    r"((?:[?&#]|\\u0026|&amp;)"
    r"(?:[\w-]{0,64}(?:token|secret|password|signature|credential|api_?key)[\w-]{0,64}|sig)=)[^&\s'\"#\\]+",
    re.IGNORECASE,
)
_HOMES = re.compile(r"/(home|Users)/[^/\s:'\"]+")
# torch/_inductor/runtime/cache_dir_utils.py
_KERNELS = re.compile(r"(torchinductor_)[^/\s:'\"]+")


def without_secrets(text: str) -> str:
    """`text` without the hub's tokens, the values of settings that are called TOKEN, SECRET, PASSWORD or KEY,
    what stands before the @ of a URL, what signs one, and what an Authorization header says."""
    return _without(text, _secrets())


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "<token>")
    text = _CREDENTIALS.sub("", _TOKEN.sub("<token>", text))
    return _SIGNED.sub(r"\1<token>", _HEADER.sub(r"\1\3<token>", text))


def without_homes(text: str) -> str:
    """`text` with `~` for this user's home directory, and for others', and without the user's name in that of
    torch's compiled kernels."""
    for home in _own_homes():
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    return _KERNELS.sub(r"\1", _HOMES.sub("~", text))


@cache
def _homes_of(home: Path) -> tuple[str, ...]:
    # libraries say where a file really is, and a home may be a link
    return tuple(sorted({str(one) for one in (home, home.resolve())} - {"/"}, key=len, reverse=True))


def _own_homes() -> tuple[str, ...]:
    try:
        return _homes_of(Path.home())
    except RuntimeError:
        # no setting names one, and the system does not know this user
        return ()


def kept(text: str) -> str:
    """`text` as it may stand in a record: without secrets and home directories."""
    return without_homes(without_secrets(text))


def redacted(value: Any, clean: Callable[[str], str] | None = None) -> Any:
    """A copy of JSON values with every text in it cleaned, as `kept` does or by `clean`; keys are this
    package's own words."""
    if clean is None:
        # names of layers come again and again, and looking for secrets takes longer than removing them
        secrets = _secrets()
        clean = cache(lambda text: without_homes(_without(text, secrets)))
    match value:
        case str():
            return clean(value)
        case Mapping():
            return {key: redacted(item, clean) for key, item in value.items()}
        case list() | tuple():
            return [redacted(item, clean) for item in value]
    return value


def _secrets() -> list[str]:
    """What nobody else may know, as libraries may say it, the longest first: one may stand in another."""
    found = {value for name, value in os.environ.items() if _SECRET.search(name)}
    # whoever never loaded the hub's library never read the token that it keeps in a file
    if hub := sys.modules.get("huggingface_hub"):
        found |= {token for token in (hub.get_token(),) if token}
    said = {form for value in found for form in _forms(value) if len(form) >= _SHORTEST}
    return sorted(said, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """A secret itself, each of its lines, which may be all that is told, and how a URL, Python and JSON
    write them."""
    for part in {value.strip(), *map(str.strip, value.splitlines())}:
        yield from (part, quote(part, safe=""), quote_plus(part), repr(part)[1:-1], json.dumps(part)[1:-1])
