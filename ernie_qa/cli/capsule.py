"""`ernie-qa capsule`: what a publisher ships beside the weights, and what a user checks an install with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ernie_qa.cli.arguments import add_device
from ernie_qa.cli.exit_codes import OF_STATUS, OK
from ernie_qa.durable import cannot, write
from ernie_qa.errors import CapsuleError, UnavailableError

CANNOT_TELL = 3


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    capsule = commands.add_parser(
        "capsule",
        help="ship what a published recipe gives, and check an install against it",
        description="A capsule is one file of at most 50 MB that a publisher ships beside quantized\n"
        "weights: what BF16's parts were fed, and what the published parts and layers were and\n"
        "gave.\n"
        "With it anybody can tell whether an install runs what was published, without BF16.",
        epilog="examples:\n"
        "  ernie-qa capsule export mini --recipe bnb-nf4 -o nf4.capsule\n"
        "      the publisher, from the BF16 model\n"
        "  ernie-qa capsule check nf4.capsule org/model-nf4\n"
        "      anybody, with the published artifact alone",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = capsule.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_export(actions)
    _add_check(actions)


def _add_export(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = actions.add_parser(
        "export",
        help="make a capsule",
        description="Feed the published model what BF16 was fed, and keep what both gave in one file.\n"
        "What BF16 was fed comes from its record, or BF16 draws two cases for it.",
        epilog="examples:\n"
        "  ernie-qa capsule export mini --recipe sdnq-uint4-static -o mini-uint4.capsule\n"
        "      quantized in memory\n"
        "  ernie-qa capsule export out/bf16 quantized/ --recipe sdnq-uint4-static -o uint4.capsule\n"
        "      from BF16's record, as `ernie-qa gate --report out` wrote it, and the saved artifact\n\n"
        "Export from what you publish: then the bytes of the quantized layers are held too. What\n"
        "does not fit into 50 MB is left out, what tells least first, and said. docs/capsule.md has\n"
        "what is in the file.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    export.add_argument(
        "bf16", metavar="RECORD|MODEL", help="directory of BF16's record, or the BF16 model: name or hub id"
    )
    export.add_argument(
        "artifact",
        metavar="ARTIFACT",
        nargs="?",
        help="directory or hub id of what is published (the BF16 model is quantized in memory)",
    )
    export.add_argument("--recipe", required=True, metavar="RECIPE", help="a shipped name or a TOML file")
    export.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="a new file")
    export.add_argument(
        "--suite", metavar="SUITE", help="a shipped name or a TOML file (the model's, or the record's)"
    )
    export.add_argument(
        "--cases", type=int, default=2, metavar="N", help="draw the first N cases of the suite (2)"
    )
    add_device(export)
    export.set_defaults(run=_export)


def _add_check(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = actions.add_parser(
        "check",
        help="does this install run what was published",
        description="Load a model, feed its parts what the capsule holds, and compare what they are and\n"
        "give with what was published, down to the layer. BF16 is not needed. It says nothing\n"
        "of speed and of pictures: `ernie-qa gate` does.",
        epilog="examples:\n"
        "  ernie-qa capsule check nf4.capsule ~/models/ERNIE-Image-Turbo-nf4\n"
        "      the published artifact, a directory or a hub id\n"
        "  ernie-qa capsule check uint4.capsule ~/models/ERNIE-Image-Turbo --recipe sdnq-uint4-static\n"
        "      a BF16 model, quantized in memory\n"
        "  ernie-qa capsule check uint4.capsule org/model --device cpu --steps 1\n"
        "      the full size on a CPU, one step\n\n"
        "A pass means the published tensors, set up as published, running the published kernels, and\n"
        "parts that give what the publisher's gave; limits: docs/capsule.md. It does not mean that\n"
        "the recipe is good.\n\n"
        "exit codes: 0 the same, 1 differs, 2 bad input, 3 cannot tell here",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    check.add_argument("capsule", metavar="CAPSULE", type=Path, help="the publisher's file")
    check.add_argument("model", metavar="MODEL", help="the published artifact, or with --recipe a BF16 model")
    check.add_argument(
        "--recipe", metavar="RECIPE", help="quantize MODEL in memory: a shipped name or a TOML file"
    )
    add_device(check)
    check.add_argument("--steps", type=int, metavar="N", help="draw no case further than N steps (all)")
    check.add_argument("--json", action="store_true", help="print the answer as JSON")
    check.set_defaults(run=_check)


def _export(options: argparse.Namespace) -> int:
    if options.output.exists():
        raise CapsuleError(f"{options.output}: exists already; name another file")
    if not options.output.parent.is_dir():
        raise CapsuleError(f"{options.output.parent}: no such directory")
    from ernie_qa.capsules.capsule import machine_in_words
    from ernie_qa.capsules.publish import export
    from ernie_qa.cli.bar import progress_bar

    with progress_bar("step") as bar:
        capsule = export(
            options.bf16,
            options.recipe,
            artifact=options.artifact,
            suite=options.suite,
            device=options.device,
            cases=options.cases,
            progress=bar.at,
        )
    try:
        write(options.output, capsule.content, over=False)
    except OSError as problem:
        raise CapsuleError(cannot(options.output, problem)) from None
    size = len(capsule.content) / 10**6
    print(f"{options.output}: {capsule.recipe.name} of {capsule.model.name}, {size:.1f} MB, {capsule.sha256}")
    print(f"  made on {machine_in_words(capsule.fingerprint)}")
    for said in capsule.left_out:
        print(f"  too large to keep: {said}")
    return OK


def _check(options: argparse.Namespace) -> int:
    from ernie_qa.capsules.capsule import read_capsule

    if options.steps is not None and options.steps < 1:
        raise CapsuleError(f"--steps {options.steps}: needed is 1 or more")
    capsule = read_capsule(options.capsule)
    from ernie_qa.capsules.installed import check
    from ernie_qa.capsules.told import document, lines
    from ernie_qa.cli.bar import progress_bar

    try:
        with progress_bar("step") as bar:
            answer = check(
                capsule,
                options.model,
                recipe=options.recipe,
                device=options.device,
                steps=options.steps,
                progress=bar.at,
            )
    except UnavailableError as problem:
        import sys

        print(f"ernie-qa: cannot tell: {problem}", file=sys.stderr)
        return CANNOT_TELL
    if options.json:
        print(json.dumps(document(capsule, answer, options.model), indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(capsule, answer, options.model)))
    return OF_STATUS[answer.status]
