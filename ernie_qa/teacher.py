"""What teacher forcing needs: a drawing of which is kept what each part was fed and gave. `ernie_qa.replay`
feeds it to the parts of another pipeline.

What is kept is a tape, a flat mapping of names to tensors on the CPU:

    CASE/text_encoder/N/ids, states             the N-th call: [1, T] ids, [T, width] states of the layer used
    CASE/transformer/N/hidden_states, timestep, text, prediction
                                                the N-th call; `text` says which of the following it was fed
    CASE/text/N/bth, lens                       text states as the transformer takes them, and their lengths
    CASE/scheduler/sigmas, timesteps            after the drawing
    CASE/scheduler/0/sample                     what the first step was given
    CASE/scheduler/N/model_output, prev         the N-th step; the former where it is not the prediction
    CASE/vae/latents, decoded
    ids/TOKENIZER/CASE
    pe/CASE/ids, logits                         teacher-forced; `logits` [n, vocabulary] of the last n tokens
    layers/COMPONENT/LAYER/shape, rows, outputs of one call: the input's shape, and some rows of [.., in]
                                                and of what the layer made of them
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ernie_qa.drawing import rehearse
from ernie_qa.pipeline import exercise_ids
from ernie_qa.trajectories import Trajectories

if TYPE_CHECKING:
    import torch
    from diffusers import ErnieImagePipeline

    from ernie_qa.suite import Case, Suite

Tape = Mapping[str, "torch.Tensor"]

ROWS = 16
"""At most so many rows of a layer are kept."""
VALUES = 2**15
"""And so many values of what it is fed and gives together, but for one row: at full size 40 MB in all."""
TOKENS = 256
"""At most so many of the prompt enhancer's tokens are compared: at full size one's logits take 262 kB."""
USED = -2
"""The hidden states that the pipeline takes from the text encoder (diffusers, ErnieImagePipeline)."""

Before = Callable[[str, dict[str, Any]], dict[str, Any]]
After = Callable[[str, dict[str, Any], Any], None]


@contextmanager
def tapped(pipe: ErnieImagePipeline, before: Before, after: After) -> Iterator[None]:
    """Call `before` with every part's name and inputs by name, which it may replace, and `after` with its
    output too. Parts: text_encoder, transformer, the scheduler's `step`, the VAE's `decode`."""
    live: Any = pipe
    with ExitStack() as stack:
        for part in ("text_encoder", "transformer"):
            module = getattr(live, part)
            parameters = inspect.signature(type(module).forward)

            def starts(
                module: Any,
                args: Any,
                kwargs: Any,
                part: str = part,
                parameters: inspect.Signature = parameters,
            ) -> Any:
                return (), before(part, _named(parameters, (module, *args), kwargs))

            def ends(module: Any, args: Any, kwargs: Any, output: Any, part: str = part) -> None:
                after(part, kwargs, output)

            stack.callback(module.register_forward_pre_hook(starts, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(ends, with_kwargs=True).remove)
        for part, owner, name in (("scheduler", live.scheduler, "step"), ("vae", live.vae, "decode")):
            attributes = vars(owner)
            # somebody may have put one of his own there
            restore = {name: attributes[name]} if name in attributes else {}
            stack.callback(attributes.update, restore)
            stack.callback(attributes.pop, name)
            setattr(owner, name, _through(part, owner, name, before, after))
        yield


def _through(part: str, owner: Any, name: str, before: Before, after: After) -> Callable[..., Any]:
    function = getattr(owner, name)
    # the class's own names: what somebody put there may take *args
    parameters = inspect.signature(getattr(type(owner), name))

    def called(*args: Any, **kwargs: Any) -> Any:
        inputs = before(part, _named(parameters, (owner, *args), kwargs))
        output = function(**inputs)
        after(part, inputs, output)
        return output

    return called


def _named(parameters: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = dict(parameters.bind(*args, **kwargs).arguments)
    bound.pop("self", None)
    for name, parameter in parameters.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(bound.pop(name, {}))
    return bound


def recorded(pipe: ErnieImagePipeline, suite: Suite, number: int, words: Mapping[str, str]) -> Trajectories:
    """The trajectories of the first `number` cases, and all ids; `words` are what the prompt enhancer wrote,
    by case."""
    from safetensors.torch import save

    tape: dict[str, torch.Tensor] = token_ids(pipe, suite)
    for case in suite.cases[:number]:
        first = case is suite.cases[0]
        tape |= record(pipe, case, suite, prompt=words.get(case.id), layers=first)
        # a text that it did not write is the same for all cases
        if getattr(pipe, "pe", None) is not None and (first or case.id in words):
            tape |= record_pe(pipe, case, suite, words.get(case.id), layers=first)
    return Trajectories.from_bytes(save(tape))


def record(
    pipe: ErnieImagePipeline, case: Case, suite: Suite, *, prompt: str | None = None, layers: bool = False
) -> dict[str, torch.Tensor]:
    """Draw `case` once more and keep what each part was fed and gave; with `layers`, rows of every Linear."""
    live: Any = pipe
    tape: dict[str, torch.Tensor] = {}
    counts: Counter[str] = Counter()

    def before(part: str, inputs: dict[str, Any]) -> dict[str, Any]:
        if layers and probed(part, counts[part], suite):
            keeping.enter_context(_keeping_rows(getattr(live, part), part, tape))
        return inputs

    def after(part: str, inputs: dict[str, Any], output: Any) -> None:
        # the hooks on layers are for one call alone
        keeping.close()
        _keep(tape, f"{case.id}/{part}", counts[part], part, inputs, output, case)
        counts[part] += 1

    with ExitStack() as keeping, tapped(pipe, before, after):
        rehearse(pipe, case, suite, prompt=prompt)
    for name in ("sigmas", "timesteps"):
        tape[f"{case.id}/scheduler/{name}"] = kept(getattr(live.scheduler, name))
    return tape


def probed(part: str, call: int, suite: Suite) -> bool:
    """Whether the layers of `part` are looked at in that call: the text encoder's first, the transformer's
    half-way through the steps."""
    return (part, call) in (("text_encoder", 0), ("transformer", suite.steps // 2))


def _keep(
    tape: dict[str, torch.Tensor],
    place: str,
    call: int,
    part: str,
    inputs: Mapping[str, Any],
    output: Any,
    case: Case,
) -> None:
    import torch

    if part == "text_encoder":
        tape[f"{place}/{call}/ids"] = kept(inputs["input_ids"])
        tape[f"{place}/{call}/states"] = kept(output.hidden_states[USED][0])
    elif part == "transformer":
        tape[f"{place}/{call}/hidden_states"] = kept(inputs["hidden_states"])
        tape[f"{place}/{call}/timestep"] = kept(inputs["timestep"])
        tape[f"{place}/{call}/prediction"] = kept(output[0])
        # all steps are fed the same words, and where guidance takes two calls a step, every second
        words, lengths, index = kept(inputs["text_bth"]), kept(inputs["text_lens"]), 0
        while (at := f"{case.id}/text/{index}/bth") in tape and not torch.equal(tape[at], words):
            index += 1
        tape[at], tape[f"{case.id}/text/{index}/lens"] = words, lengths
        tape[f"{place}/{call}/text"] = torch.tensor(index)
    elif part == "scheduler":
        predicted, made = tape.get(f"{case.id}/transformer/{call}/prediction"), kept(inputs["model_output"])
        if predicted is None or not torch.equal(predicted, made):
            tape[f"{place}/{call}/model_output"] = made
        if call == 0:
            tape[f"{place}/{call}/sample"] = kept(inputs["sample"])
        tape[f"{place}/{call}/prev"] = kept(previous(output))
    elif part == "vae":
        tape[f"{place}/latents"] = kept(inputs["z"])
        tape[f"{place}/decoded"] = kept(output[0])


def kept(value: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, in one piece."""
    return value.detach().to("cpu", copy=True).contiguous()


def previous(output: Any) -> Any:
    """The sample that a scheduler's step gave."""
    return output[0] if isinstance(output, tuple) else output.prev_sample


@contextmanager
def _keeping_rows(component: Any, name: str, tape: dict[str, torch.Tensor]) -> Iterator[None]:
    """Keep some rows of what every Linear of `component` is fed and gives in its first call."""
    import torch

    def heard(place: str, rows: torch.Tensor, outputs: torch.Tensor) -> None:
        if f"{place}/rows" in tape:
            return
        flat, made = rows.reshape(-1, rows.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
        count = max(1, min(ROWS, len(flat), VALUES // (flat.shape[1] + made.shape[1])))
        chosen = torch.linspace(0, len(flat) - 1, count).round().long().to(flat.device)
        tape[f"{place}/shape"] = torch.tensor(rows.shape)
        tape[f"{place}/rows"], tape[f"{place}/outputs"] = kept(flat[chosen]), kept(made[chosen])

    with ExitStack() as stack:
        for layer, module in component.named_modules():
            if isinstance(module, torch.nn.Linear):
                hook = module.register_forward_hook(
                    lambda _, args, output, place=f"layers/{name}/{layer}": heard(place, args[0], output)
                )
                stack.callback(hook.remove)
        yield


def record_pe(
    pipe: ErnieImagePipeline, case: Case, suite: Suite, written: str | None, *, layers: bool = False
) -> dict[str, torch.Tensor]:
    """One forward of the prompt enhancer over what it `written` for `case`, after what it was asked; where
    it wrote nothing, over the text that exercises it, whose every token counts."""
    live: Any = pipe
    if written:
        asked = _tokens(live, pe_request(pipe, case))
        ids = _tokens(live, pe_request(pipe, case) + written)[:, : asked.shape[1] + TOKENS]
        count = min(ids.shape[1], TOKENS, ids.shape[1] - asked.shape[1] + 1)
    else:
        ids = exercise_ids(pipe, (one.prompt for one in suite.cases))[:, :TOKENS]
        count = ids.shape[1]
    tape = {f"pe/{case.id}/ids": kept(ids)}
    with ExitStack() as keeping:
        if layers:
            keeping.enter_context(_keeping_rows(live.pe, "pe", tape))
        tape[f"pe/{case.id}/logits"] = kept(logits(pipe, ids, max(count, 1)))
    return tape


def logits(pipe: ErnieImagePipeline, ids: torch.Tensor, count: int) -> torch.Tensor:
    """The prompt enhancer's [count, vocabulary] logits after each of the last of [1, tokens] `ids`."""
    import torch

    live: Any = pipe
    with torch.no_grad():
        output = live.pe(
            input_ids=ids.to(live._execution_device), use_cache=False, logits_to_keep=min(count, ids.shape[1])
        )
    found: torch.Tensor = output.logits[0]
    return found


def pe_request(pipe: ErnieImagePipeline, case: Case) -> str:
    """What the prompt enhancer is asked for `case`, as the pipeline words it; without its wrapping where its
    tokenizer has no template for it."""
    import json

    live: Any = pipe
    asked = {"prompt": case.prompt, "width": case.width, "height": case.height}
    content = json.dumps(asked, ensure_ascii=False)
    if live.pe_tokenizer.chat_template is None:
        return content
    message = {"role": "user", "content": content}
    text: str = live.pe_tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=False)
    return text


def token_ids(pipe: ErnieImagePipeline, suite: Suite) -> dict[str, torch.Tensor]:
    """`ids/TOKENIZER/CASE`: what each tokenizer of the pipeline makes of each case, of its prompt and of what
    the prompt enhancer is asked."""
    import torch

    live: Any = pipe
    found = {}
    for case in suite.cases:
        texts = {"tokenizer": case.prompt}
        if getattr(live, "pe_tokenizer", None) is not None:
            texts["pe_tokenizer"] = pe_request(pipe, case)
        for name, text in texts.items():
            ids = getattr(live, name)(text)["input_ids"]
            found[f"ids/{name}/{case.id}"] = torch.tensor(ids, dtype=torch.int64)
    return found


def _tokens(live: Any, text: str) -> torch.Tensor:
    ids: torch.Tensor = live.pe_tokenizer(text, return_tensors="pt")["input_ids"]
    return ids
