"""Bundles and baselines made of really observed records, with one thing changed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_qa.acceptance import Proposal, accept
from ernie_qa.baseline.bundle import Bundle, load_bundle
from ernie_qa.frozen import thaw
from ernie_qa.picture import Picture
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record


def bundle(directory: Path, records: Mapping[str, Record]) -> Bundle:
    """The bundle in `directory` that a run would leave of `records`."""
    for name, record in records.items():
        record.save(directory / name)
    return load_bundle(directory)


def with_figures(record: Record, *path: str, value: Any) -> Record:
    """`record` with the figure at `path` changed, as if it had been observed so."""
    figures = thaw(record.figures)
    place = figures
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return replace(record, figures=figures)


def scored(record: Record, factor: float = 1.0, added: float = 0.0) -> Record:
    """`record` with LPIPS `factor` times as high, of every picture and in the mean, and `added` to it."""
    mean = record.figures["images"]["metrics"]["lpips"]["mean"]
    changed = with_figures(record, "images", "metrics", "lpips", "mean", value=mean * factor + added)
    for case, figure in record.figures["images"]["cases"].items():
        if "lpips" in figure["scores"]:
            value = figure["scores"]["lpips"] * factor + added
            changed = with_figures(changed, "images", "cases", case, "scores", "lpips", value=value)
    return changed


def with_scores(record: Record, lpips: Sequence[float], ssim: Sequence[float]) -> Record:
    """`record` as if it had drawn as many cases, with these scores."""
    one = thaw(next(iter(record.figures["images"]["cases"].values())))
    cases = {
        f"case{index}": {**one, "scores": {"lpips": pair[0], "ssim": pair[1]}}
        for index, pair in enumerate(zip(lpips, ssim, strict=True))
    }
    changed = with_figures(record, "images", "cases", value=cases)
    for name, scores, worst in (("lpips", lpips, max), ("ssim", ssim, min)):
        summary = {"mean": sum(scores) / len(scores), worst.__name__: worst(scores)}
        for statistic, value in summary.items():
            changed = with_figures(changed, "images", "metrics", name, statistic, value=value)
    return changed


def on_a_gpu(record: Record, seconds: float, peak: int = 10**9) -> Record:
    """`record` as if a GPU had drawn every picture in `seconds`, with at most `peak` bytes allocated."""
    gpu = replace(record.fingerprint, gpu="NVIDIA H100 80GB HBM3", driver="580.1", cuda="13.0")
    cases = [picture.case for picture in record.pictures]
    record = replace(record, fingerprint=gpu)
    peaks = {"allocated": peak, "reserved": 2 * peak}
    one = {"seconds": seconds, "stages": {}, "peak": peaks, "compiled": 0}
    record = with_figures(record, "cost", "pictures", value=dict.fromkeys(cases, one))
    record = with_figures(record, "cost", "physical", value=80 * 2**30)
    ratios = {"reference": record.reference, "latency_ratio": 1.0, "peak_ratio": 1.0}
    return with_figures(record, "cost", "ratios", value=ratios)


def moved(
    records: Mapping[str, Record], drift: float | None, pictures: str | None = None
) -> dict[str, Record]:
    """`records` of a stack on which BF16 draws other pictures, `drift` of LPIPS from those of `pictures`; the
    others are measured against the new BF16."""
    bf16 = records["bf16"]
    drawn = tuple(
        Picture.from_pixels(picture.case, picture.pixels() ^ np.uint8(1)) for picture in bf16.pictures
    )
    new = replace(bf16, pictures=drawn)
    if drift is not None:
        metrics = {"lpips": {"mean": drift, "max": drift}, "ssim": {"mean": 1.0, "min": 1.0}}
        new = with_figures(new, "images", "drift", value={"pictures": pictures, "metrics": metrics})
    return {"bf16": new} | {name: against(record, new) for name, record in records.items() if name != "bf16"}


def against(record: Record, reference: Record) -> Record:
    """`record` as if it had been measured against `reference`."""
    return replace(
        with_figures(record, "images", "reference", value=reference.hash), reference=reference.hash
    )


def accepted(root: Path, *bundles: Bundle, recipes: tuple[Recipe, ...], **options: Any) -> Proposal:
    """What accepting made of `bundles`."""
    return accept(root, bundles, why="a test", by="a tester", recipes=recipes, **options)
