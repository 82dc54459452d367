"""Wall time, CPU time and peak memory of the whole command, from file to saved numbers, without figures.

    python benchmarks/bench_command.py --folder outputs/bench

Writes the files if they are missing, then runs each command in a new process: cold (empty compilation cache) and warm.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SIZES = {"23 x 1000": (23, 1000), "2 x 10000": (2, 10_000)}


def write(path: Path, angles: int, frames: int) -> None:
    """A simulated file; map by map, so that it also works for sizes that do not fit in memory twice."""
    code = (
        "import numpy as np; from homodyne import option; "
        f"option('data', 'simulated', phi_list=np.linspace(-80, 80, {angles}).tolist(), n_frames={frames}, dt={100 / frames}, "
        f"write={str(path)!r}).load()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def run(path: Path, folder: Path, cache: Path, extra: list[str]) -> tuple[float, float, float]:
    """Wall s, CPU s, peak MB of one command."""
    shutil.rmtree(folder, ignore_errors=True)
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "homodyne", f"data.path={path}", "report=off", f"hydra.run.dir={folder}", *extra]
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return wall, usage.ru_utime + usage.ru_stime, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3, help="warm runs; the fastest counts")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| data | run | wall s | CPU s | peak MB |\n|---|---|---|---|---|")
    for size in options.sizes:
        angles, frames = SIZES[size]
        path = options.folder / f"{angles}x{frames}.h5"
        if not path.exists():
            write(path.absolute(), angles, frames)
        cache = options.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        for label, count in (("cold", 1), ("warm", options.repeats)):
            runs = [run(path.absolute(), options.folder / "run", cache.absolute(), []) for _ in range(count)]
            wall, cpu, peak = min(runs)
            print(f"| {size} | {label} | {wall:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()
