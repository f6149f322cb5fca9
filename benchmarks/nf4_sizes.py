"""What a model takes on disk as NF4, component by component, beside its BF16 files.

    python benchmarks/nf4_sizes.py replica /tmp/nf4

Loads with the recipe bnb-nf4, saves with the libraries' own `save_pretrained`, and prints the bytes of the
safetensors and of the whole directory. The prompt enhancer is tied, so that its embedding is stored once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ernie_qa.execute import hushed
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import QUANTIZABLE


def weights(directory: Path) -> int:
    """Bytes of the safetensors in `directory`."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def total(directory: Path) -> int:
    """Bytes of all files below `directory`."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def main() -> None:
    """Save and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path, help="a new directory")
    parser.add_argument("--device")
    options = parser.parse_args()
    with hushed():
        pipe: Any = load_pipeline(str(options.model), "bnb-nf4", options.device)
        pipe.save_pretrained(options.output, max_shard_size="50GB")
    for component in (*QUANTIZABLE, "vae"):
        before, after = weights(options.model / component), weights(options.output / component)
        print(f"{component:12} {before:>14,} B  {after:>13,} B  {1 - after / before:7.2%} less")
    before, after = total(options.model), total(options.output)
    print(f"{'directory':12} {before:>14,} B  {after:>13,} B  {1 - after / before:7.2%} less")


if __name__ == "__main__":
    main()
