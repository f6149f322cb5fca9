"""What quantizers share where they write a component."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module

ONE_FILE = "50GB"
"""Up to how much goes into one file of weights: transformers' own default, and for diffusers too."""


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as the libraries write their configurations: keys sorted, indented by two."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def edit_config(folder: Path, **changes: Any) -> None:
    """Set keys of a stored component's `config.json`, and take out the path that diffusers leaves there."""
    file = folder / "config.json"
    values = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    values.pop("_name_or_path", None)
    write_json(file, values)


def bits_per_weight(layer: Module, weights: int) -> float:
    """Bits of all that `layer`, of so many weights, stores, for each of them."""
    size: int = sum(tensor.numel() * tensor.element_size() for tensor in layer.state_dict().values())
    return 8 * size / weights
