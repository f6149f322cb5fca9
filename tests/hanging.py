"""What hangs, dies or runs out of memory for real, planted into every process that Python starts."""

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

def computing(*_):
    import torch

    # a real kernel: whatever waits for the GPU waits for decades
    torch.cuda._sleep(2**62)

def leaking(*_):
    import torch

    if not hasattr(torch, "leaked"):
        torch.leaked = torch.empty(2**28, dtype=torch.uint8, device="cuda")

def holding(*_):
    # and does not let other threads run either
    ctypes.PyDLL(None).pause()

def dying(*_):
    os.kill(os.getpid(), 9)

def hungry(*_):
    import torch

    # more than any machine has
    torch.empty(2**50)

def starving(load, megabytes=10):
    # a limit that the load itself runs into
    import resource
    import diffusers, sdnq, transformers

    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        return load()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

def hangs(told):
    from ernie_qa import observer

    load, get_ready = observer.load_pipeline, observer.require_device

    def loading(model, recipe, device, **options):
        if told.get(recipe.name) == "loading":
            while True:
                pass
        if told.get(recipe.name) == "starving":
            return starving(lambda: load(model, recipe, device, **options))
        pipe = load(model, recipe, device, **options)
        hooks = (drawing, computing, leaking, holding, dying, hungry)
        befalls = {one.__name__: one for one in hooks}.get(told.get(recipe.name))
        if befalls:
            pipe.transformer.register_forward_pre_hook(befalls)
        return pipe

    def ready(device):
        if "device" in told:
            drawing()
        get_ready(device)

    observer.load_pipeline, observer.require_device = loading, ready

if os.environ.get("HANGS"):
    hangs(dict(one.split("=") for one in os.environ["HANGS"].split()))
'''


def planted(directory: Path, hangs: Iterable[str]) -> dict[str, str]:
    """The environment of a process in which each of `hangs`, `recipe=what`, befalls that recipe."""
    (directory / "sitecustomize.py").write_text(PLANT, encoding="utf-8")
    path = os.pathsep.join([str(directory), *sys.path])
    return {"HANGS": " ".join(hangs), "PYTHONPATH": path}
