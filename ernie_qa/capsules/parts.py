"""What a live pipeline's components are: states of layers, hashes of tensors, configuration, kernels; as a
capsule keeps it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ernie_qa.capsules.capsule import Part
from ernie_qa.errors import UnavailableError
from ernie_qa.frozen import Frozen, freeze
from ernie_qa.pipeline import WEIGHTED
from ernie_qa.quantizers import checked_options, find_quantizer, stored_quantization

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.models.find import Model
    from ernie_qa.quantizers import LayerState
    from ernie_qa.recipe import Recipe

_LOCAL = ("compiled",)
"""What a state says of this process alone."""
_THREADS = 8
"""That hash."""


def parts_of(pipe: ErnieImagePipeline, recipe: Recipe, stored: Model) -> dict[str, Part]:
    """Every component that holds weights, quantized as `recipe` says, loaded from `stored`; without calls.

    Call it before the first forward, in which some CPUs repack weights. UnavailableError where a probe cannot
    tell what is quantized here.
    """
    options = checked_options(recipe)
    found = {}
    for name in WEIGHTED:
        module = getattr(pipe, name, None)
        if module is None:
            continue
        quantizer = recipe.components.get(name)
        held = stored_quantization(stored.path / name)
        flag: Mapping[str, Any] = {}
        claimed: Mapping[str, Any] = {}
        states: tuple[LayerState, ...] = ()
        if quantizer is not None:
            live: Any = pipe
            its = find_quantizer(quantizer)
            if problem := its.prove(str(live._execution_device), options[quantizer]):
                raise UnavailableError(f"{name}: {problem}; upgrade ernie_qa, or use the release it knows")
            flag, states = its.config_flag(module), its.describe(module, options[quantizer])
            claimed = {} if held is None else its.stored_flag(held)
        quantized = [state.name for state in states if state.quantized]
        found[name] = Part(
            quantizer=quantizer,
            artifact=held is not None,
            stored=freeze(claimed),
            flag=freeze(flag),
            states=Frozen({state.name: _state(state) for state in states}),
            tensors=Frozen(_hashes(module, quantized)),
        )
    return found


def _state(state: LayerState) -> Frozen:
    values: dict[str, Any] = {
        "quantized": state.quantized,
        "shape": " x ".join(map(str, state.shape)),
        "bits": state.bits,
    }
    values |= {f"weight.{key}": value for key, value in state.weight.items()}
    values |= {f"runtime.{key}": value for key, value in state.runtime.items() if key not in _LOCAL}
    frozen: Frozen = freeze(values)
    return frozen


def _hashes(module: torch.nn.Module, quantized: list[str]) -> dict[str, str]:
    """The sha256 of each tensor of `module`, and one over all of each `quantized` layer."""
    layers = set(quantized)
    places: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in sorted(module.state_dict().items()):
        pieces = name.split(".")
        above = (".".join(pieces[:end]) for end in range(len(pieces) - 1, 0, -1))
        place = next((layer for layer in above if layer in layers), name)
        places.setdefault(place, []).append((name, tensor))
    # copying and hashing let go of the interpreter: 10 GB a core take as long as all else in a check
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(places, pool.map(_hash, places.values()), strict=True))


def _hash(tensors: list[tuple[str, torch.Tensor]]) -> str:
    import torch

    found = hashlib.sha256()
    for name, tensor in tensors:
        plain = tensor.data if isinstance(tensor, torch.nn.Parameter) else tensor
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        values = plain.cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(values.numpy().data)
    return found.hexdigest()


@contextmanager
def counted(pipe: ErnieImagePipeline, parts: dict[str, Part]) -> Iterator[None]:
    """Count the kernels of the quantized `parts` for as long as the context is open, and put the counts into
    them at its end."""
    with ExitStack() as stack:
        watches = {
            name: stack.enter_context(find_quantizer(part.quantizer).watch(getattr(pipe, name)))
            for name, part in parts.items()
            if part.quantizer is not None
        }
        yield
        for name, watch in watches.items():
            calls = {one.name: (one.total, one.quantized) for one in watch.calls()}
            parts[name] = replace(parts[name], calls=Frozen(calls))


def exact_int8(device: str) -> bool:
    """Whether int8 products are exact there, as a GPU's are. Those of a CPU without VNNI saturate: two
    products of 255 x 127 are summed in 16 bits (Intel's VPMADDUBSW), and SDNQ's quantized layers then give
    something else."""
    import torch

    if torch.device(device).type != "cpu":
        return True
    left = torch.full((32, 64), 127, dtype=torch.int8)
    right = torch.full((64, 32), 127, dtype=torch.int8)
    return bool((torch._int_mm(left, right) == 64 * 127 * 127).all())
