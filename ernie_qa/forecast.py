"""What a gate would need here: downloads, disk, memory, and time an arm. Nothing is fetched, loaded or drawn.

Memory and time are those of accepted runs. Where nobody measured they are unknown, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.baseline.store import CANDIDATES, find_baseline
from ernie_qa.fidelity import lpips_weights
from ernie_qa.fingerprint import take_fingerprint
from ernie_qa.meter import available, room
from ernie_qa.models.hub import Download
from ernie_qa.models.weights import bf16_bytes
from ernie_qa.recipe import REFERENCE, find_recipe

if TYPE_CHECKING:
    from ernie_qa.baseline.accepted import Accepted
    from ernie_qa.baseline.store import Baseline
    from ernie_qa.fingerprint import Fingerprint
    from ernie_qa.plan import Plan
    from ernie_qa.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Writing:
    """`what` would be written below `place`, in `bytes`: about as many, or `at_most`.

    `free` is what is left on that disk, in bytes.
    """

    what: str
    place: Path
    bytes: int
    at_most: bool
    free: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Arm:
    """What accepted runs of one recipe took; None where nobody measured.

    `seconds` are the least and the most of loading and drawing, `peak_bytes` the most memory. `measured_on`
    names the machines; `here` says that they are as this one, so that the time holds.
    """

    recipe: str
    seconds: tuple[float, float] | None = None
    peak_bytes: int | None = None
    measured_on: tuple[str, ...] = ()
    here: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a gate would need, all sizes in bytes.

    `weights` are the model's in BF16, `available` is what `device` has of memory. Of a model that is not here
    yet only the download is known, and where that goes. `warnings` are the plan's.
    """

    model: str
    suite: str | None
    device: str | None
    machine: str | None
    downloads: tuple[Download, ...]
    writings: tuple[Writing, ...]
    weights: int | None = None
    available: int | None = None
    arms: tuple[Arm, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Least and most of all arms together; None where one is unknown."""
        known = [arm.seconds for arm in self.arms if arm.seconds]
        if not known or len(known) < len(self.arms):
            return None
        return sum(low for low, _ in known), sum(high for _, high in known)

    @property
    def needed(self) -> int:
        """Bytes of memory that the largest arm is known to take: a measured peak, or BF16's weights alone."""
        return max([self.weights or 0, *(arm.peak_bytes or 0 for arm in self.arms)])

    @property
    def short_of_memory(self) -> bool:
        """Whether an arm is known to take more than is available."""
        return self.available is not None and self.needed > self.available

    @property
    def short_of_disk(self) -> tuple[Writing, ...]:
        """What has no room, or no place that can be written."""
        return tuple(one for one in self.writings if one.bytes > one.free or not one.writable)

    @property
    def ready(self) -> bool:
        """Whether nothing is known to be lacking here."""
        return not self.short_of_memory and not self.short_of_disk


def forecast(
    plan: Plan, *, baselines: Path | None = None, report: Path | None = None, update: bool = False
) -> Forecast:
    """What running `plan` needs on this machine, with a `report`, and candidates kept where `update` says so.

    Imports torch. BaselineError where what was accepted below `baselines` is damaged, UnavailableError where
    torchvision's copy of LPIPS's backbone is.
    """
    import torch

    machine = take_fingerprint(plan.device)
    known = baselines is not None and (baselines.exists() or not update)
    baseline = find_baseline(baselines, plan.model.name, machine.machine) if baselines and known else None
    recipes = {REFERENCE: find_recipe(REFERENCE)} | {recipe.name: recipe for recipe in plan.recipes}
    accepted = {name: accepted_for(recipe, plan, baseline) for name, recipe in recipes.items()}
    candidates = baselines / CANDIDATES if baselines and update else None
    pictures = baseline.pictures if baseline and accepted[REFERENCE] else None
    if pictures:
        size = len(recipes) * sum(len(picture.png) for picture in pictures.pictures)
    else:
        size = len(recipes) * sum(largest_png(case.width, case.height) for case in plan.suite.cases)
    return Forecast(
        model=plan.model.name,
        suite=plan.suite.title,
        device=plan.device,
        machine=described(machine),
        downloads=tuple(_downloads(plan)),
        writings=tuple(
            Writing("pictures (records not counted)", place, size, not pictures, *room(place.absolute()))
            for place in (report, candidates)
            if place
        ),
        weights=bf16_bytes(plan.model),
        available=available(torch.device(plan.device)),
        arms=tuple(arm_of(recipe, runs, machine) for recipe, runs in accepted.items()),
        warnings=plan.warnings,
    )


def forecast_download(download: Download) -> Forecast:
    """All that is known before the model that is to be downloaded is here; imports no torch."""
    writing = Writing("model files", download.place, download.bytes or 0, False, *room(download.place))
    return Forecast(download.name, None, None, None, (download,), (writing,))


def accepted_for(recipe: Recipe, plan: Plan, baseline: Baseline | None) -> Accepted | None:
    """What was accepted for just this recipe, model and suite: of others nothing follows."""
    found = baseline.accepted.get(recipe.name) if baseline else None
    if found is None or found.recipe.hash != recipe.hash:
        return None
    same = (found.model.hash, found.suite.hash) == (plan.model.identity.hash, plan.suite.hash)
    return found if same else None


def arm_of(recipe: str, accepted: Accepted | None, machine: Fingerprint) -> Arm:
    """What `recipe` took on machines as this one, or where there are none, on all that are known."""
    if accepted is None:
        return Arm(recipe)
    like = [run for run in accepted.runs if described(run.fingerprint) == described(machine)]
    runs = like or accepted.runs
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return Arm(
        recipe,
        (min(seconds), max(seconds)) if seconds else None,
        max((run.peak_bytes for run in runs if run.peak_bytes is not None), default=None),
        tuple(dict.fromkeys(described(run.fingerprint) for run in runs)),
        bool(like),
    )


def described(machine: Fingerprint) -> str:
    """What of a machine its speed goes by: the GPU's model, or the CPU's instructions and torch's threads."""
    if machine.gpu:
        return machine.gpu
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    return f"{' '.join(machine.instruction_set)}, {threads}"


def largest_png(width: int, height: int) -> int:
    """Bytes that a PNG of that many RGB pixels takes at most, which is what noise takes."""
    rows = height * (3 * width + 1)
    # what cannot be compressed is stored in blocks and chunks, and their headers took up to 0.15 % of noise
    return rows + rows // 512 + 1024


def _downloads(plan: Plan) -> Iterator[Download]:
    # as a session prepares: pictures of random weights mean nothing, and LPIPS does not see them
    if plan.model.weights != "random" and lpips_weights.find() is None:
        yield Download("LPIPS's backbone", lpips_weights.cache_path().parent)
