import ast
import re
import tomllib
from pathlib import Path

from ernie_qa.doctor.findings import TIMES
from ernie_qa.plan import plan
from ernie_qa.pytest_plugin import OPTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_its_recipe_can_be_gated(tmp_path: Path) -> None:
    (recipe,) = blocks("toml")
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    planned = plan("mini", [tmp_path / "mine.toml"])
    assert planned.recipes[0].gates[planned.suite.name].limits


def test_its_python_names_what_exists() -> None:
    import ernie_qa

    (code,) = blocks("python")
    used = set(re.findall(r"\bernie_qa\.(\w+)", ast.unparse(ast.parse(code))))
    assert used <= set(ernie_qa.__all__)
    assert {"find_model", "load_pipeline", "observe", "judge"} <= used


def test_its_times_are_those_that_the_doctor_tells() -> None:
    said = README.partition("Once installed and fetched it takes")[2].partition("\n\n")[0]
    for name, time in TIMES.items():
        assert f" {time} " in said
        assert name in " ".join(said.split())


def test_every_dependency_is_listed_with_its_licence() -> None:
    table = README.partition("## Dependencies")[2]
    rows = (row.replace("*", "").split("|") for row in table.splitlines() if row.startswith("| "))
    listed = {name.strip() for row in rows for name in row[1].split(",")} - {"package"}
    assert listed == {re.split(r"[><=]", requirement)[0] for requirement in PROJECT["dependencies"]}


def test_every_option_is_listed() -> None:
    listed = set(re.findall(r"`--ernie-([a-z-]+)`", README))
    assert {name.replace("_", "-") for name in OPTIONS} <= listed
