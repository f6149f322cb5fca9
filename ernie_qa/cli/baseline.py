"""`ernie-qa baseline`: what would change, accepting it, and checking what was accepted."""

from __future__ import annotations

import argparse
import getpass
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.cli.exit_codes import OK
from ernie_qa.errors import BaselineError
from ernie_qa.toml_input import one_line
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.acceptance import Proposal
    from ernie_qa.baseline.bundle import Bundle
    from ernie_qa.recipe import Recipe

DEFAULT = Path("baselines")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    baseline = commands.add_parser(
        "baseline",
        help="see, accept and check baselines",
        description="Limits say what is bad; baselines say what has changed. Runs with --ernie-update leave\n"
        "bundles in DIR/candidates; here a person looks at one and accepts it. Needs no GPU and no torch.",
        epilog="the cycle:\n"
        "  pytest --pyargs ernie_qa.gates --ernie-baselines=baselines --ernie-update\n"
        "                                                              leaves a bundle\n"
        "  ernie-qa baseline diff                                      what would change\n"
        '  ernie-qa baseline accept --reason "sdnq 0.2.9"              makes it the baseline\n'
        '  ernie-qa baseline rebase --reason "torch 2.15 moved BF16"   all arms at once\n'
        "  ernie-qa baseline verify                                    is everything as accepted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = baseline.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_diff(actions)
    for rebase in (False, True):
        _add_accept(actions, rebase)
    verify = actions.add_parser(
        "verify",
        help="check every accepted file",
        description="Read every accepted figure and picture and check its hash.",
        allow_abbrev=False,
    )
    _add_baselines(verify)
    verify.add_argument(
        "--finish", action="store_true", help="first complete or clear away what a killed accept left"
    )
    verify.set_defaults(run=_verify)


def _add_bundles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundles",
        type=Path,
        nargs="*",
        metavar="BUNDLE",
        help="directory that a run left; several of one model and machine are runs of the same thing, which "
        "show how noisy a figure is (the newest in DIR/candidates)",
    )
    _add_baselines(parser)
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="RECIPE",
        help="only this one, a shipped name or a TOML file; may be repeated (all in the bundle)",
    )


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baselines",
        type=Path,
        default=DEFAULT,
        metavar="DIR",
        help="where what is accepted lies (baselines)",
    )


def _add_diff(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    diff = actions.add_parser(
        "diff",
        help="what accepting would change",
        description="Each figure's change beside its noise, and which limits would tighten or loosen, by "
        "which factor. 100% of noise reaches the accepted limit.",
        allow_abbrev=False,
    )
    _add_bundles(diff)
    diff.add_argument(
        "--rebase", action="store_true", help="as `rebase` would take it, with BF16's pictures replaced"
    )
    diff.set_defaults(run=_diff)


def _add_accept(actions: argparse._SubParsersAction[argparse.ArgumentParser], rebase: bool) -> None:
    parser = actions.add_parser(
        "rebase" if rebase else "accept",
        help="accept all arms anew after BF16 itself moved" if rebase else "make candidates the baseline",
        description="Replace everything that is accepted for this model on this machine, BF16's pictures "
        "too, after a change of stack, model or suite that moved BF16 itself."
        if rebase
        else "Make the records of a bundle the accepted ones, all or nothing. What fails its own limits is "
        "not taken, nor anything measured against a BF16 that has moved.",
        allow_abbrev=False,
    )
    _add_bundles(parser)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why these figures are right")
    parser.add_argument("--by", metavar="NAME", help="who accepts (git's user.name, else the login name)")
    parser.add_argument(
        "--loosen", action="store_true", help="accept figures that let pass more than today's"
    )
    parser.set_defaults(run=_accept, rebase=rebase)


def _diff(options: argparse.Namespace) -> int:
    from ernie_qa.acceptance import propose
    from ernie_qa.baseline.lock import locked

    bundles = _bundles(options)
    with locked(options.baselines, exclusive=False):
        proposal = propose(
            options.baselines,
            bundles,
            why="-",
            by="-",
            recipes=_recipes(options),
            rebase=options.rebase,
            look=True,
        )
    _tell(proposal, bundles)
    if proposal.moved and not options.rebase:
        print("\nBF16 is not where it was accepted: `accept` refuses, and this is what `rebase` would change")
    if proposal.loosened:
        print(f"\nlimits that would loosen: {len(proposal.loosened)}; accepting them needs --loosen")
    return OK


def _accept(options: argparse.Namespace) -> int:
    from ernie_qa.acceptance import accept

    bundles = _bundles(options)
    proposal = accept(
        options.baselines,
        bundles,
        why=options.reason,
        by=options.by or _who(),
        recipes=_recipes(options),
        rebase=options.rebase,
        loosen=options.loosen,
    )
    _tell(proposal, bundles)
    print(f"\naccepted in {proposal.new.path}; commit it")
    return OK


def _verify(options: argparse.Namespace) -> int:
    from ernie_qa.baseline.lock import left_by, locked
    from ernie_qa.baseline.noise import verify_noise
    from ernie_qa.baseline.store import finish, verify

    if killed := left_by(options.baselines):
        what = "was killed at work here; it holds no lock and blocks nobody"
        print(one_line(f"{options.baselines}: {killed} {what}"))
    if options.finish:
        with locked(options.baselines):
            for place in finish(options.baselines):
                print(f"{place}: completed what an interrupted accept had begun")
    found, floors = verify(options.baselines), verify_noise(options.baselines)
    for baseline in found:
        pictures = len(baseline.pictures.pictures) if baseline.pictures else 0
        figures = sum(len(one.figures) for one in baseline.accepted.values())
        print(
            f"{baseline.path}: {counted(len(baseline.accepted), 'recipe')}, "
            f"{counted(figures, 'figure')}, {counted(pictures, 'picture')}, all as accepted"
        )
    if not found:
        print(f"{options.baselines}: nothing is accepted yet")
    for file, noise in floors:
        print(f"{file}: the noise floor under {len(noise.changes)} changes, as measured")
    return OK


def _tell(proposal: Proposal, bundles: Sequence[Bundle]) -> None:
    from ernie_qa.report.changes import change_lines

    runs = f"{len(bundles)} runs" if len(bundles) > 1 else "1 run"
    reference = bundles[0].reference
    print(f"{reference.model.name} on {reference.fingerprint.machine}, suite {reference.suite.name}, {runs}")
    if proposal.moved:
        print(f"BF16: {proposal.moved}")
    before = proposal.current.accepted if proposal.current else {}
    for name, one in proposal.new.accepted.items():
        if name in before and before[name].recipe.hash != one.recipe.hash:
            hashes = f"{before[name].recipe.hash[:12]}, now {one.recipe.hash[:12]}"
            print(f"{name}: another recipe than the one that was accepted ({hashes})")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print("\n".join(change_lines(proposal.changes, colour=colour)))


def _bundles(options: argparse.Namespace) -> list[Bundle]:
    from ernie_qa.baseline.bundle import bundles_in, load_bundle
    from ernie_qa.baseline.store import CANDIDATES

    paths = options.bundles
    if not paths:
        found = bundles_in(options.baselines)
        # a name ends in the time and a hash; what comes before them is the model and the machine
        if len({path.name.rsplit("-", 2)[0] for path in found}) != 1:
            names = ", ".join(path.name for path in found[-3:])
            here = (
                f"{len(found)} are here, of several machines: {names}"
                if found
                else "none is here yet: a gate with --update (pytest: --ernie-update) leaves one"
            )
            raise BaselineError(f"{options.baselines / CANDIDATES}: name the bundle to take; {here}")
        paths = found[-1:]
        print(f"the newest bundle: {paths[0]}")
    return [load_bundle(path) for path in paths]


def _recipes(options: argparse.Namespace) -> list[Recipe]:
    from ernie_qa.recipe import find_recipe

    return [find_recipe(recipe) for recipe in options.recipe]


def _who() -> str:
    try:
        named = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, check=False, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        named = ""
    try:
        return named or getpass.getuser()
    except (KeyError, OSError):
        raise BaselineError("this system does not know who you are: say who accepts, with --by") from None
