"""Rung 2: does it really run quantized?

Four levels, each of which can say yes where the next says no: the component's configuration, every layer's
own state, the stored weights, and the kernels counted while the suite was drawn. See docs/activation.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.accepted import Tracked
from ernie_qa.parts import the_same
from ernie_qa.quantizers.layers import (
    Calls,
    LayerState,
    byte_faults,
    grouped,
    listed,
    runtime_faults,
    ungrouped,
    unquantized,
    weight_faults,
)
from ernie_qa.verdict import Check, Status
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.baseline.pictures import Pictures
    from ernie_qa.drawing import Drawn
    from ernie_qa.quantizers import Watching
    from ernie_qa.recipe import Recipe
    from ernie_qa.record import Record
    from ernie_qa.rungs import Arm, Evidence, Figures

NAME = "activation"
ORDER = 2
LIMITS: Mapping[str, str] = {}

LEVELS = ("flag", "layers", "weights", "kernels")
_PROMPT_ENHANCER = "pe"


def measure(arm: Arm) -> Generator[Figures | None, tuple[Drawn, ...], Figures]:
    """Read every quantized component's state, then count what its layers run while the suite is drawn.

    At the end each component repeats its largest call under torch.profiler. A prompt enhancer of which no
    call can be repeated is exercised once instead; that counts only where the suite never called it.

    Figures: `components` by name: quantizer, `missing` or `probe` (why nothing can be said) or flag,
    expected_flag, layers and calls, which are not there before the suite was drawn; `exercised` where the
    calls are of the exercise.
    """
    pipe: Any = arm.pipe
    components: dict[str, dict[str, Any]] = {}
    watches: dict[str, Watching] = {}
    with ExitStack() as watching:
        for component, name in arm.recipe.components.items():
            module = getattr(pipe, component, None)
            figures: dict[str, Any] = {"quantizer": name, "missing": module is None, "probe": None}
            components[component] = figures
            if module is None:
                continue
            seen = arm.seen(component)
            figures["probe"] = seen.probe
            if seen.probe is None:
                figures["flag"] = dict(seen.quantizer.config_flag(module))
                figures["expected_flag"] = dict(seen.quantizer.expected_flag(seen.options))
                figures["layers"] = grouped(seen.states)
                watches[component] = watching.enter_context(seen.quantizer.watch(module))
        arm.watches.extend(watches.values())
        yield {"components": components}
        for component, watch in watches.items():
            drawn = watch.calls()
            exercisable = component == _PROMPT_ENHANCER and getattr(pipe, "pe_tokenizer", None) is not None
            if not watch.replay() and exercisable:
                from ernie_qa.pipeline import exercise_prompt_enhancer

                exercise_prompt_enhancer(pipe, (case.prompt for case in arm.suite.cases))
                watch.replay()
                if not any(one.total for one in drawn):
                    components[component]["exercised"] = True
            components[component]["calls"] = grouped(_of_the_suite(drawn, watch.calls()))
    return {"components": components}


def _of_the_suite(drawn: Sequence[Calls], repeated: Sequence[Calls]) -> Sequence[Calls]:
    """The counts of the drawing with what its repetition dispatched; those of the exercise where the suite
    never called the component."""
    if not any(one.total for one in drawn):
        return repeated
    after = {one.name: one for one in repeated}
    return [replace(one, replayed=after[one.name].replayed, ops=after[one.name].ops) for one in drawn]


def join(parts: Sequence[Figures], reference: Record | None) -> Figures:
    """What the layers are, which is the same in all parts, and the calls of all together."""
    still = [
        {name: {key: one[key] for key in one if key != "calls"} for name, one in part["components"].items()}
        for part in parts
    ]
    components = dict(the_same(NAME, still))
    for name in components:
        if all("calls" in part["components"][name] for part in parts):
            calls = [ungrouped(Calls, part["components"][name]["calls"]) for part in parts]
            # what was called for want of a call in the suite was called in every part
            once = components[name].get("exercised", False)
            components[name] = components[name] | {"calls": grouped(calls[0] if once else _summed(calls))}
    return {"components": components}


def _summed(parts: Sequence[Sequence[Calls]]) -> Iterator[Calls]:
    """The calls of every layer in all parts, with what a repetition dispatched: one that entered the kernel
    function and dispatched no kernel, if there is one, or else the one that entered it most often."""
    others = [{one.name: one for one in part} for part in parts]
    for name in dict.fromkeys(one.name for part in parts for one in part):
        found = [part[name] for part in others if name in part]
        faulty = (one for one in found if one.replayed > 0 and not one.ops)
        repeated = next(faulty, max(found, key=lambda one: one.replayed))
        yield replace(
            repeated,
            total=sum(one.total for one in found),
            quantized=sum(one.quantized for one in found),
            fallbacks=dict(sum((Counter(one.fallbacks) for one in found), Counter())),
        )


def judge(evidence: Evidence) -> Iterator[Check]:
    """One check a level for each component that the recipe quantizes."""
    recipe = evidence.recipe
    if not recipe.components:
        message = f"recipe {recipe.name} quantizes nothing"
        yield Check(f"{NAME}.kernels", NAME, Status.NOT_APPLICABLE, message)
    recorded = evidence.record.figures.get(NAME, {}).get("components", {})
    for component, quantizer in recipe.components.items():
        figures = recorded.get(component)
        if figures is None or figures["quantizer"] != quantizer:
            message = f"{component}: the record does not say what ran: observe recipe {recipe.name} again"
            yield from _all_levels(component, Status.NOT_COMPARABLE, message)
        elif figures["missing"]:
            message = f"{component}: recipe {recipe.name} quantizes it and the pipeline has none"
            yield from _all_levels(component, Status.FAIL, message)
        elif figures["probe"] is not None:
            message = f"{component}: {figures['probe']}; upgrade ernie_qa, or use the release it knows"
            yield from _all_levels(component, Status.NOT_COMPARABLE, message)
        else:
            states = ungrouped(LayerState, figures["layers"])
            yield _flag(component, figures)
            yield _layers(component, states)
            yield _weights(component, states)
            if "calls" in figures:
                calls = ungrouped(Calls, figures["calls"])
                yield _kernels(component, states, calls, recipe, evidence.record.suite.name)
            else:
                message = f"{component}: no picture was drawn, so no kernel was counted"
                yield Check(f"{NAME}.kernels", NAME, Status.NOT_COMPARABLE, message, component=component)


def _all_levels(component: str, status: Status, message: str) -> Iterator[Check]:
    for level in LEVELS:
        yield Check(f"{NAME}.{level}", NAME, status, message, component=component)


def _check(level: str, component: str, fault: str, passed: str) -> Check:
    status = Status.FAIL if fault else Status.PASS
    return Check(f"{NAME}.{level}", NAME, status, f"{component}: {fault or passed}", component=component)


def _flag(component: str, figures: Mapping[str, Any]) -> Check:
    found, wanted = figures["flag"], figures["expected_flag"]
    wrong = [f"{key}={found.get(key)}, not {want}" for key, want in wanted.items() if found.get(key) != want]
    fault = f"its configuration says {', '.join(wrong)}: look at how it was loaded" if wrong else ""
    if not found:
        fault = "it has no quantization configuration: look at how it was loaded"
    return _check("flag", component, fault, ", ".join(f"{key}={value}" for key, value in found.items()))


def _layers(component: str, states: Sequence[LayerState]) -> Check:
    plain, wrong = unquantized(states), runtime_faults(states)
    count = sum(state.quantized for state in states)
    if not count:
        fault = f"no layer is quantized ({listed(plain)}): look at how it was loaded"
    elif plain:
        ought = counted(
            len(plain), "layer ought to be quantized and is", "layers ought to be quantized and are"
        )
        fault = f"{ought} not: {listed(plain)}: "
        fault += "look for code that dequantized or replaced them"
    elif wrong:
        fault = (
            f"{len(wrong)} of {count} quantized layers are not set up as the recipe says: {listed(wrong)}: "
        )
        fault += "look for code that switched them after loading"
    else:
        fault = ""
    excluded = sum(bool(state.excluded) for state in states if not state.quantized)
    return _check(
        "layers",
        component,
        fault,
        f"{counted(count, 'layer')} set up as the recipe says, {excluded} left alone",
    )


def _weights(component: str, states: Sequence[LayerState]) -> Check:
    quantized = [state for state in states if state.quantized]
    wrong = weight_faults(quantized) or byte_faults(quantized)
    if not quantized:
        fault = "no layer holds quantized weights: look at how it was loaded"
    elif wrong:
        fault = f"{len(wrong)} of {len(quantized)} layers store something else than the recipe says: "
        fault += f"{listed(wrong)}: compare the recipe with the options it was quantized with"
    else:
        fault = ""
    size = sum(state.bytes + state.side_bytes for state in quantized)
    return _check(
        "weights",
        component,
        fault,
        f"{size} B in {counted(len(quantized), 'layer')}, types and sizes as the recipe says",
    )


def _kernels(
    component: str, states: Sequence[LayerState], calls: Sequence[Calls], recipe: Recipe, suite: str
) -> Check:
    counted = {one.name: one for one in calls}
    quantized = [state for state in states if state.quantized]
    faults, unexercised, excused = [], [], Counter[str]()
    for state in quantized:
        ran = counted.get(state.name)
        allowed = _allowed(recipe, f"{component}.{state.name}", suite)
        if ran is None or not ran.total:
            if "idle" in allowed:
                excused["idle layers"] += 1
            else:
                unexercised.append(state.name)
        elif fault := _fault(state, ran, allowed):
            faults.append(f"{state.name} ({fault})")
        elif state.kernel:
            excused.update(ran.fallbacks)
    total, kernels = sum(one.total for one in calls), sum(one.quantized for one in calls)
    ops = sorted({op for one in calls for op in one.ops})
    if faults:
        status = Status.FAIL
        said = f"{len(faults)} of {len(quantized)} layers did not run as the recipe says: {listed(faults)}: "
        said += "docs/activation.md says what each reason means and where to look"
    elif not quantized:
        status, said = Status.FAIL, "no layer is quantized, so no quantized kernel can run"
    elif unexercised:
        status = Status.NOT_COMPARABLE
        said = f"{len(unexercised)} of {len(quantized)} layers were not exercised: {listed(unexercised)}: "
        said += f"draw a suite that calls them, or allow them as idle in {recipe.path.name}"
    elif not kernels and any(state.kernel for state in quantized):
        status = Status.NOT_COMPARABLE
        said = f"no call ran the quantized kernel: all of {total} are allowed not to, which proves nothing: "
        said += "draw a suite with more rows"
    elif kernels and not ops:
        status = Status.NOT_COMPARABLE
        said = f"{kernels} calls were counted and none could be repeated under the profiler: observe again"
    else:
        status = Status.PASS
        said = f"{kernels} of {total} calls ran the quantized kernel ({', '.join(ops) or 'none'})"
        allowances = ", ".join(f"{count} {reason}" for reason, count in sorted(excused.items()))
        said += f"; allowed: {allowances}" if allowances else ""
    if useless := _useless(recipe, component, states):
        said += f"; no layer is named as {', '.join(useless)}, which is allowed"
    return Check(
        f"{NAME}.kernels",
        NAME,
        status,
        f"{component}: {said}",
        component=component,
        measured=float(kernels),
        unit="calls",
    )


def _fault(state: LayerState, ran: Calls, allowed: frozenset[str]) -> str:
    """What is wrong with the calls of one layer; empty where nothing is."""
    if not state.kernel:
        if ran.quantized or ran.ops:
            return f"{ran.quantized} of {ran.total} calls ran a quantized kernel, and the recipe wants none"
        return _reasons(ran, frozenset({"dequantized", "skipped", "shape"}))
    if refused := _reasons(ran, allowed):
        return refused
    if not ran.quantized and "few_rows" not in allowed:
        return f"none of {ran.total} calls ran the kernel"
    if ran.replayed > 0 and not ran.ops:
        return "its kernel function was called and dispatched no quantized kernel"
    return ""


def _reasons(ran: Calls, allowed: frozenset[str]) -> str:
    refused = {reason: count for reason, count in ran.fallbacks.items() if reason not in allowed}
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
    return f"of {ran.total} calls {counts}" if refused else ""


def _useless(recipe: Recipe, component: str, states: Sequence[LayerState]) -> list[str]:
    """The patterns of `recipe` for the component that no layer of it matches, in quotes."""
    places = [f"{component}.{state.name}" for state in states]
    return [
        f'"{allowance.layers}"'
        for allowance in recipe.allowances
        if allowance.layers.partition(".")[0] == component
        and not any(fnmatchcase(place, allowance.layers) for place in places)
    ]


def _allowed(recipe: Recipe, place: str, suite: str) -> frozenset[str]:
    """The reasons that `recipe` accepts for the layer at `place`, `component.layer.name`, in that suite."""
    reasons = {
        allowance.when
        for allowance in recipe.allowances
        if fnmatchcase(place, allowance.layers) and suite in (allowance.suites or (suite,))
    }
    # one token is few rows
    return frozenset(reasons | ({"decoding"} if "few_rows" in reasons else set()))


def track(record: Record, pictures: Pictures | None) -> Iterator[Tracked]:
    """The share of each component's calls that ran the quantized kernel, where layers are set up to."""
    for component, found in record.figures.get(NAME, {}).get("components", {}).items():
        if found["missing"] or found["probe"] is not None or "calls" not in found:
            continue
        calls = ungrouped(Calls, found["calls"])
        total = sum(one.total for one in calls)
        if total and any(state.kernel for state in ungrouped(LayerState, found["layers"])):
            share = sum(one.quantized for one in calls) / total
            yield Tracked(f"{NAME}.kernel_share[{component}]", share, "higher", ideal=1.0)
