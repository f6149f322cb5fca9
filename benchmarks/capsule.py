"""What does a capsule cost, how far off is a sound install, and which faults does it name?

    python benchmarks/capsule.py mini --recipe sdnq-uint4-static --recipe bnb-nf4 --keep out
    python benchmarks/capsule.py replica --recipe bnb-nf4 --artifact --keep out
    python benchmarks/capsule.py out/bnb-nf4 --against out/bnb-nf4.capsule --device cpu --steps 1 --faults 0

For each recipe MODEL, in BF16, is quantized and exported into a capsule, checked against it, and checked
again with one fault at a time. With `--keep` the capsule is saved, with `--artifact` the quantized model too,
and the capsule is made of that. With `--against` nothing is exported: the capsules, perhaps made on another
machine, are what MODEL is checked against; MODEL is then an artifact, or in BF16 and quantized in memory.

Exits 1 where a sound install is not the same, or a fault is not told.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ernie_qa import compile_cache
from ernie_qa.capsules.capsule import MAX_BYTES, Capsule, machine_in_words, read_capsule
from ernie_qa.capsules.installed import compared
from ernie_qa.capsules.publish import ROOM, export
from ernie_qa.capsules.sameness import Finding
from ernie_qa.faults import Fault, corpus
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.models.artifact import stored_method
from ernie_qa.models.find import find_model
from ernie_qa.pipeline import load_artifact, load_pipeline
from ernie_qa.plan import visible_device
from ernie_qa.quiet import hushed
from ernie_qa.verdict import Status, worst

QUANTIZED = {
    "sdnq": (
        "UINT4: one layer's scales 2 % off",
        "INT8: one layer's scales 2 % off",
        "one layer dequantizes, flags on",
        "UINT4: one layer's zero points one step off",
        "INT8: one row's scale lost",
        "UINT4: nibbles of one layer swapped",
        "UINT4: groups of one layer in reverse order",
        "one layer cut to two bits",
        "one layer's matmul switched off",
    ),
    "bitsandbytes": (
        "NF4: one layer's scales 2 % off",
        "one NF4 layer dequantizes in its forward",
        "NF4: blocks of one layer shifted by one",
        "NF4: one layer's offset of scales lost",
        "NF4: one layer without double quantization",
        "NF4: one layer in FP4",
        "NF4: one layer's second scales 10 % off",
    ),
}
"""What each quantizer's own layers can suffer: names in the corpus, in the order in which they are tried."""
SWITCHED = ("one layer dequantizes, flags on", "one layer's matmul switched off")
"""No faults where no layer multiplies quantized weights."""
ANYWHERE = (
    "one norm of a block halved",
    "shift 2.9 behind the configuration's back",
    "decoded 3 % too bright",
    "text states 3 % too strong",
    "one weight of the VAE one ulp off",
    "one layer of the prompt enhancer skipped",
    "one block skipped",
    "steps 5 % too long",
    "a word added to the tokenizer",
)
"""What happens with any quantizer, on any device and at any size."""


def main() -> None:
    """Export, check, damage, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="BF16: name, directory or hub id; with --against also an artifact")
    parser.add_argument("--recipe", action="append", default=[], help="repeatable (bnb-nf4)")
    parser.add_argument("--against", action="append", type=Path, default=[], help="a capsule; repeatable")
    parser.add_argument("--device", default=visible_device())
    parser.add_argument("--suite", help="a shipped name or a TOML file (the model's)")
    parser.add_argument("--cases", type=int, default=2, help="that are drawn for the capsule (2)")
    parser.add_argument("--most", type=float, help="MB of a capsule's tensors (what a capsule may have)")
    parser.add_argument("--steps", type=int, help="that a sound install draws (all)")
    parser.add_argument("--faults", type=int, default=10, help="that are tried, each for one step (10)")
    parser.add_argument("--keep", type=Path, help="directory for the capsules, and the artifacts")
    parser.add_argument("--artifact", action="store_true", help="save the quantized model too; needs --keep")
    options = parser.parse_args()
    if options.artifact and not options.keep:
        parser.error("--artifact needs --keep, which says where")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    compile_cache.keep(options.device)
    wrong = 0
    for capsule, model in _capsules(options):
        wrong += _tried(capsule, model, options)
    sys.exit(bool(wrong))


def _capsules(options: argparse.Namespace) -> Iterator[tuple[Capsule, str]]:
    """The capsules, and what is to be checked against each."""
    for file in options.against:
        yield read_capsule(file), options.model
    for recipe in () if options.against else options.recipe or ["bnb-nf4"]:
        artifact = None
        if options.artifact:
            began = perf_counter()
            artifact = str(options.keep / recipe)
            with hushed():
                pipe: Any = load_pipeline(options.model, recipe, options.device)
                pipe.save_pretrained(artifact)
            del pipe
            _free()
            print(f"{artifact}: quantized and saved in {perf_counter() - began:.1f} s", flush=True)
        began = perf_counter()
        capsule = export(
            options.model,
            recipe,
            artifact=artifact,
            suite=options.suite,
            device=options.device,
            cases=options.cases,
            most=int(options.most * 1e6) if options.most else MAX_BYTES - ROOM,
        )
        print(f"{recipe}: exported in {perf_counter() - began:.1f} s", flush=True)
        if options.keep:
            (options.keep / f"{recipe}.capsule").write_bytes(capsule.content)
        _free()
        yield capsule, artifact or options.model


def _tried(capsule: Capsule, model: str, options: argparse.Namespace) -> int:
    """How many of the sound install and the faults were not told as what they are."""
    here = machine_in_words(take_fingerprint(options.device))
    print(f"\n{capsule.recipe.name} of {capsule.model.name}: {len(capsule.content) / 1e6:.1f} MB")
    print(f"made on {machine_in_words(capsule.fingerprint)}, checked on {here}")
    for said in capsule.left_out:
        print(f"  without {said}")
    began = perf_counter()
    # the one that was loaded never runs: some CPUs repack NF4 weights in the first forward
    pristine = _loaded(capsule, model, options.device)
    loaded = perf_counter() - began
    pipe = copy.deepcopy(pristine)
    began = perf_counter()
    with hushed():
        findings, notes = compared(capsule, pipe, steps=options.steps)
    print(f"loaded in {loaded:.1f} s, compared in {perf_counter() - began:.1f} s", flush=True)
    for note in notes:
        print(f"  {note}")
    _table(findings)
    status = worst(one.status for one in findings)
    print(f"sound: {status}", flush=True)
    wrong = int(status is not Status.PASS)
    tried = _faults(capsule)[: options.faults]
    told = named = 0
    for fault in tried:
        began = perf_counter()
        pipe = None
        pipe = copy.deepcopy(pristine)
        with hushed():
            with torch.no_grad():
                fault.damage(pipe)
            findings, _ = compared(capsule, pipe, steps=1)
        failed = [one for one in findings if one.status is Status.FAIL]
        told += bool(failed)
        named += any(one.component == fault.component for one in failed)
        print(f"  {fault.name:46} {_said(failed)} ({perf_counter() - began:.1f} s)", flush=True)
    print(f"{told} of {len(tried)} faults told, {named} by the component that they are in", flush=True)
    del pipe, pristine
    _free()
    return wrong + len(tried) - told


def _loaded(capsule: Capsule, model: str, device: str) -> Any:
    found = find_model(model)
    stored = any(stored_method(found, name) for name in found.components)
    with hushed():
        if stored:
            return load_artifact(found, capsule.recipe, device)
        return load_pipeline(found, capsule.recipe, device)


def _faults(capsule: Capsule) -> list[Fault]:
    """Those of the recipe's quantizers and those of any, in turn."""
    known = {fault.name: fault for fault in corpus()}
    own = [name for quantizer in set(capsule.recipe.components.values()) for name in QUANTIZED[quantizer]]
    if not any(state.get("runtime.use_quantized_matmul", True) for state in _states(capsule)):
        own = [name for name in own if name not in SWITCHED]
    other = "INT8: " if all(state["bits"] == 4 for state in _states(capsule)) else "UINT4: "
    own = [name for name in own if not name.startswith(other)]
    if other == "UINT4: ":
        own = [name for name in own if name != "one layer cut to two bits"]
    turns = [name for pair in zip(own, ANYWHERE, strict=False) for name in pair]
    return [known[name] for name in dict.fromkeys((*turns, *own, *ANYWHERE))]


def _states(capsule: Capsule) -> list[Any]:
    return [one for part in capsule.parts.values() for one in part.states.values() if one.get("quantized")]


def _table(findings: tuple[Finding, ...]) -> None:
    exact = [one for one in findings if one.limit is None]
    same = sum(one.status is Status.PASS for one in exact)
    print(f"  {same} of {len(exact)} exact comparisons pass")
    for one in exact:
        if one.status is not Status.PASS:
            print(f"    {one.component or 'the whole'} {one.about}: {one.status}: {one.message}")
    print(f"  {'component':14} {'about':9} {'status':14} {'measured':>10} {'limit':>8}")
    for one in findings:
        if one.limit is not None:
            found = "" if one.measured is None else f"{one.measured:.3g}"
            print(f"  {one.component:14} {one.about:9} {one.status:14} {found:>10} {one.limit:8g}")
            if one.status is not Status.PASS:
                print(f"    {one.message}")


def _said(failed: list[Finding]) -> str:
    """Component, what was compared, and the first layer."""
    told = []
    for one in failed:
        more = f" +{len(one.layers) - 1}" if len(one.layers) > 1 else ""
        told.append(f"{one.component}/{one.about}" + (f" {one.layers[0]}{more}" if one.layers else ""))
    return "; ".join(told) or "NOT TOLD"


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
