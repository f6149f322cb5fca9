"""`ernie-qa card`: a hub model card for an artifact, from the records of a gate."""

from __future__ import annotations

import argparse
from pathlib import Path

from ernie_qa.cli.exit_codes import OK


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    card = commands.add_parser(
        "card",
        help="write the hub's model card for an artifact, from measured records",
        description="Write README.md, comparison/ and metrics/ into the directory of an artifact, ready to\n"
        "be uploaded: front matter, verdict, sizes, times and memory beside BF16's, quality by case,\n"
        "comparison pictures, usage code, prompts, and the records themselves.\n\n"
        "Every figure is a record's; one that nobody measured says so. The record has to be of\n"
        "the very files in --artifact: gate them as an artifact, and name what --report wrote.",
        epilog="example:\n"
        "  ernie-qa quantize mini --recipe sdnq-uint4-static --output mini-uint4\n"
        "  ernie-qa gate --recipe sdnq-uint4-static --artifact sdnq-uint4-static=mini-uint4 \\\n"
        "      --report out\n"
        "  ernie-qa card out --artifact mini-uint4 --license apache-2.0\n\n"
        "exit codes: 0 written, whatever the verdict; 2 bad input, nothing written",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    card.add_argument(
        "record",
        metavar="RECORD",
        type=Path,
        nargs="+",
        help="what --report wrote, or the directories of the artifact's record and of bf16's",
    )
    card.add_argument(
        "--artifact", required=True, type=Path, metavar="DIR", help="what `ernie-qa quantize` wrote"
    )
    card.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write the card (the artifact's directory)"
    )
    card.add_argument(
        "--overwrite", action="store_true", help="replace README.md, comparison/ and metrics/ that are there"
    )
    card.add_argument(
        "--repo", metavar="ID", help="what the usage code loads, org/name (the directory's name)"
    )
    card.add_argument(
        "--base-model",
        metavar="ID",
        help="the BF16 model on the hub (the one it was made from, if of the hub)",
    )
    card.add_argument("--license", metavar="NAME", help="as the hub names it, apache-2.0 (left out)")
    card.add_argument(
        "--no-pictures", action="store_true", help="without comparison/, for records without pictures too"
    )
    card.add_argument(
        "--suite", metavar="SUITE", help="the suite that was drawn, for its prompts (a shipped one is found)"
    )
    card.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="RECIPE",
        help="judge a record that lies beside no verdict.json by this TOML file; may be repeated",
    )
    card.set_defaults(run=_card)


def _card(options: argparse.Namespace) -> int:
    from ernie_qa.card import write_card

    found = write_card(
        options.record,
        options.artifact,
        options.output,
        suite=options.suite,
        recipes=options.recipe,
        repository=options.repo,
        base_model=options.base_model,
        license=options.license,
        with_pictures=not options.no_pictures,
        overwrite=options.overwrite,
    )
    print(found.card)
    print(f"verdict {found.verdict.status}; {_pictures(found.pairs, found.picture_bytes)}")
    for name in found.lacking:
        option = f"--{name.replace('_', '-')}"
        print(f"the front matter has no {name}: say it with {option}")
    return OK


def _pictures(pairs: int, size: int) -> str:
    if not pairs:
        return "no comparison pictures"
    return f"{pairs} {'pair' if pairs == 1 else 'pairs'} of pictures and their matrix, {size / 10**6:.1f} MB"
