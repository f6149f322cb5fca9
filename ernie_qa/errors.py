"""Everything that ernie_qa raises on purpose.

    ErnieQAError
    ├── InputError            what the caller gave is wrong; exit code 2, nothing written
    │   ├── RecipeError       a recipe file, or the name of one
    │   ├── SuiteError        a suite file, or the name of one
    │   ├── ModelError        a model directory or one of its files
    │   ├── RecordError       a stored record: unreadable, edited, or of a later schema
    │   ├── BaselineError     accepted figures or pictures: damaged, edited, or not to be accepted
    │   └── CapsuleError      a capsule: damaged, edited, too large, or of a later schema
    └── UnavailableError      this machine lacks something: a GPU, a package, the LPIPS weights
        └── OutOfMemoryError  memory ran out while a pipeline was loaded

Every message is one line that says what is wrong, where, and what to do. A library's words may stand in it,
and are told and kept: access tokens are taken out of all of them.
"""

from ernie_qa.redaction import without_secrets


class ErnieQAError(Exception):
    """Base of all errors that ernie_qa raises on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(one) if isinstance(one, str) else one for one in args))


class InputError(ErnieQAError):
    """What the caller gave is wrong."""


class RecipeError(InputError):
    """A recipe file, or the name of one, is wrong."""


class SuiteError(InputError):
    """A suite file, or the name of one, is wrong."""


class ModelError(InputError):
    """A model directory, or one of its files, is wrong."""


class RecordError(InputError):
    """A stored record is unreadable, was edited, or is of a later schema."""


class BaselineError(InputError):
    """Accepted figures or pictures are damaged or were edited, or what is offered must not be accepted."""


class CapsuleError(InputError):
    """A capsule is damaged, was edited, is too large, or does not fit what it is to be compared with."""


class UnavailableError(ErnieQAError):
    """This machine lacks something that was asked for."""


class OutOfMemoryError(UnavailableError):
    """There is not enough memory, the GPU's or main memory, to load a pipeline."""
