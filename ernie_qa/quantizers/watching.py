"""Counting what layers run: shared by the quantizers, whatever their kernels are called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ernie_qa.quantizers.layers import Calls

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

MARK = "ernie_qa::layer::"
"""Prefix of the ranges that layers get in a profile."""


@dataclass(frozen=True, slots=True)
class Call:
    """The input of one call: the rows of the matrix product, and whether it is one token of a sequence."""

    rows: int
    decoding: bool


@dataclass(slots=True)
class _Frame:
    name: str
    call: Call
    entered: int = 0
    span: Any = None


@dataclass(slots=True)
class _Tally:
    total: int = 0
    quantized: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    replayed: int = -1
    ops: Counter[str] = field(default_factory=Counter)


class Watch:
    """Counts what the calls of `layers` in `component` ran.

    `reason` names why a call of a layer did not enter the quantizer's kernel function; `kernel_ops` are the
    names under which torch's dispatcher knows the kernels; `kernel_functions` see `watching`.
    """

    def __init__(
        self,
        component: Module,
        layers: Mapping[str, Module],
        reason: Callable[[str, Module, Call], str],
        kernel_ops: frozenset[str],
        kernel_functions: Sequence[tuple[Any, str]],
    ) -> None:
        self._installed = ExitStack()
        self._kernel_functions = kernel_functions
        self._component = component
        self._layers = layers
        self._reason = reason
        self._kernel_ops = kernel_ops
        self._tallies = {name: _Tally() for name in layers}
        self._running: list[_Frame] = []
        self._largest: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._elements = 0
        self._replaying = False

    def calls(self) -> tuple[Calls, ...]:
        """The counts so far, for every watched layer, called or not."""
        return tuple(
            Calls(name, tally.total, tally.quantized, dict(tally.fallbacks), tally.replayed, dict(tally.ops))
            for name, tally in self._tallies.items()
        )

    def replay(self) -> bool:
        """Run the component's largest call once more under torch.profiler; False if it saw none to repeat.

        The counting of calls trusts that the quantizer's kernel function runs the kernel. This asks torch's
        dispatcher instead, once, layer by layer, and so outside all timing.
        """
        import torch
        from torch.profiler import ProfilerActivity, profile

        if self._largest is None:
            return False
        args, kwargs = self._largest
        self._replaying = True
        try:
            # the dispatcher's side is enough: ops carry their names there on CUDA too
            with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler:
                self._component(*args, **kwargs)
        finally:
            self._replaying = False
        for layer, op in _dispatched(profiler.profiler.kineto_results.events()):
            if op in self._kernel_ops:
                self._tallies[layer].ops[op] += 1
        return True

    def kernel_entered(self) -> None:
        """The quantizer's kernel function was called: by the layer that is running, if one is."""
        if self._running:
            self._running[-1].entered += 1

    def _component_starts(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # a call with a cache changes that cache: running it again would not be the same call
        if self._replaying or kwargs.get("past_key_values") is not None:
            return
        # the last call of a text encoder is the negative prompt: one token, too few rows for a kernel
        if (elements := _elements(args, kwargs)) >= self._elements:
            self._largest, self._elements = (args, kwargs), elements

    def _layer_starts(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frame = _Frame(name, _call(args[0] if args else next(iter(kwargs.values()))))
        self._running.append(frame)
        if self._replaying:
            from torch.profiler import record_function

            frame.span = record_function(MARK + name)
            frame.span.__enter__()

    def _layer_ends(self, name: str, layer: Module) -> None:
        frame = self._running.pop()
        tally = self._tallies[name]
        if frame.span is not None:
            frame.span.__exit__(None, None, None)
            tally.replayed = max(tally.replayed, 0) + (frame.entered > 0)
            return
        tally.total += 1
        if frame.entered:
            tally.quantized += 1
        else:
            tally.fallbacks[self._reason(name, layer, frame.call)] += 1

    def off(self) -> None:
        """Take every hook and wrapper away; the counts stay."""
        self._installed.close()

    def on(self) -> None:
        """Put the hooks and wrappers in place, once."""
        self.off()
        stack = self._installed
        for owner, name in self._kernel_functions:
            original = getattr(owner, name)
            setattr(owner, name, _announcing(original, self.kernel_entered))
            stack.callback(setattr, owner, name, original)
        hook = self._component.register_forward_pre_hook(self._component_starts, with_kwargs=True)
        stack.callback(hook.remove)
        for name, layer in self._layers.items():
            starts = layer.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: self._layer_starts(name, args, kwargs), with_kwargs=True
            )
            stack.callback(starts.remove)
            # also where forward raises, or the next call would be booked on this layer
            ends = layer.register_forward_hook(
                lambda layer, *_, name=name: self._layer_ends(name, layer), always_call=True
            )
            stack.callback(ends.remove)


@contextmanager
def watching(
    component: Module,
    layers: Mapping[str, Module],
    reason: Callable[[str, Module, Call], str],
    kernel_ops: frozenset[str],
    kernel_functions: Sequence[tuple[Any, str]],
) -> Iterator[Watch]:
    """Watch `layers` of `component`; all hooks and wrappers are gone when the context closes.

    `kernel_functions` are the places (a module and the name of a global in it) where the layers' forward
    looks up the function that runs the quantized kernel.
    """
    watch = Watch(component, layers, reason, kernel_ops, kernel_functions)
    try:
        watch.on()
        yield watch
    finally:
        watch.off()


def tell_apart(watch: Watch, pair: Module, rows: Tensor) -> str | None:
    """Run `pair` on `rows` and say what is wrong with what `watch` saw; None if nothing.

    The first layer of `pair` is known to run quantized, the second not; both take [rows, features].
    """
    import torch

    with torch.no_grad():
        pair(rows)
    watch.replay()
    runs, rests = watch.calls()
    if runs.total != 1 or rests.total != 1:
        return f"two layers were called once each and {runs.total} and {rests.total} calls were counted"
    if not runs.quantized:
        return f"a layer set up to run quantized was counted as falling back ({', '.join(runs.fallbacks)})"
    if not runs.ops:
        return "a layer set up to run quantized dispatched none of the kernels that are known by name"
    if rests.quantized or rests.ops:
        return "a layer set up to dequantize was counted as running quantized"
    return None


def own_forward(layer: Any, forward: Any) -> bool:
    """Whether `layer` runs another forward than its class's, or its class another than `forward`."""
    # accelerate's offloading hooks put their own forward on a layer and call the old one
    hooked = hasattr(layer, "_hf_hook")
    return ("forward" in vars(layer) and not hooked) or type(layer).forward is not forward


def _announcing(function: Callable[..., Any], announce: Callable[[], None]) -> Callable[..., Any]:
    def announced(*args: Any, **kwargs: Any) -> Any:
        announce()
        return function(*args, **kwargs)

    return announced


def _elements(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many values the first tensor among the arguments of a call has; 0 if none is a tensor."""
    import torch

    return next((one.numel() for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)), 0)


def _call(value: Tensor) -> Call:
    features = value.shape[-1] if value.ndim else 1
    return Call(rows=value.numel() // max(features, 1), decoding=value.ndim == 3 and value.shape[-2] == 1)


def _dispatched(events: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Layer and op, for every op that a layer's range in a profile holds.

    Read from the profiler's raw events: its tree of them in Python takes longer to build than the forward.
    """
    ranges: dict[int, list[tuple[int, str]]] = defaultdict(list)
    # of two that begin together the outer one ends later
    for event in sorted(events, key=lambda one: (one.start_ns(), -one.end_ns())):
        open_ranges, name = ranges[event.start_thread_id()], event.name()
        while open_ranges and open_ranges[-1][0] <= event.start_ns():
            open_ranges.pop()
        if name.startswith(MARK):
            open_ranges.append((event.end_ns(), name.removeprefix(MARK)))
        elif open_ranges:
            yield open_ranges[-1][1], name
