"""Python code that loads an artifact and draws a picture without ernie_qa, as its model card shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ernie_qa.errors import ModelError
from ernie_qa.toml_input import read_json

if TYPE_CHECKING:
    from ernie_qa.card.runtime import Loading
    from ernie_qa.card.subject import Subject

DEVICE = 'device = "cuda"'
"""The line that says where; whoever has no GPU changes it."""


def usage(subject: Subject, repository: str) -> str:
    """Load `repository`, a hub id or a directory, apply what has to be applied, draw the suite's first case.

    Components whose quantizer needs neither an import nor a call are loaded one by one, by their own
    library's classes, all others by the pipeline.
    """
    loading = subject.runtime.loading
    apart = {component: how for how in loading if not how.by_pipeline for component in how.components}
    lines = [*_imports(subject, apart), "", DEVICE]
    lines += _loaded(subject, apart, json.dumps(repository, ensure_ascii=False))
    for how in loading:
        if how.function:
            lines += ["", *_applied(how)]
    return "\n".join([*lines, "", *_drawn(subject)])


def confirmation(subject: Subject) -> str:
    """Code that prints the switches as they are after loading; "" where none is set."""
    lines = []
    for how in subject.runtime.loading:
        if how.function and how.arguments:
            values = ", ".join(f'getattr(config, "{name}", None)' for name in how.arguments)
            lines += [
                f"for name in {_tuple(how)}:",
                '    config = getattr(getattr(pipe, name), "quantization_config", None)',
                f"    print(name, {values})",
            ]
    return "\n".join(lines)


def _imports(subject: Subject, apart: dict[str, Loading]) -> Iterator[str]:
    yield "import torch"
    for name in dict.fromkeys(name for how in subject.runtime.loading for name in how.imports):
        yield f"import {name}  # before anything is loaded"
    classes = {_class(subject, component) for component in apart}
    wanted = ["AutoModel", "ErnieImagePipeline"] if "AutoModel" in classes else ["ErnieImagePipeline"]
    yield f"from diffusers import {', '.join(wanted)}"
    if "TransformersAutoModel" in classes:
        yield "from transformers import AutoModel as TransformersAutoModel"
    if "AutoModelForCausalLM" in classes:
        yield "from transformers import AutoModelForCausalLM"
    for function in dict.fromkeys(how.function for how in subject.runtime.loading if how.function):
        module, _, name = function.rpartition(".")
        yield f"from {module} import {name}"


def _loaded(subject: Subject, apart: dict[str, Loading], repository: str) -> Iterator[str]:
    if not apart:
        yield "pipe = ErnieImagePipeline.from_pretrained("
        yield f"    {repository},"
        yield "    dtype=torch.bfloat16,"
        yield ").to(device)"
        return
    yield f"model = {repository}"
    yield 'how = {"dtype": torch.bfloat16, "device_map": {"": device}}'
    for component in apart:
        cls = _class(subject, component)
        yield f'{component} = {cls}.from_pretrained(model, subfolder="{component}", **how)'
    yield "pipe = ErnieImagePipeline.from_pretrained("
    yield "    model,"
    yield from (f"    {component}={component}," for component in apart)
    yield "    dtype=torch.bfloat16,"
    yield ")"
    for component in _others(subject, apart):
        yield f"pipe.{component}.to(device)"


def _applied(how: Loading) -> Iterator[str]:
    name = how.function.rpartition(".")[2]
    arguments = "".join(f", {key}={value}" for key, value in how.arguments.items())
    yield f"for name in {_tuple(how)}:"
    yield "    component = getattr(pipe, name)"
    yield f"    setattr(pipe, name, {name}(component{arguments}))"


def _drawn(subject: Subject) -> Iterator[str]:
    suite = subject.suite
    case = suite.cases[0]
    yield "image = pipe("
    yield f"    prompt={json.dumps(case.prompt, ensure_ascii=False)},"
    yield f"    width={case.width},"
    yield f"    height={case.height},"
    yield f"    num_inference_steps={suite.steps},"
    yield f"    guidance_scale={suite.guidance},"
    yield f"    use_pe={suite.use_pe},"
    yield f"    generator=torch.Generator(device).manual_seed({case.seed}),"
    yield ").images[0]"
    yield 'image.save("picture.png")'


def _class(subject: Subject, component: str) -> str:
    """Which of the libraries' automatic classes loads the component."""
    index = read_json(subject.artifact.path / "model_index.json", ModelError).frozen()
    library, name = index[component]
    if library == "diffusers":
        return "AutoModel"
    return "AutoModelForCausalLM" if str(name).endswith("ForCausalLM") else "TransformersAutoModel"


def _others(subject: Subject, apart: dict[str, Loading]) -> Iterator[str]:
    """The components with weights that the pipeline loads."""
    for component in subject.artifact.components:
        if component not in apart and any((subject.artifact.path / component).glob("*.safetensors")):
            yield component


def _tuple(how: Loading) -> str:
    return (
        json.dumps(list(how.components))
        .replace("[", "(")
        .replace("]", ",)" if len(how.components) == 1 else ")")
    )
