"""``python -m homodyne.tasks package.module:function folder [folder ...]``: a worker process.

    --list FILE --element N   folders from element N of a JSON list of lists, as the jobs of a scheduler get them
    --stdin                   folders from standard input, one a line; each is repeated on standard output when it is finished
    --cores 0,1               run on these cores only
    --attached                end when the process that started this one does

SIGUSR2 means that the time limit is near: the task under way is recorded as ended by it, and the worker leaves with status 124.
"""

import argparse
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .folder import LOG
from .worker import Attempt, Caught, compute, imported, keep_compiled_code

OUT_OF_TIME = 124
"""Exit status; the command timeout uses the same."""


def main() -> None:
    asked = _arguments()
    if asked.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in asked.cores.split(",")})
    under_way: list[Attempt] = []
    # Every signal is written to a pipe by whichever thread it reaches, those of BLAS included; not ignored and not blocked, as a job
    # script may have left it.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR2, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    threading.Thread(target=_leave_in_time, args=(told, under_way), daemon=True).start()
    if asked.attached:
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    # Whatever the work prints belongs into the log of its task, and the pipe to the driver stays clean.
    answers = os.fdopen(os.dup(1), "w")
    prepared = False
    for folder in _folders(asked):
        _print_into(folder / LOG)
        if not prepared:
            _prepare(asked.function)
            prepared = True
        compute(asked.function, folder, started=lambda attempt: under_way.__setitem__(slice(None), [attempt]))
        if asked.stdin:
            answers.write(f"{folder}\n")
            answers.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m homodyne.tasks", description="Compute tasks; see docs/cmc_backend.md.")
    parser.add_argument("function", help="package.module:name")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--list", type=Path)
    parser.add_argument("--element", type=int)
    parser.add_argument("--stdin", action="store_true")
    parser.add_argument("--cores")
    parser.add_argument("--attached", action="store_true")
    return parser.parse_args()


def _folders(asked: argparse.Namespace) -> Iterator[Path]:
    yield from asked.folders
    if asked.list is not None:
        yield from map(Path, json.loads(asked.list.read_bytes())[asked.element])
    if asked.stdin:
        for line in sys.stdin:
            yield Path(line.removesuffix("\n"))


def _prepare(function: str) -> None:
    """Settings of the libraries that the work brings; work that cannot be imported is reported by the task, not here."""
    with Caught():
        imported(function)
    keep_compiled_code()


def _print_into(path: Path) -> None:
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        # By lines: what a killed worker last said is what one wants to read.
        stream.reconfigure(line_buffering=True)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _leave_in_time(told: int, under_way: list[Attempt]) -> None:
    # A thread that waits, not a handler: handlers run only when the main thread comes back from compiled code.
    while os.read(told, 1)[0] != signal.SIGUSR2:
        pass
    for attempt in under_way:
        attempt.fail("deadline", f"the time limit was reached after {attempt.seconds:.0f} s")
    os._exit(OUT_OF_TIME)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
