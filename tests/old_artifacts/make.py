"""Make artifacts.tar.xz: one small model in BF16, and quantized by one release after the other.

    python tests/old_artifacts/make.py

Each release is fetched with pip into a directory of its own, which goes before what is installed, and saves
the pipeline that the recipe here makes, as diffusers does. A new release is added to RELEASES; what the
archive holds already is kept as it is, for what an old release once saved must not change.

A matrix has the same few random rows again and again: quantized they compress, and nobody asks here whether
pictures are beautiful.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARCHIVE = HERE / "artifacts.tar.xz"
RELEASES = {
    "old-uint4": ("sdnq", ("0.2.2", "0.2.3", "0.2.4", "0.2.5", "0.2.6", "0.2.7", "0.2.8")),
    "old-nf4": ("bitsandbytes", ("0.50.0", "0.50.1", "0.50.2")),
}
"""Recipe -> the package that quantizes, and its releases."""
ROWS = 4
SAVE = """
import sys
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
base, recipe, out = sys.argv[1:]
with hushed():
    load_pipeline(base, recipe, "cpu").save_pretrained(out)
"""


def save_base(directory: Path) -> None:
    """A tiny pipeline in BF16, its rows repeated."""
    import torch

    from tests.tiny import tiny_pipeline

    pipe = tiny_pipeline()
    with torch.no_grad():
        for part in pipe.components.values():
            for weight in part.parameters() if isinstance(part, torch.nn.Module) else ():
                if weight.ndim >= 2:
                    times = -(-len(weight) // ROWS)
                    weight.copy_(torch.cat([weight[:ROWS]] * times)[: len(weight)])
    pipe.save_pretrained(directory)


def save_quantized(base: Path, recipe: str, requirement: str, directory: Path) -> None:
    """What that release makes of `base`, saved by diffusers."""
    with tempfile.TemporaryDirectory() as overlay:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", overlay]
        subprocess.run([*pip, requirement], check=True)
        subprocess.run(
            [sys.executable, "-c", SAVE, str(base), str(HERE / f"{recipe}.toml"), str(directory)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([overlay, str(ROOT)])},
            check=True,
        )


def strip_paths(directory: Path) -> None:
    """Take out what diffusers and transformers note of where the model was loaded from."""
    for file in (directory / "model_index.json", *directory.glob("*/config.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _member(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode = 0, 0, 0, "", "", 0o644
    if member.isdir():
        member.mode = 0o755
    return member


def main() -> None:
    """Add what is missing, and say what there is."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "artifacts"
        if ARCHIVE.exists():
            with tarfile.open(ARCHIVE) as archive:
                archive.extractall(temporary, filter="data")
        else:
            save_base(place / "base")
        for recipe, (package, versions) in RELEASES.items():
            for version in versions:
                directory = place / f"{package}-{version}"
                if not directory.exists():
                    save_quantized(place / "base", recipe, f"{package}=={version}", directory)
                    print(directory.name, flush=True)
                strip_paths(directory)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            # by component, so that equal weights lie near each other
            for file in sorted(place.rglob("*"), key=lambda one: (one.relative_to(place).parts[1:], one)):
                if file.is_file():
                    archive.add(file, file.relative_to(temporary).as_posix(), filter=_member)
    print(f"{ARCHIVE.name}: {ARCHIVE.stat().st_size} B")


if __name__ == "__main__":
    main()
