"""Access tokens, passwords and home directories taken out of texts that are printed or kept."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|(^|_)KEY$", re.IGNORECASE)
"""Names of settings that hold what nobody else may know."""
_SHORTEST = 8
"""Characters of a secret; a shorter value is a switch, as in TOKENIZERS_PARALLELISM=true."""
# the hub's tokens, https://huggingface.co/docs/hub/security-tokens
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#'\"]+@")
# a library may show a header as a line, as a dictionary's item or as a pair of bytes
_HEADER = re.compile(
    r"(authorization(?:['\"]?\s*[:=]\s*['\"]?|['\"]\s*,\s*b?['\"]))(?:(?:bearer|basic|token)\s+)?[^\s'\",]+",
    re.IGNORECASE,
)
# whoever has a signed URL, as the hub redirects to, may read what it names
_SIGNED = re.compile(
    r"([?&][\w-]*(?:token|secret|password|signature|credential|api_?key)[\w-]*=)[^&\s'\"#]+", re.IGNORECASE
)
_HOMES = re.compile(r"/(home|Users)/[^/\s:'\"]+")


def without_secrets(text: str) -> str:
    """`text` without the hub's tokens, the values of settings that are called TOKEN, SECRET, PASSWORD or KEY,
    what stands before the @ of a URL, what signs one, and what an Authorization header says."""
    return _without(text, _secrets())


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "<token>")
    text = _CREDENTIALS.sub("", _TOKEN.sub("<token>", text))
    return _SIGNED.sub(r"\1<token>", _HEADER.sub(r"\1<token>", text))


def without_homes(text: str) -> str:
    """`text` with `~` for this user's home directory, and for others'."""
    home = str(Path.home())
    if home != "/":
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    return _HOMES.sub("~", text)


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
    """What nobody else may know, the longest first: one may stand in another."""
    found = {value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _SHORTEST}
    # whoever never loaded the hub's library never read the token that it keeps in a file
    if hub := sys.modules.get("huggingface_hub"):
        found |= {token for token in (hub.get_token(),) if token}
    return sorted(found, key=len, reverse=True)
