"""What the functions return: the command's JSON with types. ``report`` is always the whole of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional


@dataclass(frozen=True)
class Change:
    """How much one weight changed: share is its part of Σ|Δw|, relative is ‖Δw‖₂ / ‖w‖₂."""

    name: str
    elements: int
    changed: int
    share: float
    relative: float


@dataclass(frozen=True)
class Answers:
    """Counts of labelled inputs before and after."""

    retained_samples: int
    forgotten_samples: int
    retained_right_before: int
    retained_right_after: int
    forgotten_answered_before: int
    forgotten_answered_after: int
    old_head_answered_after: Optional[int]


@dataclass(frozen=True)
class Forgotten:
    """What ``forget`` did."""

    file: Path
    classes: tuple[int, ...]
    rule: str
    strength: Mapping[str, float]
    engine: str
    inputs: Answers
    changes: tuple[Change, ...]
    weights_changed: int
    elements_changed: int
    head_share: float
    doubts: tuple[str, ...]
    seed: int
    seconds: float
    report: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, r: Mapping[str, Any]) -> Forgotten:
        return cls(
            file=Path(r["file"]),
            classes=tuple(r["classes"]),
            rule=r["rule"],
            strength=dict(r["strength"]),
            engine=r["engine"]["name"],
            inputs=Answers(**{name: r["inputs"][name] for name in Answers.__dataclass_fields__}),
            changes=tuple(Change(**{name: c[name] for name in Change.__dataclass_fields__}) for c in r["changes"]),
            weights_changed=r["weights_changed"],
            elements_changed=r["elements_changed"],
            head_share=r["head_share"],
            doubts=tuple(r["doubts"]),
            seed=r["seed"],
            seconds=r["seconds"],
            report=r,
        )


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of the data: accuracy is None where it has no samples, answered counts all samples that got it."""

    class_id: int
    samples: int
    accuracy: Optional[float]
    answered: int


@dataclass(frozen=True)
class Evaluation:
    """Accuracies as parts of 1; a_r, a_f and e_f where forgotten classes were named and have samples."""

    samples: int
    accuracy: float
    classes: tuple[ClassAccuracy, ...]
    a_r: Optional[float]
    a_f: Optional[float]
    e_f: Optional[float]
    report: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, r: Mapping[str, Any]) -> Evaluation:
        return cls(
            samples=r["samples"],
            accuracy=r["accuracy"],
            classes=tuple(
                ClassAccuracy(c["class"], c["samples"], c["accuracy"], c["answered"]) for c in r["classes"]
            ),
            a_r=r["A_R"],
            a_f=r["A_F"],
            e_f=r["E_F"],
            report=r,
        )


@dataclass(frozen=True)
class Inspection:
    """What a model is. ``supported`` says that nothing stands in the way; ``obstacles`` says what does."""

    classes: Optional[int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: int
    trainable: int
    open_extents: tuple[str, ...]
    obstacles: tuple[str, ...]
    report: Mapping[str, Any] = field(repr=False)

    @property
    def supported(self) -> bool:
        return not self.obstacles

    @classmethod
    def of(cls, r: Mapping[str, Any]) -> Inspection:
        classifier = r["classifier"]
        return cls(
            classes=None if classifier is None else classifier["classes"],
            inputs=tuple(r["inputs"]),
            outputs=tuple(r["outputs"]),
            parameters=r["parameters"],
            trainable=r["trainable"],
            open_extents=tuple(r["open_extents"]),
            obstacles=tuple(r["obstacles"]),
            report=r,
        )


@dataclass(frozen=True)
class Verification:
    """A model that is what its record says. ``signature`` tells whether the record is signed and its key was checked."""

    signature: str
    original: bool
    classes: tuple[int, ...]
    weights: int
    request: Optional[str]
    report: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, r: Mapping[str, Any]) -> Verification:
        return cls(
            signature=r["signature"],
            original=r["original"],
            classes=tuple(r["classes"]),
            weights=r["weights"],
            request=r["request"],
            report=r,
        )
