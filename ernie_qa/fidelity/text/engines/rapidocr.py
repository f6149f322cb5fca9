"""RapidOCR: PP-OCR's networks, which its wheel ships, under ONNX Runtime. It finds the lines of any script,
and reads Latin and Chinese; it knows no Cyrillic letter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import UnavailableError
from ernie_qa.fingerprint import version_of

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels
    from ernie_qa.fidelity.text.columns import Box

NAME = "rapidocr"
ORDER = 1
INSTALL = "pip install 'ernie-qa[text]'"

_OPENCV = ("opencv-python", "opencv-python-headless")
THREADS = 4
"""At most: a line is small work, and more threads wait for each other."""


def version() -> str:
    """The wheels that hold the networks, run them, and cut and resize lines."""
    _engine()
    packages = ("rapidocr", "onnxruntime", *_OPENCV)
    return ", ".join(f"{name} {found}" for name in packages if (found := version_of(name)))


def alphabet() -> frozenset[str]:
    """What PP-OCR's recognizer tells apart, as its network lists it."""
    engine = _engine()
    if engine.text_rec is None:
        # it is loaded with the first line that is read
        _text(engine, _blank())
    return frozenset(engine.text_rec.session.get_character_list())


def read(lines: Sequence[Pixels]) -> list[str]:
    """The text of each picture of one line."""
    engine = _engine()
    return [_text(engine, line) for line in lines]


def find_lines(picture: Pixels) -> list[tuple[Box, Pixels]]:
    """Every line of text in uint8 RGB [H, W, 3], with its box, cut out and turned upright, row by row."""
    from rapidocr.utils.process_img import get_rotate_crop_image

    corners = _engine()(_bgr(picture), use_det=True, use_cls=False, use_rec=False).boxes
    found = []
    for box in corners if corners is not None else ():
        (left, top), (right, bottom) = box.min(axis=0).tolist(), box.max(axis=0).tolist()
        found.append(((left, top, right, bottom), get_rotate_crop_image(picture, box)))
    return found


def _text(engine: Any, line: Pixels) -> str:
    found = engine(_bgr(line), use_det=False, use_cls=False, use_rec=True).txts
    return str(found[0]) if found else ""


def _bgr(picture: Pixels) -> Pixels:
    return picture[:, :, ::-1]


def _blank() -> Pixels:
    import numpy as np

    return np.full((48, 96, 3), 255, np.uint8)


@cache
def _engine() -> Any:
    try:
        from rapidocr import RapidOCR

        # it looks for that only with the first line
        import_module("onnxruntime")
    except ImportError as missing:
        raise UnavailableError(f"{NAME} cannot be imported ({missing}): {INSTALL}") from missing
    threads = min(THREADS, os.cpu_count() or 1)
    return RapidOCR(
        params={
            "Global.log_level": "error",
            # what is hard to read is read badly, not left out
            "Global.text_score": 0.0,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
    )
