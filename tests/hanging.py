"""What hangs or dies for real, planted into every process that Python starts: `HANGS` says which recipe does
what."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

PLANT = '''
"""Imported at every start of Python; HANGS is `recipe=what` for each recipe that something befalls."""
import ctypes, os

def drawing(*_):
    # a call into C that never returns, as a kernel that is waited for
    ctypes.CDLL(None).pause()

def holding(*_):
    # and does not let other threads run either
    ctypes.PyDLL(None).pause()

def dying(*_):
    os.kill(os.getpid(), 9)

def hangs(told):
    from ernie_qa import execute

    load, get_ready = execute.load_pipeline, execute.require_device

    def loading(model, recipe, device, **options):
        if told.get(recipe.name) == "loading":
            while True:
                pass
        pipe = load(model, recipe, device, **options)
        befalls = {"drawing": drawing, "holding": holding, "dying": dying}.get(told.get(recipe.name))
        if befalls:
            pipe.transformer.register_forward_pre_hook(befalls)
        return pipe

    def ready(device):
        if "device" in told:
            drawing()
        get_ready(device)

    execute.load_pipeline, execute.require_device = loading, ready

if os.environ.get("HANGS"):
    hangs(dict(one.split("=") for one in os.environ["HANGS"].split()))
'''


def planted(directory: Path, hangs: Iterable[str]) -> dict[str, str]:
    """The environment of a process in which each of `hangs`, `recipe=what`, befalls that recipe."""
    (directory / "sitecustomize.py").write_text(PLANT, encoding="utf-8")
    path = os.pathsep.join([str(directory), *sys.path])
    return {"HANGS": " ".join(hangs), "PYTHONPATH": path}
