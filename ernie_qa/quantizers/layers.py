"""What is known of a layer: its state, and what its calls ran. Plain values, readable without torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ernie_qa.frozen import digest


@dataclass(frozen=True, slots=True)
class LayerState:
    """What one layer is, read from the layer itself; JSON values only.

    name        its place in the component, as `layers.0.mlp.up_proj`
    shape       of the weight before quantization
    quantized   whether the stored weight is
    kernel      whether the recipe wants its calls to run the quantized kernel
    excluded    why the quantizer leaves it alone, or ought to; empty where it ought to be quantized
    bits        of one stored weight
    bytes       of the stored weight, without its scales
    side_bytes  of scales, zero points and tables
    unlisted    how many of all these bytes `Module.parameters()` does not show
    weight      what is stored: type, group, scales
    runtime     how a call is set up to run
    expected    what the recipe asks of the keys in `weight` and `runtime`
    """

    name: str
    shape: tuple[int, ...]
    quantized: bool
    kernel: bool
    excluded: str
    bits: int
    bytes: int
    side_bytes: int
    unlisted: int
    weight: Mapping[str, Any]
    runtime: Mapping[str, Any]
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Calls:
    """What the calls of one layer ran.

    Of `total` calls, `quantized` went through the quantizer's own kernel function; the others are counted by
    reason in `fallbacks`: `few_rows`, `decoding`, `skipped`, `shape`, `forward` (another function stands
    where the quantizer's stood), `dequantized` (set up to dequantize) or `no_kernel` (set up to run the
    kernel, and did not). `replayed` and `ops` are from one more call under torch.profiler: how often the
    kernel function was entered there, and the kernels that torch really dispatched; -1 and nothing where
    there was no such call.
    """

    name: str
    total: int
    quantized: int
    fallbacks: Mapping[str, int]
    replayed: int
    ops: Mapping[str, int]


Layer = TypeVar("Layer", LayerState, Calls)


def grouped(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """`layers` as JSON values; those that differ in nothing but their name share an entry."""
    groups: dict[str, dict[str, Any]] = {}
    for layer in layers:
        fields = asdict(layer)
        name = fields.pop("name")
        groups.setdefault(digest(fields), {"names": [], **fields})["names"].append(name)
    return list(groups.values())


def ungrouped(kind: type[Layer], groups: Iterable[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers of that `kind` that `grouped` put together, in order of their groups."""
    return tuple(
        kind(name=name, **{key: value for key, value in group.items() if key != "names"})
        for group in groups
        for name in group["names"]
    )


def dtype_name(dtype: object) -> str:
    """A torch dtype's name without its package: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def listed(faults: Sequence[str], shown: int = 3) -> str:
    """The first few of `faults`, and how many more there are."""
    more = f" and {len(faults) - shown} more" if len(faults) > shown else ""
    return ", ".join(faults[:shown]) + more


def unquantized(states: Sequence[LayerState]) -> list[str]:
    """The layers in full precision that nothing excludes; all layers where none is quantized."""
    found = [state.name for state in states if not state.quantized and not state.excluded]
    if not any(state.quantized for state in states):
        return found or [state.name for state in states] or ["it has no layers"]
    return found


def weight_faults(states: Iterable[LayerState]) -> list[str]:
    """What quantized layers store that the recipe does not ask for."""
    return [fault for state in states if state.quantized for fault in _differences(state, state.weight)]


def runtime_faults(states: Iterable[LayerState]) -> list[str]:
    """How quantized layers are set up to run where the recipe asks for something else."""
    return [fault for state in states if state.quantized for fault in _differences(state, state.runtime)]


def byte_faults(states: Iterable[LayerState]) -> list[str]:
    """The quantized layers whose stored weight differs from what its bits make by over 1 % and 64 bytes."""
    faults = []
    for state in states:
        count = 1
        for size in state.shape:
            count *= size
        bits = count * state.bits
        if state.quantized and abs(8 * state.bytes - bits) > max(bits / 100, 512):
            faults.append(f"{state.name} ({state.bytes} B for {count} weights of {state.bits} bits)")
    return faults


def _differences(state: LayerState, found: Mapping[str, Any]) -> Iterator[str]:
    wrong = [
        f"{key} {found[key]}, not {want}"
        for key, want in state.expected.items()
        if key in found and found[key] != want
    ]
    if wrong:
        yield f"{state.name} ({'; '.join(wrong)})"
