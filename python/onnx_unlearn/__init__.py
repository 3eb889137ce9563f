"""Makes a trained ONNX classifier forget one or more classes: typed functions around the command ``onnx-unlearn``.

>>> from onnx_unlearn import forget
>>> forget("model.onnx", [7], output="forgotten.onnx", inputs="codes.npz").elements_changed
"""

from ._errors import BadInput, CheckFailed, InternalError, OnnxUnlearnError
from ._functions import evaluate, forget, inspect
from ._process import binary, run
from ._results import Answers, Change, ClassAccuracy, Evaluation, Forgotten, Inspection

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
    "OnnxUnlearnError",
    "binary",
    "evaluate",
    "forget",
    "inspect",
    "run",
]
