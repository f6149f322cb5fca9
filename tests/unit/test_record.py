import contextlib
import io
import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ernie_qa.errors import RecordError
from ernie_qa.fingerprint import Fingerprint
from ernie_qa.frozen import digest
from ernie_qa.picture import Picture
from ernie_qa.record import Ended, Identity, ModelIdentity, Record, load_record
from ernie_qa.trajectories import Trajectories

STORED = Path(__file__).parents[1] / "data" / "record-schema1"
FINGERPRINT = Fingerprint(
    python="3.11.7",
    platform="Linux",
    packages={"torch": "2.14.1", "lpips": None},
    cpu="a CPU",
    instruction_set=("AVX2",),
    threads=1,
    gpu=None,
    driver=None,
    cuda=None,
    compute_capability=None,
    settings={"SDNQ_USE_TORCH_COMPILE": "0"},
)


def gradient(width=6, height=4, blue=9):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 40, columns * 40, np.full_like(rows, blue)], axis=-1).astype(np.uint8)


def record(**changes):
    whole = Record(
        schema=1,
        created="2026-11-22T12:00:00+00:00",
        model=ModelIdentity("mini", None, "trained", "a" * 64),
        recipe=Identity("bf16", "b" * 64),
        suite=Identity("mini", "c" * 64),
        fingerprint=FINGERPRINT,
        figures={"images": {"lpips_mean": 0.0123, "psnr_mean": None, "cases": ["а", 1, True]}},
        pictures=(Picture.from_pixels("one", gradient()), Picture.from_pixels("two", gradient(blue=200))),
        reference=None,
    )
    return replace(whole, **changes)


def edit(path, change):
    """Change the stored JSON and give it the hash that fits, as somebody would who knows the format."""
    file = path / "record.json"
    stored = json.loads(file.read_text())
    change(stored)
    stored["hash"] = digest({key: value for key, value in stored.items() if key != "hash"})
    file.write_text(json.dumps(stored))


def refused(path):
    with pytest.raises(RecordError) as caught:
        load_record(path)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_a_picture_keeps_every_pixel(pixels):
    picture = Picture.from_pixels("one", pixels)
    assert np.array_equal(picture.pixels(), pixels)
    assert (picture.height, picture.width) == pixels.shape[:2]


@pytest.mark.parametrize(
    "pixels",
    [gradient().astype(np.float32), gradient()[..., 0], gradient()[..., :2], np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_no_pictures(pixels):
    with pytest.raises(ValueError, match="needed is uint8"):
        Picture.from_pixels("one", pixels)


def test_a_picture_needs_a_case_that_can_be_a_file():
    with pytest.raises(ValueError, match="a case's id"):
        Picture.from_pixels("../one", gradient())


def test_a_record_comes_back_as_it_was(tmp_path):
    before = record()
    before.save(tmp_path / "deep" / "r")
    after = load_record(tmp_path / "deep" / "r")
    assert after == before
    assert after.hash == before.hash
    assert np.array_equal(after.pictures[1].pixels(), gradient(blue=200))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r"]


def test_an_artifact_and_a_pinned_commit_come_back(tmp_path):
    artifact = ModelIdentity("some-org/mini-uint4", "f" * 40, "unknown", "d" * 64, pinned=True)
    model = ModelIdentity("some-org/mini", "e" * 40, "trained", "a" * 64, pinned=False)
    record(artifact=artifact, model=model).save(tmp_path / "r")
    after = load_record(tmp_path / "r")
    assert (after.artifact, after.artifact.pinned, after.model.pinned) == (artifact, True, False)
    # asking in another way makes no other model
    assert after.model == replace(model, pinned=True)


def test_what_is_not_known_of_an_artifact_or_a_commit_is_not_written(tmp_path):
    record().save(tmp_path / "r")
    stored = json.loads((tmp_path / "r" / "record.json").read_text())
    assert "artifact" not in stored
    assert set(stored["model"]) == {"name", "revision", "weights", "hash"}


def test_a_record_travels_between_processes():
    before = record()
    assert pickle.loads(pickle.dumps(before)) == before


def test_the_stored_record_of_schema_1_is_still_read():
    stored = load_record(STORED)
    assert stored.hash == "e798107cda1fc231b6d27fbe9eba6077a62b795d8356d703f23e9bce8ff83c7b"
    assert stored.recipe.name == "sdnq-uint4-static"
    assert stored.fingerprint.packages["torch"] == "2.14.1"
    assert stored.figures["images"]["cases"]["one"]["lpips"] == 0.0037
    assert [picture.case for picture in stored.pictures] == ["one", "two"]


def test_figures_are_read_only_and_finite():
    figures = {"images": {"cases": [1]}}
    made = record(figures=figures)
    figures["images"]["cases"].append(2)
    assert made.figures["images"]["cases"] == (1,)
    with pytest.raises(TypeError):
        made.figures["images"]["more"] = 1
    with pytest.raises(ValueError, match=r"figures.images.psnr: inf is not a finite number"):
        record(figures={"images": {"psnr": float("inf")}})


def test_two_pictures_of_one_case_are_refused():
    picture = Picture.from_pixels("one", gradient())
    with pytest.raises(ValueError, match="same case"):
        record(pictures=(picture, replace(picture, case="ONE")))


@pytest.mark.parametrize(
    "changes",
    [
        {"created": "2026-11-22T12:00:01+00:00"},
        {"recipe": Identity("bf16", "d" * 64)},
        {"fingerprint": replace(FINGERPRINT, threads=2)},
        {"figures": {}},
        {"pictures": ()},
        {
            "pictures": (
                Picture.from_pixels("one", gradient(blue=10)),
                Picture.from_pixels("two", gradient(blue=200)),
            )
        },
        {"reference": "e" * 64},
    ],
)
def test_the_hash_covers_everything(changes):
    assert record(**changes).hash != record().hash


def test_the_hash_is_over_pixels_not_over_their_compression():
    file = io.BytesIO()
    Image.fromarray(gradient()).save(file, "PNG", compress_level=0)
    first, second = record().pictures
    assert record(pictures=(replace(first, _png=file.getvalue()), second)).hash == record().hash


def test_a_record_is_never_overwritten(tmp_path):
    path = tmp_path / "r"
    path.mkdir()
    with pytest.raises(RecordError, match="a record is never overwritten"):
        record().save(path)
    assert list(path.iterdir()) == []


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        record().save(tmp_path / "file" / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_edited_figures_are_refused(tmp_path):
    record().save(tmp_path / "r")
    file = tmp_path / "r" / "record.json"
    file.write_text(file.read_text().replace("0.0123", "0.0023"))
    assert refused(tmp_path / "r") == (
        f"{file}: was edited: its contents do not match its hash; observe again"
    )


def test_an_edited_picture_is_refused(tmp_path):
    record().save(tmp_path / "r")
    file = tmp_path / "r" / "pictures" / "two.png"
    file.write_bytes((tmp_path / "r" / "pictures" / "one.png").read_bytes())
    assert refused(tmp_path / "r") == f"{file}: was edited: its pixels do not match the record's sha256"


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


WHOLE_PNG = png(Image.fromarray(gradient()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PNG file"),
        (b"GIF89a" + WHOLE_PNG[6:], "not a PNG file"),
        (png(Image.fromarray(gradient(8, 4))), "found 8x4 pixels, the record says 6x4"),
        (WHOLE_PNG[:16] + struct.pack(">II", 60000, 60000) + WHOLE_PNG[24:], "found 60000x60000 pixels"),
        (png(Image.fromarray(gradient()[..., 0])), "found a PNG of mode L, allowed is RGB of 8 bits"),
        (WHOLE_PNG[:50], "a damaged PNG file"),
        (WHOLE_PNG + bytes(2**17), "larger than a picture of 6x4 can be"),
    ],
    ids=["empty", "gif", "other size", "bomb", "grey", "cut off", "padded"],
)
def test_what_is_no_such_picture_is_refused(tmp_path, content, message):
    record().save(tmp_path / "r")
    file = tmp_path / "r" / "pictures" / "one.png"
    file.write_bytes(content)
    assert refused(tmp_path / "r").startswith(f"{file}: {message}")


@given(st.integers(24, len(WHOLE_PNG) - 1), st.binary(min_size=1, max_size=8))
def test_a_damaged_png_gives_its_pixels_or_a_record_error(place, damage):
    content = WHOLE_PNG[:place] + damage + WHOLE_PNG[place + len(damage) :]
    with contextlib.suppress(RecordError):
        assert Picture("one", 6, 4, "0" * 64, content).pixels().shape == (4, 6, 3)


def test_a_missing_picture_or_record_is_refused(tmp_path):
    record().save(tmp_path / "r")
    (tmp_path / "r" / "pictures" / "one.png").unlink()
    assert "one.png: no such picture in the record" in refused(tmp_path / "r")
    assert refused(tmp_path / "x").endswith("record.json: no such file")


def test_pictures_cannot_lie_outside(tmp_path):
    record().save(tmp_path / "r")
    pictures = tmp_path / "r" / "pictures"
    pictures.rename(tmp_path / "elsewhere")
    pictures.symlink_to(tmp_path / "elsewhere")
    assert "no such picture in the record" in refused(tmp_path / "r")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.update(schema=2),
            "schema: found 2, this ernie_qa reads schemas up to 1; upgrade ernie_qa",
        ),
        (lambda r: r.update(created="yesterday"), 'created: found "yesterday" (text), allowed is a UTC time'),
        (lambda r: r.update(created="2026-11-22T12:00:00"), "created: found"),
        (lambda r: r.update(more=1), "more: unknown key"),
        (lambda r: r.pop("reference"), "reference: missing"),
        (
            lambda r: r["model"].update(weights="good"),
            'model.weights: found "good" (text), allowed is one of',
        ),
        (lambda r: r["suite"].update(hash="x"), 'suite.hash: found "x" (text), allowed is a sha256'),
        (lambda r: r["fingerprint"].update(threads="1"), 'fingerprint.threads: found "1" (text)'),
        (lambda r: r["fingerprint"]["packages"].update(torch=2), "fingerprint.packages.torch: found 2"),
        (lambda r: r.update(figures=[]), "figures: found a list of 0, allowed is a table"),
        (lambda r: r["pictures"][0].update(case="../one"), 'pictures[0].case: found "../one" (text)'),
        (
            lambda r: r["pictures"][0].update(width=2**25),
            "pictures[0].height: found 4 (whole number), allowed is",
        ),
        (lambda r: r["pictures"].append(r["pictures"][0]), "pictures: two are of the same case"),
    ],
)
def test_a_forged_record_is_still_checked(tmp_path, change, message):
    record().save(tmp_path / "r")
    edit(tmp_path / "r", change)
    assert refused(tmp_path / "r").startswith(f"{tmp_path}/r/record.json: {message}")


def test_nan_in_a_stored_record_is_refused(tmp_path):
    record().save(tmp_path / "r")
    file = tmp_path / "r" / "record.json"
    file.write_text(file.read_text().replace("0.0123", "NaN"))
    assert refused(tmp_path / "r") == f"{file}: figures.images.lpips_mean: nan is not a finite number"


# trajectories, and an arm that ended early


def test_trajectories_are_kept_beside_the_record_and_count_in_its_hash(tmp_path):
    with_them = record(trajectories=Trajectories.from_bytes(b"tensors"))
    assert with_them.hash != record().hash
    with_them.save(tmp_path / "one")
    loaded = load_record(tmp_path / "one")
    assert (loaded, loaded.hash) == (with_them, with_them.hash)
    assert loaded.trajectories.content() == b"tensors"
    # and again from the file that was not read yet
    loaded.save(tmp_path / "two")
    assert load_record(tmp_path / "two").trajectories.content() == b"tensors"
    assert pickle.loads(pickle.dumps(loaded)).trajectories.content() == b"tensors"


def test_a_record_without_trajectories_has_the_hash_that_it_always_had(tmp_path):
    record().save(tmp_path / "one")
    stored = json.loads((tmp_path / "one" / "record.json").read_text())
    assert not {"trajectories", "ended"} & stored.keys()
    assert not (tmp_path / "one" / "trajectories.safetensors").exists()
    assert load_record(tmp_path / "one").trajectories is None


def test_trajectories_that_were_edited_or_are_gone_are_refused(tmp_path):
    record(trajectories=Trajectories.from_bytes(b"tensors")).save(tmp_path / "one")
    loaded = load_record(tmp_path / "one")
    file = tmp_path / "one" / "trajectories.safetensors"
    file.write_bytes(b"others!")
    assert "was edited" in refused(tmp_path / "one")
    # also where that happened after it was loaded
    with pytest.raises(RecordError, match="was edited"):
        loaded.trajectories.content()
    file.unlink()
    assert "missing, but record.json names it" in refused(tmp_path / "one")
    file.symlink_to(tmp_path / "one" / "record.json")
    assert "missing" in refused(tmp_path / "one")


def test_where_an_arm_ended_is_kept(tmp_path):
    ended = record(ended=Ended("package", "package.layers[pe]", "no layer is quantized"))
    ended.save(tmp_path / "one")
    assert load_record(tmp_path / "one") == ended
    assert ended.hash != record().hash
