"""Tasks: pieces of work that any process with access to their folders can do, and that stay done.

    task = make_task(folder, inputs, facts, cost)          a folder with its inputs and their digest
    python -m homodyne.tasks package.module:name folder    computes it, here or on any machine that sees the folder

Where tasks are computed is the business of group ``cmc_backend``; what they compute, of the caller.
"""

from .folder import Failure, Kind, Outcome, Task, Work, make_task
from .lock import owned
from .worker import Beat, compute, compute_batch

__all__ = ["Beat", "Failure", "Kind", "Outcome", "Task", "Work", "compute", "compute_batch", "make_task", "owned"]
