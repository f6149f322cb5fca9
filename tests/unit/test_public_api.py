import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import ernie_qa

ROOT = Path(__file__).parents[2]
JUDGING = "import ernie_qa; ernie_qa.judge, ernie_qa.load_record; from ernie_qa.rungs import rungs; rungs()"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code", ["import ernie_qa", JUDGING, "import ernie_qa.cli", "import ernie_qa.pytest_plugin"]
)
def test_imports_neither_torch_nor_numpy(code: str) -> None:
    heavy = "{'torch', 'numpy', 'diffusers', 'transformers', 'sdnq'}"
    assert python(f"{code}\nimport sys; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_a_submodule_does_not_hide_the_function_of_its_name() -> None:
    import_module("ernie_qa.judge")
    import_module("ernie_qa.observe")
    assert all(callable(getattr(ernie_qa, name)) for name in ernie_qa.__all__)


def test_gates_are_importable() -> None:
    from ernie_qa.gates import test_images

    assert Path(test_images.__file__).resolve().parent == ROOT / "tests" / "gates"


def test_layers_hold() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    ]
    assert len(links) > 8
    assert [str(link) for document, link in links if not (document.parent / link).exists()] == []
