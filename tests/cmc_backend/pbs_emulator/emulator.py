"""An emulator of qsub, qstat and qdel for tests. It is not PBS: it only does what PBS is known to do with the few options that are used.

It really runs the jobs: from $HOME in a clean environment with PBS_O_WORKDIR, PBS_JOBID and PBS_ARRAY_INDEX, as many at a time as there
are cpus and as the %limit of the array allows, with SIGTERM and then SIGKILL at the walltime. Ids, states, exit statuses, the rule that
one job is no array, and ended jobs that are unknown unless history is kept were taken from a real OpenPBS 23.06.06.

PBS_EMULATOR is the folder of its state: ``cpus`` (a number), ``history`` (if there, ended jobs stay known), ``<number>/`` for each job.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["PBS_EMULATOR"])
SERVER = "emulator"
UNKNOWN, FINISHED, ILLEGAL = 153, 35, 2


def main() -> int:
    command, arguments = sys.argv[1], sys.argv[2:]
    return {"qsub": qsub, "qstat": qstat, "qdel": qdel, "serve": serve}[command](arguments)


def qsub(arguments: list[str]) -> int:
    """Accept a job and leave a process behind that runs it; the id on standard output."""
    *pairs, script = arguments
    options = list(zip(pairs[::2], pairs[1::2], strict=True))
    known = {"-l", "-q", "-A", "-N", "-o", "-j", "-J"}
    if {name for name, _ in options} - known:
        return complain("qsub: illegal option", ILLEGAL)
    resources = ",".join(value for name, value in options if name == "-l")
    walltime = re.search(r"walltime=(\d+):(\d+):(\d+)", resources)
    cores = re.search(r"ncpus=(\d+)", resources)
    seconds = 0 if walltime is None else sum(int(part) * unit for part, unit in zip(walltime.groups(), (3600, 60, 1), strict=True))
    limits = (
        re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", next((value for name, value in options if name == "-J"), ""))
        if "-J" in dict(options)
        else None
    )
    if "-J" in dict(options) and (limits is None or int(limits[1]) >= int(limits[2])):
        return complain("qsub: illegal -J value", ILLEGAL)
    if "nowhere" in dict(options).values():
        return complain("qsub: Unknown queue", 170)
    HOME.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in HOME.iterdir() if path.name.isdigit()), default=0)
    job = HOME / str(number)
    job.mkdir()
    indices = [] if limits is None else list(range(int(limits[1]), int(limits[2]) + 1))
    record = {
        "id": f"{number}[].{SERVER}" if indices else f"{number}.{SERVER}",
        "indices": indices,
        "limit": int(limits[3]) if limits is not None and limits[3] else 0,
        "seconds": seconds,
        "cores": int(cores[1]) if cores else 1,
        "workdir": os.getcwd(),
        "impossible": "impossible=true" in resources,
    }
    (job / "job.json").write_text(json.dumps(record))
    shutil.copy(script, job / "script")
    server = [sys.executable, __file__, "serve", str(number)]
    with (job / "emulator.log").open("w") as log:
        subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    print(record["id"])
    return 0


def qstat(arguments: list[str]) -> int:
    """``qstat -x -t -f -F json id`` only."""
    if arguments[:-1] != ["-x", "-t", "-f", "-F", "json"]:
        return complain("qstat: the emulator does not know these options", ILLEGAL)
    job = HOME / arguments[-1].partition(".")[0].removesuffix("[]")
    if not (job / "job.json").is_file():
        return complain("qstat: Unknown Job Id", UNKNOWN)
    record = json.loads((job / "job.json").read_text())
    states = {name: state(job, name, record) for name in names(record)}
    over = all(item["job_state"] in "FX" for item in states.values())
    if over and not (HOME / "history").exists():
        return complain("qstat: Unknown Job Id", UNKNOWN)
    jobs = {element_id(record, name): item for name, item in states.items()}
    if record["indices"]:
        jobs[record["id"]] = {"job_state": "F" if over else "B"}
    print(json.dumps({"timestamp": int(time.time()), "pbs_version": "an emulator", "pbs_server": SERVER, "Jobs": jobs}))
    return 0


def qdel(arguments: list[str]) -> int:
    """Mark jobs as deleted; the process that runs them ends them."""
    status = 0
    for name in arguments:
        number, _, index = name.partition(".")[0].removesuffix("]").partition("[")
        job = HOME / number
        if not (job / "job.json").is_file():
            status = complain("qdel: Unknown Job Id", UNKNOWN)
            continue
        record = json.loads((job / "job.json").read_text())
        for element in [index] if index else names(record):
            if (job / f"{element}.end").exists():
                status = complain("qdel: Job has finished", FINISHED)
            else:
                (job / f"{element}.delete").touch()
    return status


def serve(arguments: list[str]) -> int:
    """Run the elements of one job until all have ended."""
    job = HOME / arguments[0]
    record = json.loads((job / "job.json").read_text())
    waiting, running = names(record), dict[str, tuple[subprocess.Popen, float]]()
    while waiting or running:
        for name in [name for name in waiting if (job / f"{name}.delete").exists()]:
            waiting.remove(name)
            end(job, name, 0)
        while waiting and not record["impossible"] and (len(running) < record["limit"] or not record["limit"]) and take(record["cores"]):
            name = waiting.pop(0)
            running[name] = (start(job, record, name), time.monotonic())
            (job / f"{name}.run").touch()
        for name, (process, begin) in list(running.items()):
            late = record["seconds"] and time.monotonic() - begin > record["seconds"]
            if process.poll() is None and ((job / f"{name}.delete").exists() or late):
                stop(process)
            if process.poll() is not None:
                give(record["cores"])
                del running[name]
                # A deleted job has been seen with status 0: it says nothing.
                deleted = (job / f"{name}.delete").exists()
                end(job, name, 0 if deleted else process.returncode if process.returncode >= 0 else 256 - process.returncode)
        time.sleep(0.02)
    return 0


def start(job: Path, record: dict, name: str) -> subprocess.Popen:
    """A batch job's surroundings: the user's home and next to no environment."""
    clean = {"HOME": os.environ["HOME"], "PATH": "/usr/local/bin:/usr/bin:/bin", "PBS_O_WORKDIR": record["workdir"]}
    # What the administrator of this machine says of its processor holds for jobs as well, or their numbers would differ in the last bit.
    clean |= {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    clean["PBS_JOBID"] = element_id(record, name)
    if record["indices"]:
        clean["PBS_ARRAY_INDEX"] = name
    with (job / f"{name}.out").open("w") as out:
        return subprocess.Popen(
            ["/bin/bash", str(job / "script")],
            cwd=clean["HOME"],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def stop(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return


def take(cores: int) -> bool:
    """Occupy cores of the one node, each a folder: making it succeeds once."""
    taken: list[Path] = []
    for k in range(int((HOME / "cpus").read_text())):
        if len(taken) == cores:
            break
        core = HOME / f"core{k}"
        try:
            core.mkdir()
        except FileExistsError:
            continue
        (core / str(os.getpid())).touch()
        taken.append(core)
    if len(taken) < cores:
        for core in taken:
            shutil.rmtree(core)
    return len(taken) == cores


def give(cores: int) -> None:
    mine = [core for core in sorted(HOME.glob("core*")) if (core / str(os.getpid())).exists()]
    for core in mine[:cores]:
        shutil.rmtree(core)


def names(record: dict) -> list[str]:
    return [str(index) for index in record["indices"]] or ["single"]


def element_id(record: dict, name: str) -> str:
    return record["id"].replace("[]", f"[{name}]")


def state(job: Path, name: str, record: dict) -> dict:
    if (job / f"{name}.end").exists():
        return {"job_state": "X" if record["indices"] else "F", "Exit_status": int((job / f"{name}.end").read_text())}
    if (job / f"{name}.run").exists():
        return {"job_state": "R"}
    return (
        {"job_state": "Q", "comment": "Can Never Run: Insufficient amount of resource: impossible"}
        if record["impossible"]
        else {"job_state": "Q"}
    )


def end(job: Path, name: str, status: int) -> None:
    partial = job / f"{name}.partial"
    partial.write_text(str(status))
    partial.rename(job / f"{name}.end")


def complain(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
