"""`ernie-qa replica`: the full-size architecture with random weights, on disk."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from ernie_qa.cli.exit_codes import OK


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    replica = commands.add_parser(
        "replica",
        help="write the full-size architecture with random weights",
        description="Write a model directory of ERNIE-Image's own classes and sizes with random\n"
        "weights. What it costs (bytes, memory, time, kernels) is real; its pictures mean\n"
        "nothing, and checks on them do not apply. It takes 31.6 GB of disk, and no GPU.",
        epilog="examples:\n"
        "  ernie-qa replica ~/models/replica\n"
        "      the full size, to gate costs on a GPU without the real weights\n"
        "  ernie-qa replica ~/models/replica-half --scale 0.5\n"
        "      a smaller relative, 4.3 GB, for a smaller GPU\n"
        "  ernie-qa replica /tmp/replica --scale 0.03\n"
        "      8 MB, to try a recipe on a CPU with a suite of small sizes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    replica.add_argument("directory", type=Path, metavar="DIR", help="a new or empty directory")
    replica.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="S",
        help="shrink widths, depths and vocabulary; above 0, and 1 at most (1)",
    )
    replica.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="which random weights; the same seed and scale are the same bytes on every machine (0)",
    )
    replica.set_defaults(run=_replica)


def _replica(options: argparse.Namespace) -> int:
    from ernie_qa.cli.bar import progress_bar
    from ernie_qa.models.replica import SUITE, sizes, write_replica

    began = time.monotonic()
    with progress_bar("B") as bar:

        def progress(done: int, total: int) -> None:
            bar.at(done, total, options.directory.name)

        path = write_replica(options.directory, scale=options.scale, seed=options.seed, progress=progress)
    seconds = time.monotonic() - began
    written = sizes(options.scale)
    for component, size in (*written.items(), ("total", sum(written.values()))):
        print(f"{component:<12} {size:>14,} B of tensors")
    print(f"{path}: written in {seconds:.0f} s; random weights, its pictures mean nothing\n")
    print(f"ernie-qa gate --model {shlex.quote(str(path))} --suite {SUITE} --device cuda")
    return OK
