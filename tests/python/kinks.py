"""The gradient of a float32 run, judged in float64 on the same side of every kink.

Rounding moves a few of millions of activations across the kink of a ReLU, or to another place of a MaxPool. There the
gradient of the float32 run is that of a neighbouring linear piece of the network, and no tolerance says how far that is
from the piece that float64 computes on. So the graph of the gradients also returns what its kinks read, and PyTorch
computes in float64 on the piece that these choose: what is left is rounding alone.
"""

import contextlib
import functools

import numpy as np
import onnx
import torch
from torch.nn import functional as F

# the ops with a kink that can be forced
FORCED = ("Relu", "Clip", "MaxPool")


def with_kinks(path, target):
    """Writes the gradient graph with what its kinks read as further outputs; gives op and name of each, in order."""
    model = onnx.load(path)
    shapes = {v.name: v for v in [*model.graph.value_info, *model.graph.input]}
    kinks = [(n.op_type, n.input[0]) for n in model.graph.node if n.op_type in FORCED and "/grad" not in n.name]
    there = {o.name for o in model.graph.output}
    for name in dict.fromkeys(name for _, name in kinks):
        if name not in there:
            model.graph.output.append(shapes[name])
    onnx.save(model, target)
    return kinks


class Pieces:
    """The pieces of a float32 run, forced on a network of PyTorch."""

    def __init__(self, net, kinks, values):
        self.net = net
        # by op, in the order in which the network meets them
        self.values = {op: [torch.from_numpy(values[n]) for o, n in kinks if o == op] for op in FORCED}
        self.sample, self.moved, self.all = 0, 0, 0

    @contextlib.contextmanager
    def forced(self):
        """Inside, the network computes on the pieces; every kind of kink is met as often as the graph has it. Modules call
        the functions that are exchanged here, and so do networks that have no modules for kinks."""
        before = {name: getattr(F, name) for name in ("relu", "hardtanh", "max_pool2d")}
        F.relu = lambda x, inplace=False: self.relu(x)
        F.hardtanh = self.clip
        F.max_pool2d = functools.partial(self.max_pool, before["max_pool2d"])
        try:
            yield self
        finally:
            for name, function in before.items():
                setattr(F, name, function)

    def start(self, sample):
        self.sample = sample
        self.next = {op: iter(v) for op, v in self.values.items()}

    def finish(self):
        for op, values in self.next.items():
            if next(values, None) is not None:
                raise RuntimeError(f"the graph has more of {op} than the network meets")

    def seen(self, op, x):
        """What this kink read in float32."""
        value = next(self.next[op])[self.sample:self.sample + 1]
        if value.shape != x.shape:
            raise RuntimeError(f"{op} reads {tuple(value.shape)} in the graph, {tuple(x.shape)} in the network")
        return value

    def count(self, differs):
        self.moved += int(differs.sum())
        self.all += differs.numel()

    def relu(self, x):
        on = self.seen("Relu", x) > 0
        self.count(on != (x.detach() > 0))
        return x * on

    def clip(self, x, low, high, inplace=False):
        if (low, high) != (0, 6):
            raise RuntimeError(f"a Clip from {low} to {high} is not known here")
        seen = self.seen("Clip", x)
        (on, over), (on64, over64) = [((v > 0) & (v < 6), v >= 6) for v in (seen, x.detach())]
        self.count((on != on64) | (over != over64))
        return x * on + 6.0 * over

    def max_pool(self, original, x, *settings, return_indices=False, **named):
        def places(v):
            return original(v, *settings, return_indices=True, **named)[1]

        at, at64 = places(self.seen("MaxPool", x)), places(x.detach())
        flat = x.flatten(2)
        # two places of one value, as zeros after a ReLU are, are no different choice
        chosen, other = (x.detach().flatten(2).gather(2, a.flatten(2)) for a in (at, at64))
        self.count(chosen != other)
        return flat.gather(2, at.flatten(2)).view(at.shape)


def reference_on_pieces(net, mapping, inputs, y, kinks, values):
    """As zoo_reference.reference, in float64 on the pieces; also how many activations lie elsewhere in float64."""
    net = net.double()
    pieces = Pieces(net, kinks, values)
    params = dict(net.named_parameters())
    used = [(name, params[key], arrange) for name, (key, arrange) in mapping.of.items()]
    sums = [torch.zeros_like(p) for _, p, _ in used]
    squares = [torch.zeros_like(p) for _, p, _ in used]
    with pieces.forced():
        for i in range(len(y)):
            pieces.start(i)
            z = net(*[x[i:i + 1].double() if x.is_floating_point() else x[i:i + 1] for x in inputs.values()])
            pieces.finish()
            loss = F.cross_entropy(z, y[i:i + 1], reduction="sum")
            grads = torch.autograd.grad(loss, [p for _, p, _ in used], allow_unused=True)
            for s, q, g in zip(sums, squares, grads):
                if g is not None:
                    s += g
                    q += g * g
    shaped = [
        {name: np.ascontiguousarray(arrange(t.numpy())) for (name, _, arrange), t in zip(used, tensors)}
        for tensors in (sums, squares)
    ]
    return shaped, pieces.moved, pieces.all
