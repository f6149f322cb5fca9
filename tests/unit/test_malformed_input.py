"""Files and names as an attacker, a crash or a slip leaves them, given to the commands that read them.

Each has to end in one line that names the file, exit code 2, and nothing written.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ernie_qa.cli import main
from ernie_qa.errors import ModelError, UnavailableError
from ernie_qa.execute import Session
from ernie_qa.fidelity.lpips_weights import cache_path, read_cached
from ernie_qa.pipeline import load_pipeline
from ernie_qa.plan import plan
from ernie_qa.recipe import Recipe
from ernie_qa.record import Record
from ernie_qa.report.written import write_report
from ernie_qa.toml_input import MAX_BYTES
from tests.accepting import accepted, bundle
from tests.unit.test_capsule import WHOLE

Observed = tuple[Recipe, dict[str, Record]]
Change = Callable[[bytes], bytes]
SHIPPED = Path(__file__).parents[2] / "baselines"


def key(text: str) -> Change:
    """Another key in front of the first of a JSON object."""
    return lambda content: b"{" + text.encode() + b"," + content.lstrip()[1:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, mode: int = 2, zeros: int = 1000, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    pixels = zlib.compress(bytes(zeros), 9)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def headed(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def replaced(old: str, new: str) -> Change:
    def change(content: bytes) -> bytes:
        assert old.encode() in content, old
        return content.replace(old.encode(), new.encode(), 1)

    return change


class Runs:
    """A pickle that would make a directory where it is loaded."""

    def __reduce__(self) -> object:
        return os.mkdir, ("pwned",)


BYTES: dict[str, Change] = {
    "empty": lambda _: b"",
    "not UTF-8": lambda _: b'{"schema": "\xff\xfe"}',
    "truncated": lambda content: content[: len(content) // 2],
    "a pickle": lambda _: pickle.dumps(Runs()),
    "larger than allowed": lambda content: content + b" " * (MAX_BYTES * 65),
}
JSON: dict[str, Change] = BYTES | {
    "a list": lambda _: b"[1, 2]",
    "null": lambda _: b"null",
    "nested 60000 deep": lambda _: b'{"a":' * 60000 + b"1" + b"}" * 60000,
    "nested 65 deep": key('"deep": ' + "[" * 65 + "]" * 65),
    "a key twice": key('"twice": 1, "twice": 2'),
    "a number of 5000 digits": key('"schema": ' + "9" * 5000),
}
STORED: dict[str, Change] = JSON | {
    "a later schema": replaced('"schema": ', '"schema": 99'),
    "a schema that is NaN": replaced('"schema": ', '"schema": NaN, "x": '),
    "a schema that is infinite": replaced('"schema": ', '"schema": -Infinity, "x": '),
    "a schema that is text": replaced('"schema": ', '"schema": "1", "x": '),
}
TOML: dict[str, Change] = BYTES | {
    "a later schema": replaced("schema = 1", "schema = 99"),
    "a schema that is NaN": replaced("schema = 1", "schema = nan"),
    "a key twice": replaced("schema = 1", "schema = 1\nschema = 1"),
    "nested 60000 deep": lambda content: b"a = " + b"[" * 60000 + b"\n" + content,
    "a key of 100000 parts": lambda content: b".".join([b"a"] * 100000) + b" = 1\n" + content,
    "a header of 100000 parts": lambda content: content + b"\n[" + b".".join([b"a"] * 100000) + b"]\n",
    "an unknown key": lambda content: b"trust_remote_code = true\n" + content,
}
CONFIG: dict[str, Change] = JSON | {"code of its own": key('"auto_map": {"AutoModel": "evil.Model"}')}
SAFETENSORS: dict[str, Change] = {
    "empty": BYTES["empty"],
    "a pickle": BYTES["a pickle"],
    "truncated": BYTES["truncated"],
    "a header of 2**63 bytes": lambda content: (2**63).to_bytes(8, "little") + content[8:],
    "a header that is no JSON": lambda _: headed(b"not json"),
    "a header nested 60000 deep": lambda _: headed(b"[" * 60000 + b"]" * 60000),
    "a header that is a list": lambda _: headed([]),
    "a tensor without a place": lambda _: headed({"a": {"dtype": "F32", "shape": [1]}}),
    "a tensor at infinity": lambda _: headed(b'{"a": {"data_offsets": [0, Infinity]}}'),
    "a tensor twice": lambda _: headed(b'{"a": {"data_offsets": [0, 0]}, "a": {"data_offsets": [0, 0]}}'),
    "a tensor beyond the end": lambda _: headed({"a": {"data_offsets": [0, 2**60]}}),
}
PICTURE: dict[str, Change] = {
    "empty": BYTES["empty"],
    "truncated": BYTES["truncated"],
    "a bomb of 60000 x 60000": lambda _: png(60000, 60000, zeros=10**6),
    "a bomb behind a true size": lambda _: png(64, 64, zeros=10**8),
    "a bomb in its text": lambda _: png(64, 64, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))),
    "of no size": lambda _: png(0, 64),
    "grey": lambda _: png(64, 64, mode=0),
    "WebP": lambda _: b"RIFF\x24\x00\x00\x00WEBPVP8L" + bytes(20),
    "a page": lambda _: b"<svg onload=alert(1)>",
    "other pixels": lambda _: png(64, 64, zeros=64 * (64 * 3 + 1)),
}
PATHS = {
    "outside": "../../outside",
    "absolute": "/etc/passwd",
    "a backslash": "..\\\\outside",
    "a NUL": "a\\u0000b",
    "hidden": ".hidden",
}
RECIPE_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..\\x",
    "a\0b.toml",
    ".",
    "",
    "x" * 5000,
    "./..toml",
    "\ud800",
]
MODEL_NAMES = [
    "../..",
    "/etc",
    "a\0b",
    "",
    "x" * 5000,
    "../a/b",
    "org/name@../x",
    "a\\b",
    "http://a/b",
    "-/-",
]


@dataclass(frozen=True)
class Kind:
    """One kind of file: where it lies below the ground's directory, how it is damaged, and who reads it."""

    file: str
    changes: dict[str, Change]
    command: tuple[str, ...]


def gate(model: str = "model", recipe: str = "recipe.toml", suite: str = "small.toml") -> tuple[str, ...]:
    return (
        "gate",
        "--device=cpu",
        f"--model=./{model}",
        f"--recipe=./{recipe}",
        f"--suite=./{suite}",
        "--report=out",
    )


VERIFY = ("baseline", "verify", "--baselines=root")
KINDS = {
    "recipe": Kind("recipe.toml", TOML, gate()),
    "suite": Kind(
        "small.toml",
        TOML
        | {f"a case's name {name}": replaced('id = "one"', f'id = "{path}"') for name, path in PATHS.items()},
        gate(),
    ),
    "record": Kind(
        "run/lenient/record.json",
        STORED
        | {
            f"a case's name {name}": replaced('"case": "one"', f'"case": "{path}"')
            for name, path in PATHS.items()
        }
        | {
            f"a recipe's name {name}": replaced('"name": "lenient"', f'"name": "{path}"')
            for name, path in PATHS.items()
        }
        | {"a picture of 2**31 pixels": replaced('"width": 64', '"width": 2147483648')},
        ("show", "run/lenient"),
    ),
    "record's picture": Kind("run/lenient/pictures/one.png", PICTURE, ("report", "run", "--output=out")),
    "verdict": Kind("run/verdict.json", STORED, ("report", "run", "--output=out")),
    "accepted figures": Kind(
        "root/tiny/cpu/lenient.json",
        STORED
        | {"a looser limit": replaced('"limit": ', '"limit": 9')}
        | {
            f"a recipe's name {name}": replaced('"name": "lenient"', f'"name": "{path}"')
            for name, path in PATHS.items()
        },
        VERIFY,
    ),
    "baseline's index": Kind("root/tiny/cpu/index.json", STORED, VERIFY),
    "baseline's picture manifest": Kind("root/tiny/cpu/pictures/manifest.json", STORED, VERIFY),
    "baseline's picture": Kind("root/tiny/cpu/pictures/one.png", PICTURE, VERIFY),
    "noise floor": Kind("root/noise/mini/cpu/mini.json", STORED, VERIFY),
    "model's index": Kind("model/model_index.json", JSON, gate()),
    "model's manifest": Kind(
        "model/ernie_qa.json",
        STORED
        | {f"a name {name}": replaced('"name": "tiny"', f'"name": "{path}"') for name, path in PATHS.items()},
        gate(),
    ),
    "component's config": Kind("model/transformer/config.json", CONFIG, gate()),
    "tokenizer's config": Kind("model/tokenizer/tokenizer_config.json", CONFIG, gate()),
    "weights": Kind("model/vae/diffusion_pytorch_model.safetensors", SAFETENSORS, gate()),
    "index of shards": Kind(
        "model/vae/diffusion_pytorch_model.safetensors.index.json",
        {name: change for name, change in JSON.items() if name != "larger than allowed"},
        gate(),
    ),
    "capsule": Kind(
        "nf4.capsule",
        SAFETENSORS,
        ("capsule", "check", "nf4.capsule", "./model"),
    ),
}
FILES = [(kind, name) for kind, what in KINDS.items() for name in what.changes]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, observed: Observed, tiny_model: Path, small_suite: Path
) -> Path:
    """Everything that the commands read, undamaged."""
    ground = tmp_path_factory.mktemp("whole")
    recipe, records = observed
    source = recipe.path
    shutil.copy(source, ground / "recipe.toml")
    shutil.copy(small_suite, ground / "small.toml")
    session = Session(plan(tiny_model, [source], small_suite))
    list(session)
    write_report(ground / "run", session)
    accepted(ground / "root", bundle(ground / "bundle", records), recipes=(recipe,))
    shutil.rmtree(ground / "bundle")
    (noise,) = (SHIPPED / "noise" / "mini" / "cpu").glob("*.json")
    (ground / "root" / "noise" / "mini" / "cpu").mkdir(parents=True)
    shutil.copy(noise, ground / "root" / "noise" / "mini" / "cpu" / "mini.json")
    shutil.copytree(tiny_model, ground / "model")
    manifest = {"schema": 1, "name": "tiny", "weights": "random", "suite": "mini", "summary": "random"}
    (ground / "model" / "ernie_qa.json").write_text(json.dumps(manifest))
    weights = ground / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shards = {"metadata": {}, "weight_map": {name: weights.name for name in header if name != "__metadata__"}}
    (weights.parent / f"{weights.name}.index.json").write_text(json.dumps(shards))
    (ground / "nf4.capsule").write_bytes(WHOLE)
    return ground


@pytest.fixture
def ground(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it by links, the current directory; a test replaces files and never writes into one."""
    place = tmp_path / "ground"
    shutil.copytree(whole, place, copy_function=os.link)
    monkeypatch.chdir(place)
    return place


def tree(place: Path) -> dict[str, tuple[int, int]]:
    """All that is there, with sizes and times of files."""
    return {
        file.relative_to(place).as_posix(): (file.stat().st_size, file.stat().st_mtime_ns)
        if file.is_file()
        else (0, 0)
        for file in place.rglob("*")
    }


def refused(arguments: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends that has written nothing around `place`."""
    before = tree(place.parent)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("ernie-qa: ")
    assert len(output.err.splitlines()) == 1, output.err
    assert not output.out
    assert tree(place.parent) == before
    return output.err


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_malformed_file_is_one_line_that_names_it(
    kind: str, name: str, ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = KINDS[kind]
    file = ground / what.file
    content = what.changes[name](file.read_bytes())
    file.unlink()
    file.write_bytes(content)
    told = refused(what.command, ground, capsys)
    file.unlink()
    assert file.name in told


@pytest.mark.parametrize(
    "command",
    [(*gate()[:-1], "--dry-run"), ("show", "run/lenient"), ("report", "run", "--output=out"), VERIFY],
    ids=lambda command: command[0],
)
def test_what_is_whole_is_taken(command: tuple[str, ...], ground: Path) -> None:
    assert main(command) == 0


@pytest.mark.parametrize(
    "value",
    [
        {"num_layers": "x"},
        {"num_layers": None},
        {"rope_axes_dim": 1},
        {"_class_name": 7},
        {"hidden_size": -1},
    ],
)
def test_a_config_that_the_libraries_cannot_use_is_one_line(value: dict[str, object], ground: Path) -> None:
    file = ground / "model" / "transformer" / "config.json"
    changed = json.loads(file.read_text()) | value
    file.unlink()
    file.write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_pipeline("model", "bf16", device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("option", ["recipe", "suite"])
@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_name_that_is_none(
    option: str, name: str, ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused((*gate(), f"--{option}={name}"), ground, capsys)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_model_that_is_none(
    name: str, ground: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused((*gate(), f"--model={name}"), ground, capsys)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "/proc/self/mem", "\ud800"])
@pytest.mark.parametrize(
    "command",
    [
        ("show",),
        ("report", "--output=out"),
        ("baseline", "verify", "--baselines"),
        ("capsule", "check", "--", "mini"),
    ],
)
def test_a_path_that_is_none(
    command: tuple[str, ...], name: str, ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command[0] == "capsule":
        refused(("capsule", "check", name, "mini"), ground, capsys)
    else:
        refused((*command, name), ground, capsys)


@pytest.mark.parametrize("change", SAFETENSORS.values(), ids=SAFETENSORS.keys())
def test_malformed_lpips_weights_are_refused(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERNIE_QA_CACHE", str(tmp_path))
    cache_path().write_bytes(
        change(headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4))
    )
    with pytest.raises(UnavailableError, match=r"lpips-alexnet\.safetensors"):
        read_cached(cache_path())
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "name", ["model.bin", "vae/x.ckpt", "transformer/pytorch_model.bin", "text_encoder/a.PT"]
)
def test_a_pickle_beside_the_weights_is_refused(
    name: str, ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ground / "model" / name).write_bytes(pickle.dumps(Runs()))
    assert "pickle" in refused(gate(), ground, capsys)
    assert not Path("pwned").exists()


def test_no_call_asks_for_code_from_elsewhere() -> None:
    sources = (SHIPPED.parent / "ernie_qa").rglob("*.py")
    assert not [file for file in sources if "trust_remote_code" in file.read_text("utf-8")]


def test_how_many_there_are() -> None:
    """SECURITY.md says so."""
    kinds = len(KINDS) + 1 + 1 + 1 + 1
    inputs = len(FILES) + 2 * len(RECIPE_NAMES) + len(MODEL_NAMES) + 16 + len(SAFETENSORS) + 4 + 5
    assert (inputs, kinds) >= (100, 10)
    said = (SHIPPED.parent / "SECURITY.md").read_text("utf-8")
    assert f"{inputs} malformed inputs of {kinds} kinds" in " ".join(said.split())
