"""What all kills start from, the commands, and how what one has left is read: as the old, or as the new."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process import run_to_its_end, tested

from ernie_qa.baseline.bundle import bundles_in, load_bundle
from ernie_qa.baseline.noise import verify_noise
from ernie_qa.baseline.store import verify
from ernie_qa.card import FILES
from ernie_qa.cli import main as ernie_qa
from ernie_qa.record import load_record
from ernie_qa.report.files import check_directory
from ernie_qa.together import settle
from ernie_qa.toml_input import parse_json

SUITE = '''schema = 1
version = 1
summary = "one small poster"
steps = 2
guidance = 1.0
use_pe = false
[[cases]]
id = "one"
prompt = """A square poster with a plain red ground. A large yellow circle stands at the upper left, a small \
white star stands at the lower right. The word КОНЦЕРТ is written in large black letters along the bottom."""
width = 64
height = 64
seed = 1
focus = "a poster"
'''
RECIPE = """schema = 1
summary = "an INT8 transformer"
[components]
transformer = "sdnq"
[sdnq]
weights_dtype = "int8"
group_size = 0
dequantize_fp32 = false
use_quantized_matmul = true
[[activation.allow]]
layers = "transformer.adaLN_modulation.*"
when = "few_rows"
why = "it sees one row an image"
[[activation.allow]]
layers = "transformer.final_norm.linear"
when = "few_rows"
why = "it sees one row an image"
[gates.suite.limits."images.lpips_mean"]
max = 1.0
about = "suite"
source = "what is looked at here is files"
"""
OTHER = "sdnq-int8"
"""What another recipe makes of the model takes the place of what the first made."""


@dataclass(frozen=True)
class Command:
    """One command: its arguments, below which directory it writes, and what `state` of it there is there."""

    run: Callable[[list[str]], Any]
    arguments: Callable[[Path], list[str]]
    state: Callable[[Path], str]
    refused_once_done: bool = False


class Ground:
    """What all kills start from: an artifact, and two runs, the first accepted and on the card."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "suite.toml").write_text(SUITE, encoding="utf-8")
        self.recipe = str(place / "mine.toml")
        Path(self.recipe).write_text(RECIPE, encoding="utf-8")
        self.start = place / "start"
        self.start.mkdir()
        artifact = self.start / "artifact"
        for recipe, target in ((self.recipe, artifact), (OTHER, place / "other")):
            self.must(["quantize", "mini", "--recipe", recipe, "--output", str(target)])
        self.runs = [place / name for name in ("run1", "run2")]
        for run in self.runs:
            self.must([*self.gate(), "--report", str(run)])
        self.must(self.accept(self.runs[0], self.start))
        self.must(self.card(self.runs[0], self.start))

    def gate(self) -> list[str]:
        given = ["--recipe", self.recipe, "--artifact", f"mine={self.start / 'artifact'}"]
        suite = str(self.place / "suite.toml")
        return ["gate", "--model", "mini", *given, "--suite", suite, "--device", "cpu"]

    def accept(self, run: Path, place: Path) -> list[str]:
        given = ["--reason", str(run.name), "--by", "kills", "--recipe", self.recipe, "--loosen"]
        return ["baseline", "accept", str(run), *given, "--baselines", str(place / "baselines")]

    def card(self, run: Path, place: Path) -> list[str]:
        given = ["--license", run.name, "--overwrite", "--suite", str(self.place / "suite.toml")]
        return [
            "card",
            str(run),
            "--artifact",
            str(place / "artifact"),
            *given,
            "--recipe",
            self.recipe,
        ]

    def must(self, arguments: list[str]) -> None:
        log = self.place / "log"
        code = run_to_its_end(ernie_qa, arguments, log)
        assert code == 0, f"{arguments} ended with {code}: {log.read_text()}"

    def commands(self) -> dict[str, Command]:
        floor = ["calibrate", "mini", "--suite", str(self.place / "suite.toml"), "--device", "cpu"]
        floor += ["--change", "again", "--teacher-cases", "1"]
        project = ["--pyargs", "ernie_qa.gates", "-m", "mini", "-q", "--ernie-artifact"]
        project += [f"mine={self.start / 'artifact'}"]
        project += ["--ernie-recipe", self.recipe, "-p", "no:cacheprovider"]
        project += ["--ernie-suite", str(self.place / "suite.toml"), "--rootdir", str(self.place)]
        quantize = ["quantize", "mini", "--recipe", OTHER, "--overwrite", "--output"]
        return {
            "update": Command(
                ernie_qa,
                lambda at: [*self.gate(), "--update", "--baselines", str(at / "baselines")],
                self.updated,
            ),
            "accept": Command(ernie_qa, lambda at: self.accept(self.runs[1], at), self.accepted),
            "report": Command(
                ernie_qa,
                lambda at: [*self.gate(), "--report", str(at / "out")],
                self.reported,
                refused_once_done=True,
            ),
            "card": Command(ernie_qa, lambda at: self.card(self.runs[1], at), self.carded),
            "quantize": Command(ernie_qa, lambda at: [*quantize, str(at / "artifact")], self.quantized),
            "calibrate": Command(
                ernie_qa, lambda at: [*floor, "--baselines", str(at / "baselines")], self.calibrated
            ),
            "pytest": Command(
                tested,
                lambda at: [
                    *project,
                    f"--ernie-baselines={at / 'baselines'}",
                    "--ernie-update",
                    f"--ernie-report={at / 'out'}",
                ],
                lambda at: f"{self.updated(at)} bundle, {self.reported(at)} report",
                refused_once_done=True,
            ),
        }

    def accepted(self, at: Path) -> str:
        (found,) = verify(at / "baselines")
        runs = [load_record(run / "mine").hash for run in self.runs]
        number = runs.index(found.accepted["mine"].runs[0].record)
        assert found.accepted["mine"].why == self.runs[number].name
        if number == 0:
            self._as_it_was(at / "baselines" / "mini")
        return ("old", "new")[number]

    def updated(self, at: Path) -> str:
        self._as_it_was(at / "baselines" / "mini")
        bundles = [load_bundle(path) for path in bundles_in(at / "baselines")]
        assert all(set(one.records) == {"bf16", "mine"} for one in bundles)
        assert len(bundles) <= 1
        return "new" if bundles else "old"

    def calibrated(self, at: Path) -> str:
        self._as_it_was(at / "baselines" / "mini")
        return "new" if verify_noise(at / "baselines") else "old"

    def reported(self, at: Path) -> str:
        place = at / "out"
        if place.exists():
            settle(place)
        if not place.exists() or not list(place.iterdir()):
            check_directory(place)
            return "old"
        names = {entry.name for entry in place.iterdir()}
        assert {"bf16", "mine", "verdict.json", "verdict.md", "index.html"} <= names, names
        stored = parse_json((place / "verdict.json").read_text(encoding="utf-8"))
        hashes = {load_record(place / name).hash for name in ("bf16", "mine")}
        assert {verdict["record"] for verdict in stored["verdicts"]} <= hashes
        assert "</html>" in (place / "index.html").read_text(encoding="utf-8")
        return "new"

    def carded(self, at: Path) -> str:
        place = at / "artifact"
        settle(place, FILES)
        text = (place / "README.md").read_text(encoding="utf-8")
        (number,) = [n for n, run in enumerate(self.runs) if f"license: {run.name}\n" in text]
        for name in ("bf16", "mine"):
            assert load_record(place / "metrics" / name) == load_record(self.runs[number] / name)
        assert all(file.read_bytes()[8:12] == b"WEBP" for file in (place / "comparison").glob("*.webp"))
        return ("old", "new")[number]

    def quantized(self, at: Path) -> str:
        place = at / "artifact"
        if not place.exists():
            # the next run gives it its name back
            place = at / ".artifact.ernie-qa-replaced"
            assert tree(place) == tree(self.start / "artifact")
            return "old, moved aside"
        return {tree(self.start / "artifact"): "old", tree(self.place / "other"): "new"}[tree(place)]

    def _as_it_was(self, place: Path) -> None:
        assert tree(place) == tree(self.start / "baselines" / "mini"), f"{place} was changed"


def tree(place: Path) -> str:
    """A hash over every file below `place`."""
    found = hashlib.sha256()
    for file in sorted(path for path in place.rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(place)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return found.hexdigest()
