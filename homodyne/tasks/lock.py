"""One driver in one folder: a lock file that names who holds it."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from platform import node

from ..errors import FitError

LOCK = "driver.lock"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. One whose holder is a dead process of this host is taken over.

    Raises:
        FitError: another driver holds it, or one on another host may.
    """
    path = folder / LOCK
    mine = json.dumps({"host": node(), "pid": os.getpid(), "token": secrets.token_hex(8)})
    while not _created(path, mine):
        holder = _text(path)
        if holder is None:
            continue
        _refuse_if_held(path, holder)
        # Renamed, not removed: of two drivers that both found the lock stale, one fails here and looks again.
        stale = path.with_name(f".{LOCK}.{secrets.token_hex(4)}.part")
        try:
            path.rename(stale)
        except FileNotFoundError:
            continue
        stale.unlink()
    try:
        yield
    finally:
        if _text(path) == mine:
            path.unlink()


def _created(path: Path, text: str) -> bool:
    """Make the file with its content in one step, if there is none: a link appears whole or not at all, also on NFS."""
    draft = path.with_name(f".{LOCK}.{secrets.token_hex(4)}.part")
    draft.write_text(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _refuse_if_held(path: Path, holder: str) -> None:
    try:
        record = json.loads(holder)
        host, pid = record["host"], int(record["pid"])
    except (ValueError, KeyError, TypeError) as error:
        raise FitError(f"{path} is not a lock that homodyne wrote; delete it if no other run uses this folder") from error
    if host != node():
        raise FitError(f"{path.parent} is in use by process {pid} on {host}; if that has ended, delete {path}")
    if _alive(pid):
        raise FitError(f"{path.parent} is in use by process {pid} on this host ({host}); wait for it, stop it, or use another folder")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # A zombie has ended, and nobody has waited for it.
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except OSError:
        return True
