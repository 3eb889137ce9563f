"""Runs the command that was installed with this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from ._errors import BY_EXIT_CODE, InternalError

_NAME = "onnx-unlearn.exe" if os.name == "nt" else "onnx-unlearn"


@lru_cache(maxsize=None)
def binary() -> str:
    """Path of the command of this installation. The search path is not asked: it may name another version's.

    Raises FileNotFoundError where the package is there without its command.
    """
    places = []
    try:
        installed = metadata.files("onnx-unlearn") or []
        places = [Path(str(f.locate())).resolve() for f in installed if f.name == _NAME]
    except metadata.PackageNotFoundError:
        pass
    scripts = sysconfig.get_path("scripts")
    if scripts:
        places.append(Path(scripts) / _NAME)
    for place in places:
        if place.is_file():
            return str(place)
    looked = ", ".join(map(str, places)) or "the package's list of files"
    raise FileNotFoundError(f"the command {_NAME} is not installed with this package; looked at {looked}")


def environment() -> dict[str, str]:
    """The command's environment: an ONNX Runtime that this interpreter has is found, activated or not."""
    return {**os.environ, "VIRTUAL_ENV": sys.prefix}


def run(arguments: Sequence[str], *, accept: Sequence[int] = (0,)) -> dict[str, Any]:
    """Runs ``onnx-unlearn ARGUMENTS --json``; what it printed.

    Raises a subclass of OnnxUnlearnError for any exit code that is not accepted.
    """
    done = subprocess.run(
        [binary(), *arguments, "--json"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    report = _report(done.stdout)
    if done.returncode in accept and report is not None:
        return report
    message = done.stderr.strip().removeprefix("error: ")
    if done.returncode == 0:
        raise InternalError(f"the command printed no JSON object: {done.stdout[:200]!r}", 0)
    if done.returncode < 0 and not message:
        message = f"ended by signal {-done.returncode}"
    kind = BY_EXIT_CODE.get(done.returncode, InternalError)
    raise kind(message or f"exit code {done.returncode}", done.returncode, report)


def _report(stdout: str) -> Optional[dict[str, Any]]:
    try:
        value = json.loads(stdout)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def flag(name: str, value: object) -> list[str]:
    """A flag as the command takes it: nothing for None and False, one for each element of a sequence."""
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    if isinstance(value, (list, tuple)):
        return [part for each in value for part in flag(name, each)]
    # joined by '=', so that a value may begin with '-'
    return [f"{name}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]


def options(given: Mapping[str, object]) -> list[str]:
    """All flags of a mapping from their long names, in its order."""
    return [part for name, value in given.items() for part in flag(f"--{name}", value)]
