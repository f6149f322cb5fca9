"""What a check against a capsule came to, for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ernie_qa.capsules.capsule import machine_in_words
from ernie_qa.verdict import Status

if TYPE_CHECKING:
    from ernie_qa.capsules.capsule import Capsule
    from ernie_qa.capsules.installed import Answer

WORDS = {Status.PASS: "same", Status.FAIL: "differs"}
CANNOT_TELL = "cannot_tell"


def lines(capsule: Capsule, answer: Answer, model: str) -> Iterator[str]:
    """A line a comparison, a component together; then what it comes to, and the notes."""
    component: str | None = "?"
    order = {name: at for at, name in enumerate(dict.fromkeys(one.component for one in answer.findings))}
    for finding in sorted(answer.findings, key=lambda one: order[one.component]):
        if finding.component != component:
            component = finding.component
            yield component or "the whole"
        word = WORDS.get(finding.status, "?")
        yield f"  {word:<8} {finding.about:<8} {finding.message}"
    yield ""
    yield f"published {capsule.created[:10]} on {machine_in_words(capsule.fingerprint)}"
    published = f"{capsule.recipe.name} of {capsule.model.name}"
    match answer.status:
        case Status.PASS:
            yield f"same: {model} runs here as {published} was published ({answer.seconds:.0f} s)"
        case Status.FAIL:
            parts = dict.fromkeys(
                one.component or "recipe" for one in answer.findings if one.status is Status.FAIL
            )
            where = f"{', '.join(parts)} ({answer.seconds:.0f} s)"
            yield f"differs: {model} does not run here as {published} was published: {where}"
        case _:
            yield f"cannot tell whether {model} runs here as {published} was published"
    for note in answer.notes:
        yield f"  {note}"


def document(capsule: Capsule, answer: Answer, model: str) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "schema": 1,
        "status": WORDS.get(answer.status, CANNOT_TELL),
        "model": model,
        "recipe": capsule.recipe.name,
        "capsule": capsule.sha256,
        "published_on": machine_in_words(capsule.fingerprint),
        "seconds": answer.seconds,
        "findings": [
            {**asdict(one), "status": WORDS.get(one.status, CANNOT_TELL)} for one in answer.findings
        ],
        "notes": list(answer.notes),
    }
