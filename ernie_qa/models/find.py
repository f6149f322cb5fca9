"""Finding a model: a shipped name, a diffusers directory, or a hub id.

A model is an ordinary diffusers directory of safetensors. Ours hold a manifest as well, `ernie_qa.json`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ernie_qa.errors import ModelError
from ernie_qa.frozen import Frozen, digest
from ernie_qa.models.checkpoint import PICKLES, check_component, file_hash, files_in, pickles, weights_hash
from ernie_qa.models.hub import Download, missing, snapshot
from ernie_qa.record import ModelIdentity
from ernie_qa.toml_input import SAFE_NAME, SAFE_NAME_RULE, did_you_mean, one_line, quoted, read_json, shown

MANIFEST_SCHEMA = 1
PIPELINE = "ErnieImagePipeline"

_DIRECTORY = Path(__file__).parent
_LIBRARIES = ("diffusers", "transformers")
_COMPONENT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w-][\w./-]*))?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `ernie_qa.json` says of a model: its default `suite`, its `weights` ("trained" or "random"), how
    it was trained, and the sha256 of each of its `files` by relative path."""

    name: str
    weights: str
    suite: str
    summary: str
    training: Mapping[str, object]
    files: Mapping[str, str]
    path: Path

    def verify(self) -> None:
        """Hash all files; ModelError if one is missing or altered, or a component holds one not listed."""
        directory = self.path.parent
        for name, sha256 in self.files.items():
            file = directory / name
            if not file.is_file():
                raise ModelError(
                    one_line(f"{file}: missing, but listed in {self.path.name}; install the model again")
                )
            if file_hash(file) != sha256:
                raise ModelError(
                    one_line(f"{file}: altered: not the sha256 in {self.path.name}; install it again")
                )
        for file in sorted(directory.glob("*/**/*")):
            if file.is_file() and file.relative_to(directory).as_posix() not in self.files:
                raise ModelError(one_line(f"{file}: not listed in {self.path.name}; remove it"))


@dataclass(frozen=True, slots=True)
class Model:
    """A diffusers directory that was checked: safetensors only, with all the components it names.

    `manifest` is None without an `ernie_qa.json`. `asked` is the branch, tag or commit that was asked for of
    the hub; None where none was, and for a directory.
    """

    path: Path
    identity: ModelIdentity
    components: tuple[str, ...]
    manifest: Manifest | None
    asked: str | None = None

    @property
    def name(self) -> str:
        """What reports call it: the manifest's name, the hub id, or the directory's name."""
        return self.identity.name

    @property
    def weights(self) -> str:
        """ "trained", "random", or "unknown" where no manifest says."""
        return self.identity.weights

    @property
    def address(self) -> str:
        """What finds the same model on another host: the shipped name, the hub id with its commit, or, where
        it is copied there, the absolute path."""
        if self.path.parent == _DIRECTORY:
            return self.path.name
        if self.identity.revision:
            return f"{self.identity.name}@{self.identity.revision}"
        return str(self.path.absolute())

    @property
    def suite(self) -> str | None:
        """The name of the suite it is judged on unless another is asked for."""
        return self.manifest.suite if self.manifest else None


def model_names() -> tuple[str, ...]:
    """The names of the shipped models."""
    return tuple(sorted(index.parent.name for index in _DIRECTORY.glob("*/model_index.json")))


def find_model(model: Model | str | Path, *, fetch: bool = True) -> Model:
    """The model that is meant: itself, the shipped one of that name, a directory, or `org/name[@revision]`.

    A hub id is fetched into the user's Hugging Face cache, or only looked up there under HF_HUB_OFFLINE=1 and
    without `fetch`. ModelError if it is not to be had, no diffusers directory, damaged, or holds a pickle
    checkpoint.
    """
    if isinstance(model, Model):
        return model
    text = str(model)
    if text in model_names() and isinstance(model, str):
        found = _read_model(_DIRECTORY / text)
        if found.manifest is None:
            raise ModelError(
                f"{found.path}: the shipped model {text} has no ernie_qa.json; install ernie_qa again"
            )
        found.manifest.verify()
        return found
    if _is_directory(text):
        return _read_model(Path(text))
    if hub := _hub_id(model):
        path = snapshot(hub["repo"], hub["revision"], PICKLES, fetch=fetch)
        return _read_model(path, hub["repo"], hub["revision"])
    names = model_names()
    raise ModelError(
        f"no model {quoted(text)}: allowed are a shipped name ({', '.join(names) or 'none is installed'}), "
        f"a diffusers directory, or a hub id org/name[@revision]{did_you_mean(text, names)}"
    )


def unpinned(model: Model) -> str:
    """One line that tells people to name a commit, where the hub may give another one for the same words
    tomorrow; empty for a commit and for a directory."""
    if model.identity.pinned is not False:
        return ""
    commit = model.identity.revision
    return (
        f"{model.name}: no commit was pinned: {model.asked or 'main'} is {commit} today; "
        f"write {model.name}@{commit} to judge the same weights tomorrow"
    )


def to_fetch(model: Model | str | Path) -> Download | None:
    """What `find_model` would fetch from the hub, which is asked and nothing fetched.

    None where there is nothing to fetch, or where the hub does not answer and the cache has to do. ModelError
    for a hub id that is in neither.
    """
    hub = _hub_id(model)
    return missing(hub["repo"], hub["revision"], PICKLES) if hub else None


def _hub_id(model: Model | str | Path) -> re.Match[str] | None:
    """The parts of a hub id, if that is what is meant: a directory of the same name comes first."""
    return _HUB_ID.fullmatch(model) if isinstance(model, str) and not _is_directory(model) else None


def _is_directory(text: str) -> bool:
    try:
        return text != "" and Path(text).is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte: no path at all
        return False


def vae_scale_factor(model: Model) -> int:
    """Pixels of a picture's side that one latent covers: 2 ** len(block_out_channels) of the VAE, as in
    diffusers' ErnieImagePipeline (all but one block halve the side, and patchifying halves it once more)."""
    config = read_json(model.path / "vae" / "config.json", ModelError)
    channels = config.frozen().get("block_out_channels")
    if not isinstance(channels, tuple) or not 1 <= len(channels) <= 10:
        config.fail("block_out_channels", f"found {shown(channels)}, allowed is a list of 1 to 10 numbers")
    return 1 << len(channels)


def _read_model(path: Path, repo: str | None = None, asked: str | None = None) -> Model:
    """The model in `path`; of the hub's `repo`, if given, whose snapshots are called by their commit."""
    try:
        return _checked(path, repo, asked)
    except OSError as problem:
        where = problem.filename or path
        raise ModelError(one_line(f"{where}: cannot be read: {problem.strerror or problem}")) from None


def _checked(path: Path, repo: str | None, asked: str | None) -> Model:
    components = _components(path)
    for file in pickles(path, components):
        raise ModelError(
            one_line(f"{file}: a pickle checkpoint, which can run code when read; allowed are safetensors")
        )
    for component in components:
        check_component(path / component)
    manifest = _manifest(path / "ernie_qa.json") if (path / "ernie_qa.json").exists() else None
    identity = ModelIdentity(
        name=repo or (manifest.name if manifest else path.resolve().name),
        revision=path.name if repo else None,
        weights=manifest.weights if manifest else "unknown",
        hash=_model_hash(path, components),
        pinned=asked == path.name if repo else None,
    )
    return Model(path, identity, components, manifest, asked)


def _components(path: Path) -> tuple[str, ...]:
    """The components that model_index.json names; [null, null] stands for one left out."""
    index = read_json(path / "model_index.json", ModelError)
    index.choice("_class_name", (PIPELINE,))
    components = []
    for name, entry in index.frozen().items():
        if name.startswith("_") or not isinstance(entry, tuple) or entry == (None, None):
            continue
        if not _COMPONENT.fullmatch(name) or len(entry) != 2 or entry[0] not in _LIBRARIES:
            index.fail(
                name, f"allowed is a component of {' or '.join(_LIBRARIES)}: code from elsewhere is never run"
            )
        components.append(name)
    if not components:
        index.fail(None, "names no component")
    return tuple(components)


def _manifest(path: Path) -> Manifest:
    table = read_json(path, ModelError)
    table.schema(MANIFEST_SCHEMA)
    files = table.table("files", optional=True)
    for name in files:
        if (
            PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
            or "\\" in name
            or "\0" in name
        ):
            files.fail(name, "a path outside the model's directory")
    manifest = Manifest(
        name=table.text("name", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE),
        weights=table.choice("weights", ("trained", "random")),
        suite=table.text("suite", pattern=SAFE_NAME, allowed=SAFE_NAME_RULE),
        summary=table.text("summary"),
        training=table.table("training", optional=True).frozen(),
        files=Frozen(
            {name: files.text(name, pattern=_SHA256, allowed="a sha256, 64 hex digits") for name in files}
        ),
        path=path,
    )
    table.finish()
    return manifest


def _model_hash(path: Path, components: tuple[str, ...]) -> str:
    """The sha256 over model_index.json and every file of a component, sorted by relative path.

    Of large safetensors files only a sample is read (`weights_hash`), so that 30 GB need not be: another
    training of the same model is told apart, a few values edited in place are not.
    """
    entries = [("model_index.json", file_hash(path / "model_index.json"))]
    for component in sorted(components):
        for file in files_in(path / component):
            entries.append((file.relative_to(path).as_posix(), weights_hash(file)))
    return digest(entries)
