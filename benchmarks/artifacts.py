"""What quantizing a model to a directory costs, and whether plain diffusers code then draws the same.

    python benchmarks/artifacts.py replica /tmp --device cuda --suite turbo10

For each recipe, each step in a process of its own: `ernie-qa quantize`; one picture by the code of the
published model cards; the same picture quantized in memory. Prints bytes, seconds and peaks, and whether the
two pictures are equal bit for bit; removes the directory, unless --keep. Exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ernie_qa.suite import find_suite

PLAIN = Path(__file__).parents[1] / "tests" / "plain_usage.py"
RECIPES = {"sdnq-uint4-static": "sdnq", "bnb-nf4": "bitsandbytes"}
IN_MEMORY = """
import json, sys
sys.path.insert(0, {tests!r})
import numpy, torch, plain_usage
from ernie_qa.pipeline import load_pipeline
pipe = load_pipeline({model!r}, {recipe!r}, {device!r})
pipe.vae.to(memory_format=torch.contiguous_format)
numpy.savez({out!r}, **{{"0": plain_usage.draw(pipe, {device!r}, json.load(open({requests!r}))[0])}})
"""


def run(*arguments: object) -> str:
    """The output of a Python process. CalledProcessError where it fails."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def tried(recipe: str, place: Path, options: argparse.Namespace) -> bool:
    """Quantize, draw twice, print; whether the pictures are equal."""
    case = find_suite(options.suite).cases[0]
    steps = find_suite(options.suite).steps
    requests, plain, memory = (place.with_name(f"{recipe}.{end}") for end in ("json", "1.npz", "2.npz"))
    request = {"prompt": case.prompt, "width": case.width, "height": case.height, "seed": case.seed}
    requests.write_text(json.dumps([{**request, "steps": steps, "use_pe": False}]), encoding="utf-8")
    given = [options.model, "--recipe", recipe, "--output", place, "--device", options.device]
    found: dict[str, Any] = json.loads(
        run("-m", "ernie_qa.cli", "quantize", *given, "--suite", options.suite, "--overwrite", "--json")
    )
    for part in found["parts"]:
        print(f"{part['name']:12} {part['before']:>14,} B {part['after']:>14,} B {part['seconds']:7.1f} s")
    print(f"{'directory':12} {found['before']:>14,} B {found['after']:>14,} B {found['seconds']:7.1f} s")
    print(f"{recipe} on {found['device']}: {found['peak_allocated'] or 0:,} B allocated at most on the GPU, ")
    print(f"  {found['peak_resident']:,} B resident at most")
    print(run(PLAIN, RECIPES[recipe], place, options.device, plain, requests), end="")
    names = {"model": options.model, "recipe": recipe, "device": options.device}
    run("-c", IN_MEMORY.format(tests=str(PLAIN.parent), out=str(memory), requests=str(requests), **names))
    with np.load(plain) as ours, np.load(memory) as theirs:
        apart = np.abs(ours["0"].astype(int) - theirs["0"]).max()
    print(f"  plain code against in memory: {'bit for bit' if not apart else f'up to {apart} of 255 apart'}")
    for file in (requests, plain, memory):
        file.unlink()
    return not apart


def main() -> int:
    """Try every recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model")
    parser.add_argument("place", type=Path, help="a directory to write in")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--suite", default="turbo10")
    parser.add_argument("--recipe", action="append", choices=tuple(RECIPES))
    parser.add_argument("--keep", action="store_true", help="leave the directories, named as the recipes")
    options = parser.parse_args()
    equal = True
    for recipe in options.recipe or RECIPES:
        place = options.place / recipe
        equal &= tried(recipe, place, options)
        if not options.keep:
            shutil.rmtree(place)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
