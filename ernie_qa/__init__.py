"""Is a quantized ERNIE-Image pipeline still good, and is it really running quantized?

    import ernie_qa

    model = ernie_qa.find_model("mini")
    reference = ernie_qa.observe(ernie_qa.load_pipeline(model, "bf16"), "bf16", "mini")
    pipe = ernie_qa.load_pipeline(model, "sdnq-uint4-static")
    record = ernie_qa.observe(pipe, "sdnq-uint4-static", "mini", reference=reference)
    print(ernie_qa.judge(record, reference, "sdnq-uint4-static"))

Importing this imports no torch: whatever draws or measures does so when it is called.
"""

from ernie_qa.baseline.store import Baseline, find_baseline
from ernie_qa.errors import (
    BaselineError,
    ErnieQAError,
    InputError,
    ModelError,
    RecipeError,
    RecordError,
    SuiteError,
    UnavailableError,
)
from ernie_qa.judge import judge
from ernie_qa.models.find import Model, find_model
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.recipe import Recipe, find_recipe
from ernie_qa.record import Record, load_record
from ernie_qa.suite import Suite, find_suite
from ernie_qa.verdict import Check, Status, Verdict

__all__ = [
    "Baseline",
    "BaselineError",
    "Check",
    "ErnieQAError",
    "InputError",
    "Model",
    "ModelError",
    "Recipe",
    "RecipeError",
    "Record",
    "RecordError",
    "Status",
    "Suite",
    "SuiteError",
    "UnavailableError",
    "Verdict",
    "find_baseline",
    "find_model",
    "find_recipe",
    "find_suite",
    "judge",
    "load_pipeline",
    "load_record",
    "observe",
]
