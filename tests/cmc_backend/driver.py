"""A driver as a process of its own, to be interrupted: ``python -m tests.cmc_backend.driver '{"option": ..., "root": ...}'``."""

import json
import sys
from pathlib import Path

from homodyne.config import option

from .contract import WORK, shards


def main() -> None:
    asked = json.loads(sys.argv[1])
    backend = option("cmc_backend", asked["option"], **asked["settings"])
    tasks = shards(Path(asked["root"]), dict(asked["do"]))
    try:
        backend.run(WORK, tasks, lambda status: print(f"done {status.done}", flush=True))
    except KeyboardInterrupt as stop:
        print(f"interrupted by {stop}", flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
