"""The subcommands as functions.

None leaves a choice to the command. ``arguments`` takes any further flags as the command line has them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, Union

from ._process import options, run
from ._results import Evaluation, Forgotten, Inspection, Verification

Path = Union[str, "os.PathLike[str]"]
Engine = Literal["auto", "wgpu", "ort", "cpu"]


def forget(
    model: Path,
    classes: Sequence[int],
    *,
    output: Path | None = None,
    in_place: bool = False,
    inputs: Path | None = None,
    rule: Literal["auto", "ascent", "dampen", "ratio", "noise"] | None = None,
    depth: Literal["auto", "head", "body"] | None = None,
    scope: Literal["all", "head", "body"] | None = None,
    protect: Sequence[str] = (),
    layers: Sequence[str] = (),
    engine: Engine | None = None,
    seed: int | None = None,
    strict: bool = False,
    record: Path | None = None,
    request_id: str | None = None,
    arguments: Sequence[str] = (),
) -> Forgotten:
    """Makes the model forget the classes, and writes the changed model to ``output`` or, if ``in_place``, over the old one.

    ``inputs`` are labelled inputs: an .npz with x and y, IDX files, a folder of images per class; without them inputs
    are made from the model alone. ``record`` is where a record of the change goes, with ``request_id`` in it: `verify` holds it
    against the model.

    Raises BadInput where nothing could be written, CheckFailed where ``strict`` and the result is in doubt (it is
    written all the same, and its ``report`` is there), InternalError for a defect.
    """
    given = {
        "class": [int(c) for c in classes],
        "inputs": inputs,
        "in-place": in_place,
        "rule": rule,
        "depth": depth,
        "scope": scope,
        "protect": list(protect),
        "layers": list(layers),
        "engine": engine,
        "seed": seed,
        "strict": strict,
        "record": record,
        "request-id": request_id,
    }
    to = [] if output is None else [f"-o={os.fspath(output)}"]
    return Forgotten.of(run(["forget", *options(given), *to, *arguments, *_model(model)]))


def evaluate(
    model: Path,
    data: Path,
    *,
    forgotten: Sequence[int] = (),
    engine: Engine | None = None,
    arguments: Sequence[str] = (),
) -> Evaluation:
    """Accuracy class by class on labelled data; A_R, A_F and E_F where forgotten classes are named."""
    given = {"data": data, "forgotten": [int(c) for c in forgotten], "engine": engine}
    return Evaluation.of(run(["evaluate", *options(given), *arguments, *_model(model)]))


def inspect(model: Path, *, arguments: Sequence[str] = ()) -> Inspection:
    """What a model is and what stands in the way of changing it. A model that is not supported is no error here."""
    return Inspection.of(run(["inspect", *arguments, *_model(model)], accept=(0, 2)))


def verify(
    model: Path,
    record: Path,
    *,
    original: Path | None = None,
    key: Path | None = None,
    arguments: Sequence[str] = (),
) -> Verification:
    """Holds a model against its record and, given the original, checks that nothing but what the record lists has changed.

    Raises Mismatch, whose ``mismatches`` tell every difference.
    """
    given = {"record": record, "original": original, "key": key}
    return Verification.of(run(["verify", *options(given), *arguments, *_model(model)]))


def _model(path: Path) -> list[str]:
    # a name that begins with '-' is still a name
    name = os.fspath(path)
    return [os.path.join(os.curdir, name) if name.startswith("-") else name]
