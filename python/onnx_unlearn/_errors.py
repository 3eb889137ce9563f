"""What is raised, by exit code."""

from __future__ import annotations

from typing import Any, Mapping, Optional


class OnnxUnlearnError(Exception):
    """The command did not succeed. The text is what it wrote to stderr.

    ``exit_code`` is the command's, negative where a signal ended it; ``report`` is what it printed as JSON, if anything.
    """

    def __init__(self, message: str, exit_code: int, report: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.report = report


class CheckFailed(OnnxUnlearnError):
    """Exit code 1: the work is done, and a check that was asked for failed. ``report`` tells what was done."""


class BadInput(OnnxUnlearnError, ValueError):
    """Exit code 2: wrong usage or bad input. Nothing was written."""


class InternalError(OnnxUnlearnError, RuntimeError):
    """Exit code 3: an engine failed, or a defect. Also raised where a signal ended the command."""


class Mismatch(OnnxUnlearnError):
    """Exit code 4: the model is not what its record says, or the record is not the one that was written."""

    @property
    def mismatches(self) -> tuple[str, ...]:
        """Every difference that was found."""
        return tuple((self.report or {}).get("mismatches", ()))

    def __str__(self) -> str:
        return "; ".join(self.mismatches) or super().__str__()


BY_EXIT_CODE: Mapping[int, type[OnnxUnlearnError]] = {1: CheckFailed, 2: BadInput, 3: InternalError, 4: Mismatch}
