"""Keeping back what libraries write while they load and compute."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ernie_qa.errors import ErnieQAError


@contextmanager
def hushed() -> Iterator[None]:
    """Keep back what libraries write to stderr: bars and warnings, dozens of lines an arm.

    Some of it comes from C++, so the file descriptor is turned away. It is told after all where an error ends
    the block that ernie_qa did not foresee.
    """
    told = False
    with (
        tempfile.TemporaryFile() as log,
        os.fdopen(os.dup(2), "wb") as stderr,
        warnings.catch_warnings(action="ignore"),
        _untraced(),
    ):
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        try:
            yield
            told = True
        except (ErnieQAError, KeyboardInterrupt):
            told = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)
            if not told:
                log.seek(0)
                shutil.copyfileobj(log, stderr)


@contextmanager
def _untraced() -> Iterator[None]:
    """Keep other people's handlers off torch's trace of its compiler: pytest hangs one on every logger that
    exists when a test begins, and torch then writes out every graph that it compiles or finds kept."""
    trace = logging.getLogger("torch.__trace")
    handlers = trace.handlers
    trace.handlers = [one for one in handlers if type(one).__module__.startswith("torch.")]
    try:
        yield
    finally:
        trace.handlers = handlers
