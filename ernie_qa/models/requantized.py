"""A component's quantized layers beside what its quantizer makes of the model's own weights, one by one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.fidelity.weights import UNKNOWN, weight_figures
from ernie_qa.models.unchanged import bare

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

READING = 4
"""Threads that read ahead, and so many tensors at once: at full size 0.4 GB, read as fast as others load."""

Requantize = Callable[["Module", "Tensor"], "tuple[Tensor, Tensor] | None"]


def requantized(
    module: Module, groups: Mapping[str, int], directory: Path, place: torch.device, requantize: Requantize
) -> dict[str, Any]:
    """Compare layers of `module`, name -> how many weights share a scale, with safetensors in a directory.

    `requantize` gives a layer's weight and the fresh one, see `Quantizer.weights`; it computes on `place`.
    Gives `same`, the number of layers whose two are equal to the bit, `layers` with `weight_figures` of the
    others, `missing`, the names of those whose weight is not in `directory`, and `other`, the number of those
    that are no Linear.
    """
    import torch

    found: dict[str, Any] = {"same": 0, "layers": {}, "missing": [], "other": 0}
    wanted = {bare(f"{name}.weight"): name for name in groups}
    with torch.no_grad(), closing(_read(directory, wanted)) as read:
        for name, stored in read:
            bf16 = stored.to(place, torch.bfloat16)
            try:
                pair = requantize(module.get_submodule(name), bf16)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError):
                # what it stores does not fit together
                found["layers"][name] = dict(UNKNOWN)
                continue
            if pair is None:
                found["other"] += 1
            elif torch.equal(*pair):
                found["same"] += 1
            else:
                found["layers"][name] = weight_figures(*pair, bf16, groups[name])
    found["missing"] = sorted(wanted.values())
    return found


def _read(directory: Path, wanted: dict[str, str]) -> Generator[tuple[str, Tensor], None, None]:
    """The `wanted` tensors of all files, which are taken out of it, by the layer's name."""
    from safetensors import safe_open

    for path in sorted(directory.glob("*.safetensors")):
        # the threads end before what they read is closed
        with safe_open(path, framework="pt") as file, ThreadPoolExecutor(READING) as pool:
            names = iter([name for name in file.keys() if bare(name) in wanted])  # noqa: SIM118
            begun: list[tuple[str, Future[Tensor]]] = []
            while True:
                ahead = islice(names, READING - len(begun))
                begun += [(name, pool.submit(_copied, file, name)) for name in ahead]
                if not begun:
                    break
                name, reading = begun.pop(0)
                yield wanted.pop(bare(name)), reading.result()


def _copied(file: Any, name: str) -> Tensor:
    # it is mapped into memory: what reads the disk is the copy
    tensor: Tensor = file.get_tensor(name).clone()
    return tensor
