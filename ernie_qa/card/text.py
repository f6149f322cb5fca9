"""A card as text: the hub's front matter, and the Markdown that the template makes of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from ernie_qa.card import tables
from ernie_qa.card.cells import code, shown
from ernie_qa.card.pictures import DIRECTORY, MATRIX, MOST
from ernie_qa.card.usage import confirmation, usage
from ernie_qa.fidelity.metrics import metrics
from ernie_qa.quantizers import find_quantizer, stored_quantization
from ernie_qa.report.page.ladder import ladder
from ernie_qa.report.shown import BY_THE_GATE
from ernie_qa.report.summary import WORDS
from ernie_qa.report.terminal import WORDS as SHORT
from ernie_qa.rungs import images, text
from ernie_qa.verdict import Status
from ernie_qa.wording import counted

if TYPE_CHECKING:
    from ernie_qa.card.pictures import Pair
    from ernie_qa.card.subject import Subject

MESSAGES = 5
"""Failing checks spelt out."""
_PLAIN_TYPES = ("bfloat16", "float16", "float32")
"""Types that a setting may name and that are no quantization."""


def card_text(
    subject: Subject,
    *,
    repository: str,
    base_model: str | None,
    license: str | None,
    shown_pairs: Sequence[Pair],
) -> str:
    """The whole card, which `huggingface_hub.ModelCard` reads; arguments are as `write_card` has them."""
    from huggingface_hub import ModelCard, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # `finalize` escapes whatever the template puts in, which autoescape then leaves as it is
    templates = Environment(
        loader=PackageLoader("ernie_qa.card"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    data = ModelCardData(
        license=license,
        base_model=base_model,
        base_model_relation="quantized" if base_model else None,
        pipeline_tag="text-to-image",
        library_name="diffusers",
        tags=_tags(subject),
    )
    body = templates.get_template("card.md").render(_about(subject, repository, base_model, shown_pairs))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _about(
    subject: Subject, repository: str, base_model: str | None, shown_pairs: Sequence[Pair]
) -> dict[str, Any]:
    record = subject.record
    found = ladder(subject.shown.verdict, 8 * MESSAGES)
    decisive = [said for said in found.said if said.required]
    return {
        "counted": counted,
        "subject": subject,
        "title": f"{subject.runtime.base.rpartition('/')[2]} {subject.runtime.recipe}",
        "base": base_model or subject.runtime.base,
        "linked": base_model is not None,
        "names": subject.names,
        "machine": record.fingerprint.gpu or f"CPU, {record.fingerprint.cpu}",
        "driver": record.fingerprint.driver,
        "packages": {name: version for name, version in record.fingerprint.packages.items() if version},
        "setup": _block(_setup(subject)),
        "metadata": [file.name for file in sorted(subject.artifact.path.glob("quantization_*.json"))],
        "verdict": subject.shown.verdict,
        "words": WORDS,
        "by_the_gate": subject.shown.judged == BY_THE_GATE,
        "ladder": found,
        "steps": [step for step in found.steps if step.asks or step.word != SHORT[Status.NOT_APPLICABLE]],
        "said": decisive[:MESSAGES],
        "unsaid": len(decisive[MESSAGES:]),
        "totals": _block(tables.totals(subject)),
        "smaller": tables.smaller(subject),
        "weights": _block(tables.weights(subject)),
        "measured": _block(tables.measured(subject)),
        "runtimes": _block(tables.runtimes(subject)),
        "beside": _block(tables.beside(subject)),
        "stages": _block(tables.stages(subject)),
        "notes": list(tables.notes(subject)),
        "pairs": [(one.case.id, f"{DIRECTORY}/{quote(one.case.id)}.webp") for one in shown_pairs],
        "matrix": Markup(f"{DIRECTORY}/{MATRIX}"),
        "most": MOST,
        "quality": _block(tables.quality(subject)),
        "unscored": list(_unscored(subject)),
        "definitions": list(_definitions(subject)),
        "usage": _code(usage(subject, repository)),
        "confirmation": _code(confirmation(subject)),
        "prompts": _block(tables.prompts(subject.suite)),
        "code": code,
    }


def _block(table: tables.Table) -> Markup:
    """A table, whose cells are escaped already; nothing for one without rows."""
    return Markup(table if table.rows else "")


def _code(text: str) -> Markup:
    """Python in a block of its own; no line of it can end the block, for no text in it has a line of its
    own."""
    return Markup(f"```python\n{text}\n```" if text else "")


def _tags(subject: Subject) -> list[str]:
    """What the hub is to find the artifact by, as the published cards have it."""
    tags = ["text-to-image", "diffusers", "safetensors", "ernie-image"]
    for how in subject.runtime.loading:
        tags.append(how.quantizer)
        for settings in (_settings(subject, component) for component in how.components):
            tags += [one for one in settings.values() if isinstance(one, str) and one not in _PLAIN_TYPES]
        tags += [
            name.removeprefix("use_").replace("_", "-")
            for name, value in how.arguments.items()
            if value == "True"
        ]
    tags += ["quantized", subject.runtime.recipe]
    return list(dict.fromkeys(tags))


def _settings(subject: Subject, component: str) -> dict[str, Any]:
    """What the stored component's own configuration says of its quantization, as its quantizer reads it."""
    quantizers = {name: how.quantizer for how in subject.runtime.loading for name in how.components}
    if component not in quantizers:
        return {}
    stored = stored_quantization(subject.artifact.path / component)
    return dict(find_quantizer(quantizers[component]).stored_flag(stored)) if stored else {}


def _setup(subject: Subject) -> tables.Table:
    quantizers = {name: how.quantizer for how in subject.runtime.loading for name in how.components}
    rows = []
    for component in sorted(subject.artifact.components, key=lambda name: (name not in quantizers, name)):
        settings = ", ".join(f"{key}={value}" for key, value in _settings(subject, component).items())
        how = code(quantizers[component]) if component in quantizers else "original precision"
        rows.append((code(component), how, code(settings) if settings else ""))
    columns = (("Component", tables.LEFT), ("Quantizer", tables.LEFT), ("Settings", tables.LEFT))
    return tables.Table(columns, tuple(rows))


def _unscored(subject: Subject) -> Iterator[str]:
    """Why there are no scores, or no words."""
    for name, what in ((images.NAME, "The pictures were not scored"), (text.NAME, "No words were read")):
        figures = subject.record.figures.get(name)
        why = figures.get("why") if figures else "the record holds no figures of this rung"
        if why:
            yield f"{what}: {why}"


def _definitions(subject: Subject) -> Iterator[str]:
    """How the scores were taken."""
    figures = subject.record.figures.get(images.NAME, {}).get("metrics", {})
    for metric in metrics():
        if found := figures.get(metric.NAME, {}).get("definition"):
            better = "lower is nearer" if metric.BETTER == "lower" else "higher is nearer"
            yield f"{metric.NAME.upper()} ({better}): {found}"
