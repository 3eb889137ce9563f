"""Runs a model in ONNX Runtime: run_model.py MODEL.onnx FEEDS.npz OUTPUTS.npz"""

import sys

import numpy as np
import onnxruntime

model, feeds, outputs = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
with np.load(feeds) as given:
    found = session.run(None, {i.name: given[i.name] for i in session.get_inputs()})
np.savez(outputs, **{f"{k}": a for k, a in enumerate(found)}, names=np.array([o.name for o in session.get_outputs()]))
