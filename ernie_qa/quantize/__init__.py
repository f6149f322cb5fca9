"""Quantizing a model to a directory: what a recipe does in memory, as an artifact that others can load.

Component by component: one is loaded, quantized and written before the next one is loaded, so that memory
holds the largest at most. What is written stays where the work is interrupted, see `ernie_qa.quantize.parts`.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.errors import InputError, ModelError, RecipeError, UnavailableError
from ernie_qa.meter import open_window, peak_resident, peaks, require_device
from ernie_qa.models.artifact import check_artifact
from ernie_qa.models.find import Model, find_model
from ernie_qa.models.place import Terms, check_new, unfinished
from ernie_qa.pipeline import classes, import_classes, told_in_one_line
from ernie_qa.quantize.metadata import described, versions, write_metadata
from ernie_qa.quantize.needed import estimate, size_of
from ernie_qa.quantize.parts import PARTIAL, Part, Parts
from ernie_qa.quantizers import ComponentSource, checked_options, find_quantizer
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.suite import Suite, find_suite
from ernie_qa.toml_input import one_line

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, str], None]
"""Called with the bytes of the model that are done, all of them, and what is being done."""

CHUNK = 16 * 2**20
"""Bytes that are copied at once."""
_OS_ERROR = re.compile(r"os error (\d+)")
"""How safetensors, which is written in Rust, tells the system's number of an error."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a directory was made; the parts `kept` are not made again by the same call."""

    def __init__(self, kept: tuple[str, ...]) -> None:
        super().__init__()
        self.kept = kept


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was written, and what that took.

    `before` and `after` are bytes of all files, of the model's `model_index.json` and components, and of the
    directory. `peak_allocated` is what torch held at most on the GPU, None on a CPU; `peak_resident` what the
    process held in main memory, mapped files included. `resumed` are the parts that an earlier run had done,
    with its own figures.
    """

    directory: Path
    model: str
    recipe: str
    device: str
    parts: tuple[Part, ...]
    resumed: tuple[str, ...]
    before: int
    after: int
    seconds: float
    peak_allocated: int | None
    peak_resident: int


def quantize(
    model: Model | str | Path,
    recipe: Recipe | str | Path,
    directory: Path,
    *,
    device: str | None = None,
    suite: Suite | str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Quantized:
    """Write `model` as `recipe` quantizes it to `directory`, all or nothing.

    `device` is "cuda" where there is one, else "cpu". `suite` is where the recommended steps and guidance
    come from, else the one that the model names. With `overwrite`, `directory` may be a model directory,
    which stays until the new one is whole. InputError where something given is wrong, UnavailableError where
    the device, the disk or a quantizer is not to be had; what was done by then is kept beside `directory`,
    and the same call goes on there. Ctrl-C raises Interrupted, which says what is kept, once that was begun.
    """
    began = time.monotonic()
    import torch

    wanted = find_recipe(recipe)
    options = checked_options(wanted)
    if not wanted.components:
        raise RecipeError(f"recipe {wanted.name} quantizes nothing: name one of those that do")
    check_new(Path(directory), _terms(overwrite))
    found = find_model(model)
    _check_apart(found, Path(directory))
    check_artifact(found, wanted)
    named = suite or found.suite
    sampling = find_suite(named) if named else None
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    require_device(chosen)
    place = torch.device(chosen)
    for name in sorted(set(wanted.components.values())):
        if place.type not in find_quantizer(name).DEVICES:
            raise UnavailableError(f"recipe {wanted.name}: {name} does not run on {place.type}")
        find_quantizer(name).prepare(place.type)
    import_classes(found)
    parts = Parts(described(found, wanted, place.type, versions(wanted)))
    work = _Work(found, wanted, options, place, parts, progress)
    resumed: tuple[str, ...] = ()
    terms = replace(_terms(overwrite), kept=parts.kept)
    hidden = None
    try:
        with unfinished(Path(directory), work.needed, terms) as hidden, _os_errors():
            resumed = tuple(part.name for part in parts.of(hidden))
            work.run(hidden)
            done = parts.of(hidden)
            write_metadata(hidden, found, wanted, options, sampling)
            _check_whole(hidden, Path(directory), found, wanted, parts)
    except KeyboardInterrupt:
        if hidden is None:
            raise
        raise Interrupted(tuple(part.name for part in parts.of(hidden))) from None
    allocated = [part.peak_allocated for part in done if part.peak_allocated is not None]
    return Quantized(
        directory=Path(directory),
        model=found.name,
        recipe=wanted.name,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        parts=done,
        resumed=resumed,
        before=size_of(found.path / "model_index.json") + sum(part.before for part in done),
        after=size_of(Path(directory)),
        seconds=time.monotonic() - began,
        peak_allocated=max(allocated, default=None),
        peak_resident=max(part.peak_resident for part in done),
    )


class _Work:
    """One model's way into a directory."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        options: Any,
        place: torch.device,
        parts: Parts,
        progress: Progress,
    ) -> None:
        self._model, self._recipe, self._options = model, recipe, options
        self._place, self._parts, self._progress = place, parts, progress
        self._before = {name: size_of(model.path / name) for name in model.components}
        self._done, self._total = 0, sum(self._before.values())
        # the smallest of what is quantized first, and copies at the end
        self._order = sorted(
            model.components, key=lambda name: (name not in recipe.components, self._before[name])
        )

    def needed(self, hidden: Path) -> int:
        """Bytes that are still to be written there, about."""
        left = set(self._model.components) - {part.name for part in self._parts.of(hidden)}
        return estimate(self._model, self._recipe, self._options, str(self._place), left)

    def run(self, hidden: Path) -> None:
        """Make every part that is not there yet."""
        for name in self._order:
            if any(part.name == name for part in self._parts.of(hidden)):
                self._done += self._before[name]
                continue
            began, allocated = time.monotonic(), None
            if name in self._recipe.components:
                # the one before is collected here
                open_window(self._place)
                self._quantize(name, hidden)
                allocated = peaks(self._place)["allocated"]
            else:
                self._copy(name, hidden)
            part = Part(
                name=name,
                quantizer=self._recipe.components.get(name),
                before=self._before[name],
                after=size_of(hidden / PARTIAL),
                seconds=round(time.monotonic() - began, 3),
                peak_allocated=allocated,
                peak_resident=peak_resident(),
            )
            self._parts.add(hidden, part)
            self._done += self._before[name]
            self._tell(f"{name}: done")

    def _quantize(self, name: str, hidden: Path) -> None:
        quantizer = find_quantizer(self._recipe.components[name])
        options = self._options[self._recipe.components[name]]
        library, class_name = classes(self._model)[name]
        source = ComponentSource(self._model.path, name, library, class_name, str(self._place))
        self._tell(f"{name}: quantizing")
        with told_in_one_line(self._model, "quantize on the CPU: --device cpu"):
            module = quantizer.load(source, options)
        self._tell(f"{name}: writing", self._before[name] // 2)
        quantizer.save(module, hidden / PARTIAL, options)

    def _copy(self, name: str, hidden: Path) -> None:
        """The component's files, byte by byte: never a link, which would change with the model's."""
        source, copied = self._model.path / name, 0
        (hidden / PARTIAL).mkdir()
        for file in sorted(source.rglob("*")):
            target = hidden / PARTIAL / file.relative_to(source)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as write:
                for chunk in _chunks(file):
                    copied += write.write(chunk)
                    self._tell(f"{name}: copying", copied)

    def _tell(self, what: str, more: int = 0) -> None:
        self._progress(self._done + more, self._total, what)


def _chunks(file: Path) -> Iterator[bytes]:
    """The content of one of the model's files. ModelError where it cannot be read, which is not the output's
    fault."""
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                yield chunk
    except OSError as problem:
        said = problem.strerror or str(problem)
        raise ModelError(one_line(f"{file}: cannot be read: {said}; look at the model's files")) from None


def _terms(overwrite: bool) -> Terms:
    def replaceable(target: Path) -> bool:
        return overwrite and (target / "model_index.json").is_file()

    return Terms(
        smaller="remove another model",
        replaceable=replaceable,
        refusal="holds something; name a new directory, or --overwrite to replace a model directory",
    )


def _check_apart(model: Model, directory: Path) -> None:
    """InputError where writing would touch the model itself."""
    source, target = model.path.resolve(), directory.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise InputError(
            one_line(f"{directory}: holds the model {model.path}, or is in it; name a directory elsewhere")
        )


def _check_whole(hidden: Path, directory: Path, model: Model, recipe: Recipe, parts: Parts) -> None:
    """Forget which parts are done, for all are; UnavailableError where they do not read back, as after a
    power cut: then too, or every later run would meet the same."""
    try:
        check_artifact(model, recipe, find_model(hidden))
    except ModelError as problem:
        # what to do about a model that was fetched comes after the last semicolon
        what = str(problem).replace(str(hidden), str(directory)).rpartition("; ")[0] or str(problem)
        raise UnavailableError(f"{what}; it was not written as it should be: run it again") from None
    finally:
        parts.forget(hidden)


@contextmanager
def _os_errors() -> Iterator[None]:
    """Raise what safetensors makes of an OSError as an OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as problem:
        if number := _OS_ERROR.search(str(problem)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from problem
        raise OSError(errno.EIO, str(problem)) from problem
