"""Makes a trained ONNX classifier forget one or more classes: typed functions around the command ``onnx-unlearn``.

>>> from onnx_unlearn import forget
>>> forget("model.onnx", [7], output="forgotten.onnx", inputs="codes.npz").elements_changed
"""

from ._errors import BadInput, CheckFailed, InternalError, Mismatch, OnnxUnlearnError
from ._functions import evaluate, forget, inspect, verify
from ._process import binary, run
from ._results import Answers, Change, ClassAccuracy, Evaluation, Forgotten, Inspection, Verification

__all__ = [
    "Answers",
    "BadInput",
    "Change",
    "CheckFailed",
    "ClassAccuracy",
    "Evaluation",
    "Forgotten",
    "Inspection",
    "InternalError",
    "Mismatch",
    "OnnxUnlearnError",
    "Verification",
    "binary",
    "evaluate",
    "forget",
    "inspect",
    "run",
    "verify",
]
