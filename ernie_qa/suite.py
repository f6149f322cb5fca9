"""A suite: a named, versioned, hashed set of cases."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from ernie_qa.errors import SuiteError
from ernie_qa.frozen import digest
from ernie_qa.toml_input import SAFE_NAME, SAFE_NAME_RULE, Table, find_file, names_in, read_toml

SCHEMA = 1
MIN_SIDE = 31
"""Pixels. The least that LPIPS takes: of 30, nothing is left after AlexNet's second pooling (lpips 0.1.4)."""
MAX_SIDE = 8192
"""Pixels. No picture is larger than 8192 x 8192, which is 64 megapixels."""
MAX_CASES = 1000
MAX_SEEDS = 100
"""Of one case. Ten cases of that many are the 1000 that a suite may have."""

_DIRECTORY = Path(__file__).parent / "suites"


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt with all that decides its picture.

    `width` and `height` are pixels; `seed` seeds the latents (drawn on the CPU in float32);
    `text` holds the strings that must be readable in the picture.
    """

    id: str
    prompt: str
    width: int
    height: int
    seed: int
    focus: str
    text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of cases with the sampling that they share.

    With more than one of `seeds`, `cases` are its own, then all of them with a second seed, and so on.
    """

    name: str
    version: int
    summary: str
    steps: int
    guidance: float
    use_pe: bool
    cases: tuple[Case, ...]
    path: Path
    seeds: int = 1

    @property
    def own(self) -> tuple[Case, ...]:
        """The cases with their own seeds."""
        return self.cases[: len(self.cases) // self.seeds]

    @property
    def title(self) -> str:
        """The name, and how many seeds a case has where it is more than its own."""
        return self.name if self.seeds == 1 else f"{self.name} with {self.seeds} seeds a case"

    @property
    def hash(self) -> str:
        """The sha256 over all that changes a picture, and the ids: not the summary, focus, text or path."""
        cases = [(case.id, case.prompt, case.width, case.height, case.seed) for case in self.own]
        values = {"steps": self.steps, "guidance": self.guidance, "use_pe": self.use_pe, "cases": cases}
        found = digest(values)
        for _ in range(1, self.seeds):
            found = _with_one_more(found)
        return found

    def with_seeds(self, seeds: int) -> "Suite":
        """This suite with every case drawn with so many seeds: its own, then others that follow from it, the
        same ones however many there are. SuiteError where that is none, or more than can be drawn."""
        most = min(MAX_SEEDS, MAX_CASES // len(self.own))
        if not 1 <= seeds <= most:
            raise SuiteError(f"suite {self.name}: {seeds} seeds a case: allowed are 1 to {most}")
        others = (another(case, number) for number in range(1, seeds) for case in self.own)
        return replace(self, cases=(*self.own, *others), seeds=seeds)


def another(case: Case, number: int) -> Case:
    """`case` with its `number`-th other seed: 31 bits of the sha256 of "<own seed>+<number>"."""
    start = hashlib.sha256(f"{case.seed}+{number}".encode()).digest()[:4]
    return replace(case, id=f"{case.id}+{number}", seed=int.from_bytes(start, "big") >> 1)


def seed_number(case: str) -> int:
    """Which of its seeds the case of that id is drawn with: 0 is its own."""
    return int(case.partition("+")[2] or 0)


def is_own(case: str) -> bool:
    """Whether the case of that id is drawn with its own seed."""
    return seed_number(case) == 0


def more_seeds(suite: str, than: str) -> int | None:
    """How many more seeds a case the suite of the hash `suite` has than the one of the hash `than`; None
    where it has fewer, or they are of different cases."""
    for more in range(MAX_SEEDS):
        if than == suite:
            return more
        than = _with_one_more(than)
    return None


def _with_one_more(suite: str) -> str:
    """The hash of a suite with one more seed a case than the one of the hash `suite`."""
    return digest({"one more seed": suite})


def suite_names() -> tuple[str, ...]:
    """The names of the shipped suites."""
    return names_in(_DIRECTORY)


def find_suite(suite: Suite | str | Path) -> Suite:
    """The suite that is meant: itself, the shipped one of that name, or the file at that path.

    A text with a path separator or the suffix .toml is a path. SuiteError if there is none or it is wrong.
    """
    if isinstance(suite, Suite):
        return suite
    path = find_file(suite, _DIRECTORY, "suite", SuiteError)
    table = read_toml(path, SuiteError)
    table.schema(SCHEMA)
    found = Suite(
        name=path.stem,
        version=table.integer("version", minimum=1),
        summary=table.text("summary"),
        steps=table.integer("steps", minimum=1, maximum=1000),
        guidance=table.number("guidance", minimum=1, maximum=100),
        use_pe=table.boolean("use_pe"),
        cases=_cases(table),
        path=path,
    )
    table.finish()
    # a recipe's limits go by the suite's name
    shipped = path.parent != _DIRECTORY and found.name in suite_names()
    if shipped and _decisive(find_suite(found.name)) != _decisive(found):
        raise SuiteError(f"{path}: {found.name} is a shipped suite, and this is another; rename the file")
    return found


def _decisive(suite: Suite) -> tuple[str, list[tuple[str, ...]]]:
    """What changes a picture, and the texts that are read in it."""
    return suite.hash, [case.text for case in suite.cases]


def recorded_suite(name: str, hashed: str, suite: Suite | str | Path | None = None) -> Suite | None:
    """The suite that a record was drawn from, by the `name` and the hash that it holds: `suite`, or else the
    shipped one of that name, with as many seeds as were drawn. None where that is another."""
    try:
        found = find_suite(name if suite is None else suite)
    except SuiteError:
        if suite is not None:
            raise
        return None
    more = more_seeds(hashed, found.hash)
    return None if more is None else found.with_seeds(found.seeds + more)


def check_sizes(suite: Suite, factor: int, model: str) -> None:
    """SuiteError where a width or height is not divisible by `factor`, the pixels that one latent covers."""
    for case in suite.cases:
        if case.width % factor or case.height % factor:
            raise SuiteError(
                f'{suite.path}: case "{case.id}": found {case.width}x{case.height} pixels, '
                f"allowed are sides divisible by {factor}, the factor of the model {model}"
            )


def _cases(table: Table) -> tuple[Case, ...]:
    cases: dict[str, Case] = {}
    for entry in table.tables("cases"):
        case = _case(entry)
        # ids become file names, and some file systems do not tell upper case from lower
        if case.id.casefold() in cases:
            entry.fail("id", f'"{case.id}" is the id of an earlier case too')
        cases[case.id.casefold()] = case
    if not 1 <= len(cases) <= MAX_CASES:
        table.wrong("cases", f"a list of 1 to {MAX_CASES} cases")
    return tuple(cases.values())


def _case(entry: Table) -> Case:
    case = Case(
        id=entry.text("id", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE),
        prompt=entry.text("prompt"),
        width=entry.integer("width", minimum=MIN_SIDE, maximum=MAX_SIDE),
        height=entry.integer("height", minimum=MIN_SIDE, maximum=MAX_SIDE),
        seed=entry.integer("seed", minimum=0),
        focus=entry.text("focus"),
        text=entry.strings("text", ()),
    )
    for line in case.text:
        if line not in case.prompt:
            entry.fail(
                "text", f'"{line}" must be readable, but the prompt does not ask for it in these letters'
            )
    entry.finish()
    return case
