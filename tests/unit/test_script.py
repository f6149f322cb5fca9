"""What is read of a Python script, which is never run."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ernie_qa.diagnose.call import around, calls, compared, flags, unread
from ernie_qa.diagnose.findings import Blame, Finding, ordered
from ernie_qa.diagnose.published import Sampling
from ernie_qa.diagnose.script import Literal, Script, parse_script, read_script
from ernie_qa.errors import InputError

GOOD = """
import torch
import sdnq
from diffusers import ErnieImagePipeline
from sdnq.loader import apply_sdnq_options_to_model

pipe = ErnieImagePipeline.from_pretrained("quantized", torch_dtype=torch.bfloat16).to("cuda")
for name in ("pe", "text_encoder", "transformer"):
    component = getattr(pipe, name, None)
    setattr(pipe, name, apply_sdnq_options_to_model(component, use_quantized_matmul=True))
image = pipe(
    "a poster", width=1024, height=1024, num_inference_steps=8, guidance_scale=1.0, use_pe=False,
    generator=torch.Generator("cuda").manual_seed(41001),
).images[0]
"""
DEFAULTS = {
    "prompt": None,
    "negative_prompt": "",
    "height": 1024,
    "width": 1024,
    "num_inference_steps": 50,
    "guidance_scale": 4.0,
    "generator": None,
    "use_pe": True,
}
SAMPLING = Sampling("turbo10", 8, 1.0, False)
SDNQ = {
    "import_first": ["sdnq"],
    "after_loading": {
        "function": "sdnq.loader.apply_sdnq_options_to_model",
        "arguments": {"use_quantized_matmul": True},
    },
}


def parsed(source: str) -> Script:
    return parse_script(source.encode(), "my_script.py")


def found(source: str) -> tuple[Finding, ...]:
    """All that is said of a script whose directory was published with `SAMPLING` by SDNQ."""
    script = parsed(source)
    settings = [one for call in calls(script, DEFAULTS) for one in compared(call, SAMPLING, 16)]
    return ordered([*around(script, {"sdnq": SDNQ}), *settings])


def said(source: str) -> list[tuple[str, str]]:
    return [(one.blame.value, f"{one.where}: {one.found}") for one in found(source)]


def left(source: str) -> list[str]:
    script = parsed(source)
    return list(unread(script, calls(script, DEFAULTS)))


def test_a_script_as_the_cards_write_it_has_nothing_wrong() -> None:
    assert said(GOOD) == []
    assert left(GOOD) == []
    (call,) = calls(parsed(GOOD), DEFAULTS)
    assert {name: one.value for name, one in call.settings.items()} == {
        "steps": 8,
        "guidance": 1.0,
        "use_pe": False,
        "width": 1024,
        "height": 1024,
        "seed": 41001,
    }
    assert call.settings["steps"].where == "my_script.py, line 12"


def test_a_missing_import() -> None:
    (first, *_) = found(GOOD.replace("import sdnq\n", "").replace("from sdnq.loader import", "from x import"))
    assert (first.blame, first.topic, first.where) == (Blame.CAUSE, "import", "my_script.py, line 6")
    assert "sdnq is never imported" in first.found


def test_an_import_that_comes_too_late() -> None:
    source = GOOD.replace("import sdnq\n", "").replace("from sdnq.loader", "from other")
    (first, *_) = found(source.replace("image = pipe(", "import sdnq\nimage = pipe("))
    assert first.where == "my_script.py, line 10"
    assert "after the first from_pretrained, in line 6" in first.found


@pytest.mark.parametrize(
    "line", ["import sdnq.loader", "from sdnq import SDNQConfig", "importlib.import_module('sdnq')"]
)
def test_other_ways_to_import(line: str) -> None:
    source = GOOD.replace("import sdnq\n", f"{line}\n").replace("from sdnq.loader import", "from x import")
    assert parsed(source).sdnq == 3
    assert said(source) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_inference_steps=8", "num_inference_steps=4", "num_inference_steps is 4, published with 8"),
        ("num_inference_steps=8, ", "", "num_inference_steps is 50, published with 8"),
        ("num_inference_steps=8", "num_inference_steps=True", "num_inference_steps is True"),
        ("guidance_scale=1.0", "guidance_scale=4.5", "guidance_scale is 4.5, published with 1"),
        ("guidance_scale=1.0", "guidance_scale=-1", "guidance_scale is -1, published with 1"),
        ("width=1024", "width=1000", "width is 1000, which the model's factor 16 does not divide"),
    ],
)
def test_settings_that_spoil(old: str, new: str, expected: str) -> None:
    ((blame, text),) = said(GOOD.replace(old, new))
    assert blame == "cause"
    assert expected in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ", use_pe=False",
            "",
            "(left out: the pipeline's own default): use_pe is True, published with False",
        ),
        ("use_pe=False", "use_pe=1", "use_pe is 1, published with False"),
        (", torch_dtype=torch.bfloat16", "", "no type is given: what is not quantized is loaded in float32"),
        ("torch.bfloat16", "torch.float16", "loaded in 'float16', published in bfloat16"),
        ("torch.bfloat16", '"float32"', "loaded in 'float32', published in bfloat16"),
        ("use_quantized_matmul=True", "use_quantized_matmul=False", "use_quantized_matmul is False"),
        ('.to("cuda")', '.to("cuda")\npipe.to(torch.float16)', "to(float16) casts the loaded pipeline"),
        ('.to("cuda")', '.to("cuda")\npipe.half()', "half() casts the loaded pipeline"),
        ('"quantized",', '"quantized", quantization_config=config,', "quantization_config is given"),
    ],
)
def test_what_is_suspect(old: str, new: str, expected: str) -> None:
    ((blame, text),) = said(GOOD.replace(old, new))
    assert blame == "suspect"
    assert expected in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("image = pipe(", "while True:\n    torch.cuda.empty_cache()\nimage = pipe(", "cache is emptied"),
        ("image = pipe(", "pipe.enable_model_cpu_offload()\nimage = pipe(", "enable_model_cpu_offload moves"),
        (
            "import torch\n",
            'os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True,max_split_size_mb:32"\n',
            "line 2: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        ),
        (
            "import torch\n",
            'os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:9")\n',
            "line 2: PYTORCH_ALLOC_CONF=expandable_segments:True",
        ),
        ("apply_sdnq_options_to_model(component, use_quantized_matmul=True)", "component", "is never called"),
    ],
)
def test_what_costs_alone(old: str, new: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    ((blame, text),) = said(GOOD.replace(old, new))
    assert blame == "advice"
    assert expected in text


def test_once_emptied_outside_a_loop_is_nobodys_fault() -> None:
    assert said(GOOD + "torch.cuda.empty_cache()\n") == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_inference_steps=8", "num_inference_steps=STEPS", "num_inference_steps (my_script.py, line 12)"),
        ("num_inference_steps=8, ", "**more, ", "num_inference_steps (my_script.py, line 11)"),
        ("use_pe=False", "use_pe=not enhance", "use_pe (my_script.py, line 12)"),
        ("width=1024", "width=2**10", "width (my_script.py, line 12)"),
        ("num_inference_steps=8", f"num_inference_steps=0x{'f' * 5000}", "num_inference_steps (my_script.py"),
        ("guidance_scale=1.0", "guidance_scale=1e999", "guidance_scale (my_script.py, line 12)"),
        ("torch.bfloat16", "DTYPE", "the type in my_script.py, line 7"),
        ("use_quantized_matmul=True", "use_quantized_matmul=fast", "use_quantized_matmul in my_script.py"),
    ],
)
def test_what_no_literal_says_is_not_read_and_not_guessed(old: str, new: str, expected: str) -> None:
    source = GOOD.replace(old, new)
    assert said(source) == []
    (line,) = left(source)
    assert expected in line
    assert "not read" in line


def test_a_wrapper_is_no_pipeline() -> None:
    source = "def draw(**more): ...\ndraw(num_inference_steps=4)\n"
    assert parsed(source).drawings == ()


def test_a_pipe_from_elsewhere_is_known_by_its_keywords_and_its_defaults_are_not() -> None:
    source = "from mine import pipe\npipe('a', num_inference_steps=4)\n"
    ((_, text),) = said(source)
    assert "num_inference_steps is 4" in text
    assert [line.partition(" ")[0] for line in left(source)] == [
        "guidance_scale",
        "use_pe",
        "height",
        "width",
        "how",
    ]


def test_positions_count_as_the_pipeline_counts_them() -> None:
    (call,) = calls(
        parsed("p = ErnieImagePipeline.from_pretrained('x')\np('a', '', 512, 768, 4, 2.0)"), DEFAULTS
    )
    values = {name: one.value for name, one in call.settings.items()}
    assert values == {"height": 512, "width": 768, "steps": 4, "guidance": 2.0, "use_pe": True}


def test_flags_are_settings_too() -> None:
    call = flags(4, 1.0, (100, 96), True, 7)
    assert [one.where for one in compared(call, SAMPLING, 16)] == ["--steps", "--use-pe", "--size"]
    assert list(compared(flags(8, 1.0, (96, 96), False, None), SAMPLING, 16)) == []
    assert list(compared(flags(4, None, None, None, None), None, 16)) == []


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content, expected in (
        ("no.py", None, "no such file"),
        ("large.py", b"#" * (2**20 + 1), "larger than the 1048576 bytes allowed"),
        ("broken.py", b"pipe(\n", "line 1: no Python that can be parsed: '(' was never closed"),
        ("binary.py", b"\0\1\2", "no Python that can be parsed"),
    ):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError) as raised:
            read_script(file)
        assert str(raised.value).startswith(str(file))
        assert expected in str(raised.value)
    with pytest.raises(InputError, match="a directory; name the Python file"):
        read_script(tmp_path)


def holds(content: bytes) -> None:
    """Any file gives findings or an error of one line."""
    try:
        script = parse_script(content, "my_script.py")
    except InputError as error:
        texts = [str(error)]
    else:
        found = calls(script, DEFAULTS)
        settings = [one for call in found for one in compared(call, SAMPLING, 16)]
        findings = [*around(script, {"sdnq": SDNQ}), *settings]
        texts = [*unread(script, found), *(part for one in findings for part in (one.found, one.where))]
    for text in texts:
        assert len(text.splitlines()) <= 1
        text.encode("utf-8")


@given(st.binary(max_size=400))
@example(b"# coding: nothing\n")
@example(b"\xff\xfe")
@example(b"pipe(num_inference_steps='\\ud800', use_pe='a\\nb')")
@example(b"x" + b".a" * 5000 + b"(use_pe=1)")
@example(b"-" * 5000 + b"1")
@example(b"(" * 5000)
@example(b"a" + b"+a" * 20000)
@example(b"p = " + b"f(" * 90 + b"ErnieImagePipeline.from_pretrained()" + b")" * 90)
def test_any_bytes(content: bytes) -> None:
    holds(content)


NAMES = st.sampled_from(
    ["pipe", "sdnq", "torch", "ErnieImagePipeline", "from_pretrained", "use_pe", "to", "os", "environ"]
)
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=8).map(ascii),
    st.sampled_from(["None", "True", "-1", "b''", "...", "x", "1j", "not x", "lambda: 1", "[*a]", "f'{x}'"]),
)
KEYS = st.sampled_from(
    ["num_inference_steps", "guidance_scale", "use_pe", "width", "generator", "torch_dtype", "**more, dtype"]
)
CHAINS = st.lists(NAMES, min_size=1, max_size=4).map(".".join)
GIVEN = st.lists(st.one_of(VALUES, st.tuples(KEYS, VALUES).map("=".join)), max_size=4)
LINES = st.one_of(
    st.tuples(CHAINS, GIVEN).map(lambda one: f"{one[0]}({', '.join(one[1])})"),
    st.tuples(CHAINS, CHAINS, GIVEN).map(lambda one: f"{one[0]} = {one[1]}({', '.join(one[2])})"),
    st.tuples(VALUES, VALUES).map(lambda one: f"os.environ[{one[0]}] = {one[1]}"),
    st.tuples(CHAINS, VALUES).map(lambda one: f"apply_sdnq_options_to_model({one[0]}, {one[1]})"),
    st.just("for x in y: torch.cuda.empty_cache()"),
    NAMES.map(lambda name: f"import {name}"),
)


@given(st.lists(LINES, max_size=8).map("\n".join))
def test_any_source(source: str) -> None:
    holds(source.encode())


def test_a_literal_is_what_stands_there() -> None:
    script = parsed("pipe(use_pe=None, num_inference_steps=-3, guidance_scale=2.5)")
    assert dict(script.drawings[0].given) == {
        "use_pe": Literal(1, None),
        "num_inference_steps": Literal(1, -3),
        "guidance_scale": Literal(1, 2.5),
    }
