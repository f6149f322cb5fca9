"""References that are not BF16's of this session, and records that are not this arm's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ernie_qa.faults import INT8, NF4, UINT4, clean, fault

if TYPE_CHECKING:
    from ernie_qa.record import Record


@fault("a reference of another torch", rung="components", recipe=UINT4, at="reference")
def other_build(reference: Record) -> Record:
    packages = {**reference.fingerprint.packages, "torch": "2.9.0"}
    return replace(reference, fingerprint=replace(reference.fingerprint, packages=packages))


@fault("a reference of another model", rung="components", recipe=NF4, at="reference")
def other_model(reference: Record) -> Record:
    return replace(reference, model=replace(reference.model, hash="0" * 64))


@fault("a reference of another suite", rung="components", recipe=INT8, at="reference")
def other_suite(reference: Record) -> Record:
    return replace(reference, suite=replace(reference.suite, hash="0" * 64))


@fault("the reference without trajectories", rung="components", recipe=UINT4, at="reference")
def no_trajectories(reference: Record) -> Record:
    return replace(reference, trajectories=None)


@fault("the reference's pictures in another order", rung="images", recipe=INT8, at="reference")
def pictures_moved(reference: Record) -> Record:
    # the first and the fourth have one size
    first, second, third, fourth, *rest = reference.pictures
    moved = (replace(fourth, case=first.case), second, third, replace(first, case=fourth.case))
    return replace(reference, pictures=(*moved, *rest))


@fault("another reference than it was measured against", rung="components", recipe=UINT4, at="record")
def other_reference(record: Record) -> Record:
    figures = {**record.figures["components"], "reference": "0" * 64}
    return replace(record, figures={**record.figures, "components": figures})


@fault("a record without the figures of a rung", rung="images", recipe=NF4, at="record")
def no_figures(record: Record) -> Record:
    return replace(record, figures={key: one for key, one in record.figures.items() if key != "images"})


@fault("a record of another recipe", rung="recipe", recipe=INT8, at="record")
def other_recipe(record: Record) -> Record:
    return replace(record, recipe=replace(record.recipe, hash="0" * 64))


@fault("a picture edited in a saved record", rung="loading", recipe=UINT4, at="record")
def edited(record: Record) -> Record:
    from PIL import Image

    def spoilt(directory: Any) -> None:
        file = directory / "pictures" / f"{record.pictures[0].case}.png"
        with Image.open(file) as picture:
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)

    return _saved(record, spoilt)


@fault("a figure edited in a saved record", rung="loading", recipe=NF4, at="record")
def figure_edited(record: Record) -> Record:
    def spoilt(directory: Any) -> None:
        file = directory / "record.json"
        file.write_text(file.read_text("utf-8").replace('"l2_max": 0.', '"l2_max": 0.0', 1), "utf-8")

    return _saved(record, spoilt)


def _saved(record: Record, changed: Any) -> Record:
    """The record as it is read from where it was saved and something `changed` it."""
    import tempfile
    from pathlib import Path

    from ernie_qa.record import load_record

    with tempfile.TemporaryDirectory() as place:
        record.save(Path(place) / "record")
        changed(Path(place) / "record")
        return load_record(Path(place) / "record")


@clean("pictures compressed once more", recipe=UINT4, at="record")
def recompressed(record: Record) -> Record:
    from PIL import Image

    def packed(directory: Any) -> None:
        for file in (directory / "pictures").iterdir():
            with Image.open(file) as picture:
                picture.copy().save(file, compress_level=1)

    return _saved(record, packed)


@clean("the record's JSON written in another layout", recipe=NF4, at="record")
def other_layout(record: Record) -> Record:
    import json

    def written(directory: Any) -> None:
        file = directory / "record.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")), indent=4, sort_keys=True), "utf-8")

    return _saved(record, written)
