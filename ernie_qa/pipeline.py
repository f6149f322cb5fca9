"""ERNIE-Image's components, and how a pipeline is loaded; `ernie_qa.drawing` has how it draws."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.broken import ran_out
from ernie_qa.errors import ErnieQAError, InputError, ModelError, OutOfMemoryError, UnavailableError
from ernie_qa.meter import now, open_window, peaks, require_device
from ernie_qa.models.artifact import check_artifact
from ernie_qa.models.find import Model, find_model
from ernie_qa.quantizers import ComponentSource, checked_options, find_quantizer
from ernie_qa.recipe import QUANTIZABLE, Recipe, find_recipe
from ernie_qa.toml_input import read_json

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

WEIGHTED = (*QUANTIZABLE, "vae")
"""The components that hold weights."""

TEACHER = (
    "A tall poster for an evening of chamber music. The ground is deep blue; in the middle stands a cello in "
    "warm orange light, drawn with few, sure lines. Along the top, in large white letters, the name of the "
    "hall; below it, smaller, the date and the hour. The paper shows its grain and nothing else is written."
)
"""What the prompt enhancer is fed where a suite does not use it: more than 32 tokens in any tokenizer, fewer
than 32 of which would leave its quantized kernels unused."""

KEEP_OUT = "keep its components in main memory: --offload, --ernie-offload"
"""What else to do where a pipeline does not fit on a GPU."""

_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): .+", re.MULTILINE)
"""The last line of a traceback."""
_PROVENANCE = "_ernie_qa_provenance"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a pipeline came from and what loading it took: `load_pipeline` leaves it on the pipeline.

    `load_peak` are bytes of memory from a clean window on, see `ernie_qa.meter.peaks`. `offloaded` says that
    its components wait in main memory and come to the GPU one at a time. `artifact` held the quantized
    components; None where `model` was quantized in memory.
    """

    model: Model
    recipe: Recipe
    load_seconds: float
    load_peak: Mapping[str, int | None]
    offloaded: bool = False
    artifact: Model | None = None


def load_pipeline(
    model: Model | str | Path,
    recipe: Recipe | str | Path,
    device: str | None = None,
    *,
    artifact: Model | str | Path | None = None,
    offload: bool = False,
) -> ErnieImagePipeline:
    """Load `model` in BF16 with the components that `recipe` names quantized, ready to call on `device`.

    `device` is "cuda" where there is one, else "cpu", unless it is given. With `offload`, on a GPU,
    components wait in main memory until they are called (diffusers' `enable_model_cpu_offload`). The
    configuration of the result is what the recipe asks for; that it runs so is for `observe` to find out.
    `artifact` is a second directory or hub id that holds `model` as the recipe has quantized it: everything
    is loaded from there, and nothing is quantized. ModelError, RecipeError or UnavailableError where
    something is wrong or missing.
    """
    found, wanted = find_model(model), find_recipe(recipe)
    stored = None if artifact is None else find_model(artifact)
    checked_options(wanted)
    check_artifact(found, wanted, stored)
    return _opened(found, wanted, stored, device, offload)


def load_artifact(
    artifact: Model | str | Path,
    recipe: Recipe | str | Path,
    device: str | None = None,
    *,
    model: Model | str | Path | None = None,
    untouched: bool = False,
) -> ErnieImagePipeline:
    """Load what `recipe` quantized from `artifact` alone, where the BF16 model is not at hand. Its provenance
    names the artifact as the model, unless `model` is said. With `untouched`, nothing is applied after
    diffusers' own `from_pretrained`. `device` and errors are those of `load_pipeline`."""
    stored, wanted = find_model(artifact), find_recipe(recipe)
    base = stored if model is None else find_model(model)
    checked_options(wanted)
    if base is not stored:
        check_artifact(base, wanted, stored)
    return _opened(base, wanted, stored, device, False, untouched)


def _opened(
    found: Model,
    wanted: Recipe,
    stored: Model | None,
    device: str | None,
    offload: bool,
    untouched: bool = False,
) -> ErnieImagePipeline:
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    require_device(chosen)
    place = torch.device(chosen)
    if offload and place.type != "cuda":
        raise InputError(f"offloading keeps components out of a GPU's memory; the device is {chosen}")
    for component, quantizer in wanted.components.items():
        if place.type not in find_quantizer(quantizer).DEVICES:
            raise UnavailableError(
                f"recipe {wanted.name}: {component}: the quantizer {quantizer} does not run on {place.type}"
            )
    import_classes(found)
    for quantizer in set(wanted.components.values()):
        find_quantizer(quantizer).prepare(place.type)
    open_window(place)
    began = now(place)
    with told_in_one_line(stored or found):
        if untouched:
            pipe = _assemble(stored or found, {}, place, offload)
        else:
            pipe = _load(stored or found, wanted, place, offload)
    setattr(pipe, _PROVENANCE, Provenance(found, wanted, now(place) - began, peaks(place), offload, stored))
    return pipe


@contextmanager
def told_in_one_line(model: Model, remedy: str = KEEP_OUT) -> Iterator[None]:
    """ModelError for what the libraries raise over files that do not fit, OutOfMemoryError, with what to do
    about it, for memory."""
    import torch
    from safetensors import SafetensorError

    usual = torch.get_default_dtype()
    with _logged("transformers") as log:
        try:
            yield
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            OSError,
            RuntimeError,
            SafetensorError,
            TypeError,
            ValueError,
        ) as problem:
            said = _cause(problem, log)
            if short := ran_out(problem, said):
                memory, why = short
                mend = f"free some, or {remedy}" if memory == "GPU" else "free some"
                raise OutOfMemoryError(
                    f"{model.path}: not enough {memory} memory to load it: {why}; {mend}"
                ) from problem
            raise ModelError(
                f"{model.path}: cannot be loaded: {said}; look at its files and config.json"
            ) from problem
        finally:
            # diffusers leaves its own behind where a load fails, and the next pipeline would draw with it
            torch.set_default_dtype(usual)


@contextmanager
def _logged(name: str) -> Iterator[list[str]]:
    """What the logger of that name is told meanwhile."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger(name).removeHandler(handler)


def _cause(problem: Exception, log: Iterable[str]) -> str:
    """What went wrong, in one line. What a weight's conversion raises, memory that ran out too, transformers
    only writes to its log, to raise a RuntimeError that points there."""
    reported = (line for message in log for line in _RAISED.findall(message))
    first = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
    return next(reported, first) if type(problem) is RuntimeError else first


def _load(model: Model, recipe: Recipe, place: torch.device, offload: bool) -> ErnieImagePipeline:
    options = checked_options(recipe)
    named = classes(model)
    quantized: dict[str, Any] = {}
    for component in QUANTIZABLE:
        if component not in named:
            continue
        library, class_name = named[component]
        source = ComponentSource(model.path, component, library, class_name, str(place))
        if component in recipe.components:
            name = recipe.components[component]
            quantized[component] = find_quantizer(name).load(source, options[name])
    return _assemble(model, quantized, place, offload)


def classes(model: Model) -> dict[str, tuple[str, str]]:
    """Component -> library and class, from `model_index.json`."""
    index = read_json(model.path / "model_index.json", ModelError).frozen()
    return {name: index[name] for name in model.components}


def import_classes(model: Model) -> None:
    """Have the libraries import what they do when first asked: in a new process it takes longer than loading,
    and is no part of it."""
    from diffusers import ErnieImagePipeline  # noqa: F401

    for library, name in classes(model).values():
        getattr(import_module(library), name, None)


def _assemble(
    model: Model, quantized: dict[str, Any], place: torch.device, offload: bool
) -> ErnieImagePipeline:
    import torch
    from diffusers import ErnieImagePipeline

    pipe: Any = ErnieImagePipeline.from_pretrained(
        model.path, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True, **quantized
    )
    if offload:
        pipe.enable_model_cpu_offload(device=place)
        return pipe  # type: ignore[no-any-return]
    for component in WEIGHTED:
        module = getattr(pipe, component, None)
        if module is not None and component not in quantized:
            module.to(place)
    if place.type == "cpu":
        # without AVX512 a BF16 convolution takes 20 to 30 times as long in the default layout
        pipe.vae.to(memory_format=torch.channels_last)
    return pipe  # type: ignore[no-any-return]


def provenance(pipe: ErnieImagePipeline) -> Provenance | None:
    """Where `pipe` came from; None where `load_pipeline` did not make it."""
    return getattr(pipe, _PROVENANCE, None)


def exercise_prompt_enhancer(pipe: ErnieImagePipeline, prompts: Iterable[str] = ()) -> None:
    """One forward of the prompt enhancer, without a cache: what a suite that does not use it cannot show.

    It reads `exercise_ids`. ErnieQAError as there.
    """
    import torch

    live: Any = pipe
    ids = exercise_ids(pipe, prompts)
    with torch.no_grad():
        live.pe(input_ids=ids.to(live._execution_device), use_cache=False)


def exercise_ids(pipe: ErnieImagePipeline, prompts: Iterable[str] = ()) -> torch.Tensor:
    """The [1, tokens] ids of the first of `prompts` that is long enough, for as many rows kernels are tuned
    already, else of a fixed text. ErnieQAError if pe_tokenizer makes fewer than 32 tokens of that too."""
    live: Any = pipe
    for text in (*prompts, TEACHER):
        ids: torch.Tensor = live.pe_tokenizer(text, return_tensors="pt")["input_ids"]
        if ids.shape[1] >= 32:
            return ids
    raise ErnieQAError(
        f"pe_tokenizer makes {ids.shape[1]} tokens of the text that exercises the prompt enhancer; "
        "32 are needed: look at the model's pe_tokenizer"
    )
