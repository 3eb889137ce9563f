"""The `light_*` models of the package onnx, from other exporters than PyTorch's, run by PyTorch node by node.

Their weights are filled by ConstantOfShape, so that every class has the same answer: here they get random ones that are
stored. Makes the network for what `full_size.py` compares.
"""

import pathlib
import types

import numpy as np
import onnx
import onnx.backend.test
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional as F

NAMES = ("alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19", "zfnet512")
FOLDER = pathlib.Path(next(iter(onnx.backend.test.__path__))) / "data" / "light"


def filled(name, path):
    """Writes the model with random weights in the place of equal ones."""
    file = "bvlc_alexnet" if name == "alexnet" else name
    model = onnx.load(FOLDER / f"light_{file}.onnx")
    random = np.random.default_rng(7)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    variances = {n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization"}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "ConstantOfShape":
            model.graph.node.append(node)
            continue
        shape = shapes[node.input[0]]
        if len(shape) > 1:
            # what keeps the spread of activations
            value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif node.output[0] in variances or scales(nodes, node.output[0]):
            value = random.uniform(0.6, 1.4, shape)
        else:
            value = random.uniform(-0.2, 0.2, shape)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), node.output[0]))
    onnx.save(model, path)


def scales(nodes, name):
    """Whether a vector multiplies channels."""
    users = [n for n in nodes if name in n.input]
    if users[0].op_type == "Unsqueeze":
        users = [n for n in nodes if users[0].output[0] in n.input]
    return users[0].op_type == "Mul" or (users[0].op_type == "BatchNormalization" and users[0].input[1] == name)


class Light(nn.Module):
    """Runs the nodes of a model up to the logits."""

    def __init__(self, path):
        super().__init__()
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        fixed = {name for n in graph.node if n.op_type == "BatchNormalization" for name in n.input[3:]}
        self.constants, self.keys = {}, {}
        for t in graph.initializer:
            array = torch.from_numpy(numpy_helper.to_array(t).copy())
            if array.dtype != torch.float32:
                self.constants[t.name] = array
                continue
            key = f"p{len(self.keys)}"
            self.keys[t.name] = key
            if t.name in fixed:
                self.register_buffer(key, array)
            else:
                self.register_parameter(key, nn.Parameter(array))
        self.input = next(i.name for i in graph.input if i.name not in self.keys and i.name not in self.constants)
        # kinks are modules, so that they can be forced
        self.kinks = nn.ModuleDict({str(k): kink(n) for k, n in enumerate(self.nodes) if n.op_type in ("Relu", "MaxPool")})

    def forward(self, x):
        values = {self.input: x, **self.constants, **{n: getattr(self, key) for n, key in self.keys.items()}}
        for k, node in enumerate(self.nodes):
            x = [values[n] for n in node.input]
            if node.op_type == "Softmax":
                return x[0].flatten(1)
            y = self.kinks[str(k)](x[0]) if str(k) in self.kinks else compute(node, x)
            values[node.output[0]] = y
        return y.flatten(1)


def attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def kink(node):
    at = attributes(node)
    if node.op_type == "Relu":
        return nn.ReLU()
    [top, left, bottom, right] = at.get("pads", [0, 0, 0, 0])
    # one row more at the end, where the windows need it, is what ceil_mode means
    more = (bottom - top, right - left)
    assert more in ((0, 0), (1, 1)) and at["strides"] == [2, 2] or more == (0, 0), at
    return nn.MaxPool2d(at["kernel_shape"], at["strides"], (top, left), ceil_mode=more == (1, 1))


def compute(node, x):
    at = attributes(node)
    op = node.op_type
    if op == "Conv":
        [top, left, bottom, right] = at.get("pads", [0, 0, 0, 0])
        assert (top, left) == (bottom, right)
        bias = x[2] if len(x) > 2 else None
        return F.conv2d(x[0], x[1], bias, at.get("strides", 1), (top, left), at.get("dilations", 1), at.get("group", 1))
    if op == "BatchNormalization":
        return F.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=at.get("epsilon", 1e-5))
    if op == "LRN":
        return F.local_response_norm(x[0], at["size"], at["alpha"], at["beta"], at["bias"])
    if op == "AveragePool":
        [top, left, bottom, right] = at.get("pads", [0, 0, 0, 0])

        def mean(v):
            return F.avg_pool2d(F.pad(v, (left, right, top, bottom)), at["kernel_shape"], at.get("strides", 1))

        return mean(x[0]) / mean(torch.ones_like(x[0]))
    if op == "Gemm":
        assert at.get("transB") and not at.get("transA")
        return F.linear(x[0], x[1], x[2])
    if op == "Unsqueeze":
        return x[0][:, None, None]
    if op == "Reshape":
        shape = [x[0].shape[i] if n == 0 else n for i, n in enumerate(x[1].tolist())]
        return x[0].reshape(shape)
    simple = {
        "Mul": lambda: x[0] * x[1],
        "Add": lambda: x[0] + x[1],
        "Sum": lambda: sum(x[1:], x[0]),
        "Concat": lambda: torch.cat(x, at["axis"]),
        "Transpose": lambda: x[0].permute(*at["perm"]),
        "GlobalAveragePool": lambda: x[0].mean((2, 3), keepdim=True),
        "Dropout": lambda: x[0],
    }
    return simple[op]()


def make(name, path):
    """The network and which parameter each initializer is."""
    filled(name, path)
    net = Light(path).eval()
    parameters = dict(net.named_parameters())
    of = {n: (key, lambda a: a) for n, key in net.keys.items() if key in parameters}
    return net, types.SimpleNamespace(of=of, left=[], missing=[])
