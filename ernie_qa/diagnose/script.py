"""What a Python script says of how it loads and calls a pipeline, read and never run.

Only what stands there as a literal is read. A variable, an expression or `**options` is `read=False`: what it
holds is not guessed.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ernie_qa.allocator import VARIABLES
from ernie_qa.errors import InputError
from ernie_qa.frozen import Frozen
from ernie_qa.toml_input import one_line

MAX_BYTES = 2**20
SAMPLING = ("num_inference_steps", "guidance_scale", "use_pe")
"""What a call is known by as a pipeline's, whatever the pipeline is called."""
KEYWORDS = (*SAMPLING, "height", "width", "generator")
SWITCH = "apply_sdnq_options_to_model"
_DTYPES = ("torch_dtype", "dtype")
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LONGEST = 8
"""Parts of a dotted name; a longer one is nobody's pipeline."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A value in `line`: None, text, a number or a truth value; nothing where it is not `read`."""

    line: int
    value: str | int | float | bool | None = None
    read: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """A `from_pretrained` of the class `owner`. `dtype` is the type's name, None where none is given;
    `quantized` says that a quantization_config is passed, `whole` that keywords may be hidden in `**`."""

    line: int
    owner: str
    dtype: Literal | None
    quantized: bool
    whole: bool

    @property
    def pipeline(self) -> bool:
        """Whether a whole pipeline is loaded, and no single component."""
        return "Pipeline" in self.owner


@dataclass(frozen=True, slots=True)
class Drawing:
    """A call that draws. `known` says that what is called was loaded as a pipeline in this file, and `whole`
    that no keyword is hidden in `*` or `**`: of both together what is not given has its default.
    `positional` are the arguments before the keywords."""

    line: int
    known: bool
    whole: bool
    given: Mapping[str, Literal]
    positional: tuple[Literal, ...] = ()


@dataclass(frozen=True, slots=True)
class Switched:
    """A call of SDNQ's switch: of the `component`, empty where that is not read, to `on`."""

    line: int
    component: str
    on: Literal


@dataclass(frozen=True, slots=True)
class Script:
    """What the file `name` says. `sdnq` is the first line that imports it, None where none does; `emptied`
    are the lines in a loop that empty torch's cache, `offloads` and `casts` calls and their lines."""

    name: str
    sdnq: int | None
    loads: tuple[Load, ...]
    drawings: tuple[Drawing, ...]
    switches: tuple[Switched, ...]
    allocator: Mapping[str, Literal]
    emptied: tuple[int, ...]
    offloads: tuple[tuple[str, int], ...]
    casts: tuple[tuple[str, int], ...]


def read_script(path: Path) -> Script:
    """What the Python file at `path` says. InputError where it is none, larger than a mebibyte, or cannot be
    parsed; nothing in it is imported or run."""
    try:
        if path.is_dir():
            raise InputError(one_line(f"{path}: a directory; name the Python file that draws"))
        if not path.is_file():
            raise InputError(one_line(f"{path}: no such file"))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        raise InputError(one_line(f"{path}: cannot be read: {problem}")) from None
    if len(content) > MAX_BYTES:
        raise InputError(one_line(f"{path}: larger than the {MAX_BYTES} bytes allowed"))
    return parse_script(content, str(path))


def parse_script(content: bytes, where: str) -> Script:
    """The same of a file's content, which errors call `where`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        line = f", line {problem.lineno}" if isinstance(problem, SyntaxError) and problem.lineno else ""
        said = problem.msg if isinstance(problem, SyntaxError) else str(problem) or type(problem).__name__
        raise InputError(one_line(f"{where}{line}: no Python that can be parsed: {said}")) from None
    found = _Found()
    nodes = list(_nodes(tree))
    for node, _ in nodes:
        found.names(node)
    for node, looped in nodes:
        found.statement(node)
        if isinstance(node, ast.Call):
            found.call(node, looped)
    return Script(
        name=one_line(Path(where).name),
        sdnq=min(found.imports, default=None),
        loads=tuple(sorted(found.loads, key=lambda one: one.line)),
        drawings=tuple(sorted(found.drawings, key=lambda one: one.line)),
        switches=tuple(sorted(found.switches, key=lambda one: one.line)),
        allocator=Frozen(found.allocator),
        emptied=tuple(sorted(found.emptied)),
        offloads=tuple(sorted(found.offloads, key=lambda one: one[1])),
        casts=tuple(sorted(found.casts, key=lambda one: one[1])),
    )


class _Found:
    """What was met so far: first all names, then statements and calls."""

    def __init__(self) -> None:
        self.imports: list[int] = []
        self.aliases: dict[str, str] = {}
        self.pipes: set[str] = set()
        self.defined: set[str] = set()
        self.loads: list[Load] = []
        self.drawings: list[Drawing] = []
        self.switches: list[Switched] = []
        self.allocator: dict[str, Literal] = {}
        self.emptied: list[int] = []
        self.offloads: list[tuple[str, int]] = []
        self.casts: list[tuple[str, int]] = []

    def names(self, node: ast.AST) -> None:
        """The names that imports, definitions and loading give."""
        match node:
            case ast.Import(names=names):
                self.imports += [node.lineno for one in names if one.name.partition(".")[0] == "sdnq"]
            case ast.ImportFrom(module=module, level=0, names=names):
                if (module or "").partition(".")[0] == "sdnq":
                    self.imports.append(node.lineno)
                self.aliases |= {one.asname: one.name for one in names if one.asname}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.defined.add(node.name)
            case ast.Assign(targets=targets, value=value) if _loads_pipeline(value):
                self.pipes |= {name for target in targets if (name := _dotted(target))}
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.NamedExpr(target=target, value=value)
            ) if _loads_pipeline(value):
                self.pipes.add(_dotted(target))

    def statement(self, node: ast.AST) -> None:
        """Settings of the environment."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Subscript) and _dotted(target.value).endswith("environ"):
                    self._set(target.slice, node.value)

    def call(self, node: ast.Call, looped: bool) -> None:
        """What one call is about."""
        dotted = _dotted(node.func)
        last = node.func.attr if isinstance(node.func, ast.Attribute) else dotted
        last = self.aliases.get(last, last)
        owner = dotted.rpartition(".")[0]
        if last in ("import_module", "__import__") and node.args:
            if str(_literal(node.args[0]).value).partition(".")[0] == "sdnq":
                self.imports.append(node.lineno)
        elif last in ("setdefault", "putenv") and len(node.args) == 2:
            self._set(*node.args)
        elif last == "from_pretrained":
            self._load(node, owner)
        elif last == SWITCH:
            self._switch(node)
        elif last == "empty_cache":
            self.emptied += [node.lineno] if looped else []
        elif last.startswith("enable_") and last.endswith("_offload"):
            self.offloads.append((last, node.lineno))
        elif owner in self.pipes and (last in ("half", "float", "bfloat16") or last == "to"):
            types = [
                name for one in (*node.args, *(key.value for key in node.keywords)) if (name := _type(one))
            ]
            name = f"to({types[0]})" if types else f"{last}()" if last != "to" else ""
            self.casts += [(name, node.lineno)] if name else []
        elif dotted in self.pipes or (
            last not in self.defined and any(key.arg in SAMPLING for key in node.keywords)
        ):
            self._drawing(node, dotted in self.pipes)

    def _set(self, key: ast.expr, value: ast.expr) -> None:
        name = _literal(key).value
        if isinstance(name, str) and name in VARIABLES:
            self.allocator[name] = _literal(value)

    def _load(self, node: ast.Call, owner: str) -> None:
        keys = {key.arg: key.value for key in node.keywords if key.arg}
        given = next((keys[name] for name in _DTYPES if name in keys), None)
        self.loads.append(
            Load(
                line=node.lineno,
                owner=owner.rpartition(".")[2],
                dtype=None if given is None else _dtype(given),
                quantized="quantization_config" in keys,
                whole=_whole(node),
            )
        )

    def _switch(self, node: ast.Call) -> None:
        keys = {key.arg: key.value for key in node.keywords}
        component = _dotted(node.args[0]) if node.args else ""
        on = keys.get("use_quantized_matmul")
        self.switches.append(
            Switched(
                line=node.lineno,
                component=component.rpartition(".")[2] if component.rpartition(".")[0] in self.pipes else "",
                on=Literal(node.lineno, read=False) if on is None else _literal(on),
            )
        )

    def _drawing(self, node: ast.Call, known: bool) -> None:
        given = {key.arg: key.value for key in node.keywords if key.arg in KEYWORDS}
        values = {
            name: _seed(value) if name == "generator" else _literal(value) for name, value in given.items()
        }
        positional = tuple(_literal(one) for one in node.args)
        self.drawings.append(Drawing(node.lineno, known, _whole(node), Frozen(values), positional))


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it stands in a loop; no recursion, for files nest as they like."""
    left = [(tree, False)]
    while left:
        node, looped = left.pop()
        yield node, looped
        inside = looped or isinstance(node, _LOOPS)
        left += [(child, inside) for child in ast.iter_child_nodes(node)]


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of names; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < _LONGEST:
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _loads_pipeline(value: ast.expr) -> bool:
    """Whether a pipeline's `from_pretrained` stands there, with calls such as `.to("cuda")` after it."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr == "from_pretrained":
            return "Pipeline" in _dotted(value.func.value).rpartition(".")[2]
        value = value.func.value
    return False


def _literal(node: ast.expr) -> Literal:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    value = node.value if isinstance(node, ast.Constant) else ...
    if isinstance(value, str) and sign == 1:
        return Literal(node.lineno, one_line(value))
    if (value is None or isinstance(value, bool)) and sign == 1:
        return Literal(node.lineno, value)
    # an integer may have more digits than Python prints
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        return Literal(node.lineno, sign * value)
    if isinstance(value, float) and math.isfinite(value):
        return Literal(node.lineno, sign * value)
    return Literal(node.lineno, read=False)


def _type(node: ast.expr) -> str:
    """The type's name where `torch.float16` or the like stands there."""
    dotted = _dotted(node)
    return dotted.removeprefix("torch.") if dotted.startswith("torch.") else ""


def _dtype(node: ast.expr) -> Literal:
    return Literal(node.lineno, name) if (name := _type(node)) else _literal(node)


def _seed(node: ast.expr) -> Literal:
    """The seed of `torch.Generator(...).manual_seed(N)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        return _literal(node.args[0]) if node.func.attr == "manual_seed" else Literal(node.lineno, read=False)
    return Literal(node.lineno, read=False)


def _whole(node: ast.Call) -> bool:
    """Whether every argument is there to be seen."""
    starred = any(isinstance(one, ast.Starred) for one in node.args)
    return not starred and all(key.arg is not None for key in node.keywords)
