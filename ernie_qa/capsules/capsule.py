"""A capsule: what a published recipe is and gives, in one hashed file (`ernie_qa.capsules.container`). No
torch.

Its tensors are a tape (`ernie_qa.teacher`), what BF16's parts were fed and gave, and under `published/` what
the published arm's parts gave when they were fed the same (`ernie_qa.capsules.answers`). Its document holds
the rest.

Schemas: 1 (the first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ernie_qa.capsules.container import MAX_BYTES, pack, unpack
from ernie_qa.errors import CapsuleError, ErnieQAError
from ernie_qa.fingerprint import Fingerprint, read_fingerprint
from ernie_qa.frozen import SHA256, SHA256_RULE, Frozen, digest, thaw
from ernie_qa.recipe import QUANTIZABLE, Recipe
from ernie_qa.record import ModelIdentity, read_model
from ernie_qa.suite import Case, Suite
from ernie_qa.toml_input import CASE_NAME, SAFE_NAME, SAFE_NAME_RULE, Table, one_line

SCHEMA = 1
MAX_SIDE = 4096
"""Pixels. No case of a capsule is larger, so that no edited one fills a machine's memory."""
MAX_STEPS = 200


@dataclass(frozen=True, slots=True)
class Part:
    """One component as it is loaded; JSON values only.

    quantizer   that the recipe names for it; None where it stays in BF16
    artifact    whether it was read from files that hold it quantized
    flag        what its configuration claims once it is loaded, and `stored` in its files
    states      layer -> what it is: quantized, shape, bits, and as `weight.` and `runtime.` what it stores
                and how it is set up to run
    tensors     the sha256 of each tensor, of all together for a quantized layer, by its name
    calls       layer -> how many calls were watched, and how many of them ran the quantized kernel
    """

    quantizer: str | None
    artifact: bool
    flag: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, str]
    calls: Mapping[str, tuple[int, int]] = field(default_factory=lambda: Frozen({}))
    stored: Mapping[str, Any] = field(default_factory=lambda: Frozen({}))

    def values(self) -> dict[str, Any]:
        """All of it as JSON values; layers in the same state share an entry."""
        groups: dict[str, dict[str, Any]] = {}
        for name, state in self.states.items():
            group = groups.setdefault(digest(state), {"names": [], "state": thaw(state)})
            group["names"].append(name)
        return {
            "quantizer": self.quantizer,
            "artifact": self.artifact,
            "flag": thaw(self.flag),
            "stored": thaw(self.stored),
            "states": list(groups.values()),
            "tensors": dict(self.tensors),
            "calls": {name: list(counts) for name, counts in self.calls.items()},
        }


@dataclass(frozen=True, slots=True)
class Capsule:
    """What was published. `content` is a safetensors file of the tensors.

    `artifact` is the directory that held the published components quantized; None where `model` was quantized
    in memory. `suite` has all cases, `cases` are the ids of those that were drawn, `words` what BF16's prompt
    enhancer wrote for them. `exact_int8` says whether that machine's int8 products are exact (a CPU's may
    saturate). `parts` are the published components, `figures` the published arm's of the components rung, and
    `left_out` says in words what was too large to keep.
    """

    created: str
    model: ModelIdentity
    artifact: ModelIdentity | None
    recipe: Recipe
    suite: Suite
    cases: tuple[str, ...]
    words: Mapping[str, str]
    fingerprint: Fingerprint
    exact_int8: bool
    parts: Mapping[str, Part]
    figures: Mapping[str, Any]
    left_out: tuple[str, ...]
    content: bytes = field(repr=False)
    sha256: str = ""

    def packed(self) -> bytes:
        """The capsule's file. CapsuleError where it is larger than allowed."""
        return pack(self._document(), self.content)

    def _document(self) -> dict[str, Any]:
        suite = self.suite
        return {
            "schema": SCHEMA,
            "created": self.created,
            "model": self.model.values(),
            "artifact": self.artifact.values() if self.artifact else None,
            "recipe": {
                "name": self.recipe.name,
                "hash": self.recipe.hash,
                "components": thaw(self.recipe.components),
                "options": thaw(self.recipe.options),
            },
            "suite": {
                "name": suite.name,
                "hash": suite.hash,
                "steps": suite.steps,
                "guidance": suite.guidance,
                "use_pe": suite.use_pe,
                "cases": [
                    {key: asdict(case)[key] for key in ("id", "prompt", "width", "height", "seed")}
                    for case in suite.cases
                ],
            },
            "cases": list(self.cases),
            "words": dict(self.words),
            "fingerprint": self.fingerprint.values(),
            "exact_int8": self.exact_int8,
            "parts": {name: part.values() for name, part in self.parts.items()},
            "figures": thaw(self.figures),
            "left_out": list(self.left_out),
        }


def machine_in_words(fingerprint: Fingerprint) -> str:
    """The kind of machine in words: the GPU's model, or the CPU's instructions."""
    return fingerprint.gpu or f"a CPU ({' '.join(fingerprint.instruction_set) or 'unknown'})"


def read_capsule(path: Path) -> Capsule:
    """The capsule in the file `path`, its hash checked and every value of its document. CapsuleError where it
    is none, damaged, edited, too large or of a later schema; nothing of it is run or unpickled."""
    try:
        if not path.is_file():
            raise CapsuleError(one_line(f"{path}: no such file"))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        raise CapsuleError(one_line(f"{path}: cannot be read: {problem}")) from None
    return parse_capsule(content, str(path))


def parse_capsule(content: bytes, where: str) -> Capsule:
    """The capsule that the file `content` holds, which errors call `where`; as `read_capsule`."""
    values, sha256 = unpack(content, where)
    try:
        return _capsule(Table(values, Path(where), error=CapsuleError), content, sha256)
    except CapsuleError:
        raise
    except (ErnieQAError, ValueError, RecursionError) as problem:
        raise CapsuleError(one_line(f"{where}: {problem}")) from None


def _capsule(table: Table, content: bytes, sha256: str) -> Capsule:
    table.schema(SCHEMA)
    suite = _suite(table.table("suite"))
    cases = table.strings("cases", pattern=CASE_NAME, allowed="the id of a case")
    if unknown := sorted(set(cases) - {case.id for case in suite.cases}):
        table.fail("cases", f"{unknown[0]} is no case of its suite")
    words, parts = table.table("words"), table.table("parts")
    capsule = Capsule(
        created=table.text("created"),
        model=read_model(table.table("model")),
        artifact=None if _null(table, "artifact") else read_model(table.table("artifact")),
        recipe=_recipe(table.table("recipe")),
        suite=suite,
        cases=cases,
        words=Frozen({case: words.text(case) for case in words}),
        fingerprint=read_fingerprint(table.table("fingerprint")),
        exact_int8=table.boolean("exact_int8"),
        parts=Frozen({name: _part(parts.table(name)) for name in parts}),
        figures=table.table("figures").frozen(),
        left_out=table.strings("left_out", ()),
        content=content,
        sha256=sha256,
    )
    table.finish()
    return capsule


def _null(table: Table, key: str) -> bool:
    return table.frozen().get(key, ...) is None and table.text_or_null(key) is None


def _suite(table: Table) -> Suite:
    cases = []
    for entry in table.tables("cases"):
        cases.append(
            Case(
                id=entry.text("id", pattern=CASE_NAME, allowed="the id of a case"),
                prompt=entry.text("prompt"),
                width=entry.integer("width", minimum=1, maximum=MAX_SIDE),
                height=entry.integer("height", minimum=1, maximum=MAX_SIDE),
                seed=entry.integer("seed", minimum=0),
                focus="",
            )
        )
        entry.finish()
    suite = Suite(
        name=table.text("name", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE),
        version=1,
        summary="",
        steps=table.integer("steps", minimum=1, maximum=MAX_STEPS),
        guidance=table.number("guidance", minimum=1, maximum=100),
        use_pe=table.boolean("use_pe"),
        cases=tuple(cases),
        path=table.file,
    )
    if table.text("hash", pattern=SHA256, allowed=SHA256_RULE) != suite.hash:
        table.fail("hash", "not that of the cases beside it")
    table.finish()
    return suite


def _recipe(table: Table) -> Recipe:
    components, options = table.table("components"), table.table("options")
    recipe = Recipe(
        name=table.text("name", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE),
        summary="",
        components=Frozen({name: components.text(name) for name in components}),
        options=Frozen({name: options.table(name).frozen() for name in options}),
        allowances=(),
        gates=Frozen({}),
        path=table.file,
    )
    if unknown := sorted(set(recipe.components) - set(QUANTIZABLE)):
        table.fail("components", f"{unknown[0]} is none that can be quantized")
    if table.text("hash", pattern=SHA256, allowed=SHA256_RULE) != recipe.hash:
        table.fail("hash", "not that of the components and options beside it")
    table.finish()
    return recipe


def _part(table: Table) -> Part:
    states: dict[str, Mapping[str, Any]] = {}
    for group in table.tables("states"):
        state = group.table("state").frozen()
        states |= dict.fromkeys(group.strings("names"), state)
        group.finish()
    tensors, calls = table.table("tensors"), table.table("calls")
    part = Part(
        quantizer=table.text_or_null("quantizer"),
        artifact=table.boolean("artifact"),
        flag=table.table("flag").frozen(),
        stored=table.table("stored").frozen(),
        states=Frozen(states),
        tensors=Frozen({name: tensors.text(name, pattern=SHA256, allowed=SHA256_RULE) for name in tensors}),
        calls=Frozen({name: _counts(calls, name) for name in calls}),
    )
    table.finish()
    return part


def _counts(calls: Table, name: str) -> tuple[int, int]:
    found = calls.numbers(name)
    if len(found) != 2 or not 0 <= found[1] <= found[0]:
        calls.wrong(name, "two numbers, calls and those of them that ran the kernel")
    return int(found[0]), int(found[1])
