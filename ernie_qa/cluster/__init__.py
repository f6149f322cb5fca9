"""One run on several hosts: workers observe, only the caller judges.

    chunks    what a worker is given: some cases of one arm
    work      what it does with that, in a process of any executor
    dispatch  who is given what, and what becomes of what is lost
    dask      workers that a Dask scheduler knows

What a worker gives back is a record; no disk is shared. docs/cluster.md says how it is used.
"""

from ernie_qa.cluster.dispatch import Workers, run

__all__ = ["Workers", "run"]
