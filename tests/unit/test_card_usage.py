"""The code in a card, as far as it can be told without running it; tests/end_to_end/test_card.py runs it."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_qa.card.runtime import Loading, read_runtime
from ernie_qa.card.subject import Subject
from ernie_qa.card.usage import DEVICE, confirmation, usage
from ernie_qa.models.find import find_model
from ernie_qa.quantize import quantize
from ernie_qa.record import Record
from ernie_qa.report.shown import Shown
from ernie_qa.suite import find_suite
from ernie_qa.verdict import Verdict
from tests.words import record as any_record

HOSTILE = 'a "quote", a \\ and\n```\nimport os\n``` КОНЦЕРТ \u2028 \x00'


@pytest.fixture(scope="module")
def subject(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    place = tmp_path_factory.mktemp("artifacts") / "tiny-uint4"
    quantize(tiny_model, "sdnq-uint4-static", place, device="cpu")
    artifact = find_model(place)
    record: Record = any_record(None)
    shown = Shown("any", record, Verdict("any", ()), record, "by a test")
    return Subject(artifact, read_runtime(artifact), shown, record, find_suite("mini"))


def arguments(code: str, function: str) -> dict[str, object]:
    """The literal arguments of the first call of `function` in `code`; without a name, by number."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
            given = {key.arg: key.value for key in node.keywords} | dict(enumerate(node.args))
            return {
                str(name): ast.literal_eval(value)
                for name, value in given.items()
                if isinstance(value, ast.Constant)
            }
    raise AssertionError(f"{function} is not called")


def test_whatever_a_prompt_holds_is_one_text(subject: Subject) -> None:
    first = replace(subject.suite.cases[0], prompt=HOSTILE)
    suite = replace(subject.suite, cases=(first, *subject.suite.cases[1:]))
    code = usage(replace(subject, suite=suite), 'a"b')
    assert not [line for line in code.splitlines() if line.startswith("```")]
    assert code.count(DEVICE) == 1
    found = arguments(code, "pipe")
    assert found["prompt"] == HOSTILE
    assert (found["width"], found["num_inference_steps"], found["use_pe"]) == (
        first.width,
        suite.steps,
        False,
    )
    assert arguments(code, "ErnieImagePipeline.from_pretrained")["0"] == 'a"b'


def test_components_of_two_quantizers_are_loaded_each_in_its_way(subject: Subject) -> None:
    loading = (
        Loading("sdnq", ("transformer",), ("sdnq",), "sdnq.loader.apply", {"use_quantized_matmul": "False"}),
        Loading("bitsandbytes", ("pe",), (), "", {}),
    )
    mixed = replace(subject, runtime=replace(subject.runtime, loading=loading))
    lines = usage(mixed, "org/name").splitlines()
    assert "import sdnq  # before anything is loaded" in lines
    assert 'pe = AutoModelForCausalLM.from_pretrained(model, subfolder="pe", **how)' in lines
    moved = [line for line in lines if line.endswith(".to(device)")]
    assert moved == ["pipe.text_encoder.to(device)", "pipe.transformer.to(device)", "pipe.vae.to(device)"]
    assert 'for name in ("transformer",):' in lines
    assert "    setattr(pipe, name, apply(component, use_quantized_matmul=False))" in lines
    assert "use_quantized_matmul" in confirmation(mixed)
    compile("\n".join([*lines, confirmation(mixed)]), "card", "exec")


def test_without_a_call_there_is_nothing_to_confirm(subject: Subject) -> None:
    plain = (Loading("bitsandbytes", ("pe", "text_encoder", "transformer"), (), "", {}),)
    assert confirmation(replace(subject, runtime=replace(subject.runtime, loading=plain))) == ""
