"""The frame that every page has: one look, and one policy of what may run in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_OWN = "ernie_qa.report.page"


def page(name: str, package: str = _OWN, script: str = "") -> Callable[..., str]:
    """What makes a page of the template `name` in `package`, which extends frame.html, from its values.

    `script` is a file beside the frame; without one no script runs in the page. Every text is escaped.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_OWN)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, code = _asset("style.css"), _asset(script) if script else ""
    about: Mapping[str, Any] = {
        "style": style,
        "style_hash": _source(style),
        "script": code,
        "script_hash": _source(code) if code else "'none'",
        "version": version("ernie-qa"),
    }
    return partial(templates.get_template(name).render, about)


def _asset(name: str) -> str:
    return (files(_OWN) / "templates" / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """`text` as a Content-Security-Policy names it: nothing else may run in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
