"""Writes a classifier of 3 GiB with external data, and inputs for it: huge_model.py FOLDER."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder, n, layers = sys.argv[1], 4096, 48
rng = np.random.default_rng(0)
weights, nodes, x = [], [], "x"
base = rng.standard_normal((n, n), dtype=np.float32) * np.float32((2 / n) ** 0.5)
with open(f"{folder}/w.bin", "wb") as data:
    for i in range(layers):
        w = TensorProto(name=f"fc{i}.weight", data_type=TensorProto.FLOAT, dims=[n, n])
        w.data_location = TensorProto.EXTERNAL
        for key, value in [("location", "w.bin"), ("offset", data.tell()), ("length", base.nbytes)]:
            w.external_data.add(key=key, value=str(value))
        data.write(np.roll(base, i * 7919).tobytes())
        weights.append(w)
        nodes.append(helper.make_node("MatMul", [x, w.name], [f"h{i}"]))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
        x = f"r{i}"
head = rng.standard_normal((n, 10), dtype=np.float32) * np.float32(0.02)
weights.append(numpy_helper.from_array(head, "head.weight"))
nodes.append(helper.make_node("MatMul", [x, "head.weight"], ["logits"]))
value = helper.make_tensor_value_info
inputs = [value("x", TensorProto.FLOAT, ["batch", n])]
graph = helper.make_graph(nodes, "huge", inputs, [value("logits", TensorProto.FLOAT, ["batch", 10])], weights)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
with open(f"{folder}/m.onnx", "wb") as file:
    file.write(model.SerializeToString())
np.savez(f"{folder}/c.npz", x=rng.random((20, n), dtype=np.float32), y=np.arange(20) % 10)
