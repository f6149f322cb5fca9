"""A component's quantized layers beside what its quantizer makes of the model's own weights, one by one.

That reads all of BF16's weights, 31 GB at full size. So what was found sound is kept in the cache, by the
bits of the layers' weights and all that decides what they ought to be: the same weights are not compared
again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.broken import ran_out
from ernie_qa.cache_directory import cache_directory, keep, kept
from ernie_qa.fidelity.weights import UNKNOWN, misfits, sum_of_bits, weight_figures
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.frozen import digest
from ernie_qa.models.checkpoint import weights_hash
from ernie_qa.models.unchanged import bare, is_small

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from ernie_qa.quantizers import LayerState, Quantizer

READING = 4
"""Threads that read ahead, and so many tensors at once: at full size 0.4 GB, read as fast as others load."""

FORM = 3
"""Counted up whenever weights are compared otherwise: what was kept before is then compared again."""


def requantized(
    module: Module,
    states: Sequence[LayerState],
    directory: Path,
    device: torch.device,
    quantizer: Quantizer,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare those layers of `module`, all quantized, with safetensors in a directory; on that device.

    Gives `same`, the number of layers that are equal to the bit to what the quantizer makes, `layers` with
    `weight_figures` of the others, `missing`, the names of those whose weight is not in `directory`, `other`,
    the number of those that are no Linear, and `before`: whether all that was found earlier, of the same
    bits. A directory whose weights are small is read every time.
    """
    import torch

    with torch.no_grad():
        known = None
        if not is_small(directory):
            known = _known(module, states, directory, device, quantizer, options)
            if known is not None and _sound(found := kept(known), states):
                return {**found, "before": True}
        found = _compared(module, states, directory, device, quantizer, options)
    if known is not None and _sound(found, states):
        keep(known, found)
    return {**found, "before": False}


def _sound(found: Any, states: Sequence[LayerState]) -> bool:
    """Whether `found`, which a file may hold that somebody edited, says of just these layers that all are as
    they ought to be. A refusal is never kept, nor taken from a file."""
    if not isinstance(found, dict) or found.keys() != {"same", "layers", "missing", "other"}:
        return False
    layers, counts = found["layers"], (found["same"], found["other"])
    if found["missing"] != [] or not isinstance(layers, dict) or any(type(one) is not int for one in counts):
        return False
    for figures in layers.values():
        if not isinstance(figures, dict) or figures.keys() != UNKNOWN.keys():
            return False
        if not all(type(one) in (int, float) and math.isfinite(one) for one in figures.values()):
            return False
    all_of_them = min(counts) >= 0 and sum(counts) + len(layers) == len(states)
    return all_of_them and layers.keys() <= {state.name for state in states} and not any(misfits(layers))


def _known(
    module: Module,
    states: Sequence[LayerState],
    directory: Path,
    device: torch.device,
    quantizer: Quantizer,
    options: Mapping[str, Any],
) -> Path | None:
    """The file that holds what was found of exactly these weights; None where a layer's cannot be had."""
    try:
        ours: dict[str, Any] = {}
        tensors: list[Tensor] = []
        for state in states:
            held, settings = quantizer.held(module.get_submodule(state.name))
            tensors += held.values()
            listed = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in held.items()}
            # what is made afresh has the layer's own groups
            ours[state.name] = (listed, settings, state.shape, state.weight)
        bits = sum_of_bits(tensors, device)
    except (RuntimeError, ValueError, IndexError) as problem:
        if ran_out(problem):
            raise
        return None
    # any other build or machine may make other weights, and a file that was touched may hold others
    files = []
    for file in sorted(directory.glob("*.safetensors")):
        at = file.stat()
        # a copy may bring its time along, but not when it was put there
        files.append((str(file.resolve()), at.st_mtime_ns, at.st_ctime_ns, weights_hash(file)))
    build = take_fingerprint(str(device)).values()
    key = digest([FORM, ours, bits, files, build, quantizer.NAME, options])
    return cache_directory() / "weights" / key[:2] / f"{key}.json"


def _compared(
    module: Module,
    states: Sequence[LayerState],
    directory: Path,
    device: torch.device,
    quantizer: Quantizer,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"same": 0, "layers": {}, "missing": [], "other": 0}
    wanted = {bare(f"{state.name}.weight"): state for state in states}
    with closing(_read(directory, wanted, device)) as read:
        for state, stored in read:
            bf16 = stored.to(device, torch.bfloat16)
            layer = module.get_submodule(state.name)
            try:
                live = quantizer.weight(layer, tuple(bf16.shape), device)
                fresh = None if live is None else quantizer.fresh_weight(layer, bf16, options)
            except (RuntimeError, ValueError, IndexError) as problem:
                if ran_out(problem):
                    raise
                # what it stores does not fit together
                found["layers"][state.name] = dict(UNKNOWN)
                continue
            if live is None or fresh is None:
                found["other"] += 1
            elif torch.equal(live, fresh):
                found["same"] += 1
            else:
                group = state.weight.get("group_size", state.weight.get("blocksize", 0))
                found["layers"][state.name] = weight_figures(live, fresh, bf16, group)
    found["missing"] = sorted(state.name for state in wanted.values())
    return found


def _read(
    directory: Path, wanted: dict[str, LayerState], device: torch.device
) -> Generator[tuple[LayerState, Tensor], None, None]:
    """The `wanted` tensors of all files, which are taken out of it, with their layers."""
    from safetensors import safe_open

    def copied(file: Any, name: str) -> Tensor:
        # it is mapped into memory: what reads the disk is the copy, and a GPU takes pinned memory at once
        tensor: Tensor = file.get_tensor(name)
        return tensor.pin_memory() if device.type == "cuda" else tensor.clone()

    for path in sorted(directory.glob("*.safetensors")):
        # the threads end before what they read is closed
        with safe_open(path, framework="pt") as file, ThreadPoolExecutor(READING) as pool:
            names = iter([name for name in file.keys() if bare(name) in wanted])  # noqa: SIM118
            begun: list[tuple[str, Future[Tensor]]] = []
            while True:
                ahead = islice(names, READING - len(begun))
                begun += [(name, pool.submit(copied, file, name)) for name in ahead]
                if not begun:
                    break
                name, reading = begun.pop(0)
                yield wanted.pop(bare(name)), reading.result()
