"""Checks every model in a folder as strictly as the package `onnx` can; names those that fail."""

import pathlib
import sys

import onnx
from onnx import shape_inference


def types(values):
    return {v.name: v.type for v in values}


def check(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    # types inferred from nothing but the inputs have to be the ones the file states
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True).graph
    found = types(inferred.value_info) | types(inferred.output)
    for name, stated in (types(model.graph.value_info) | types(model.graph.output)).items():
        if name not in found:
            continue
        found_type, stated_type = found[name].tensor_type, stated.tensor_type
        if found_type.elem_type != stated_type.elem_type:
            raise ValueError(f"{name} has element type {found_type.elem_type}, stated is {stated_type.elem_type}")
        if not found_type.HasField("shape"):
            continue
        found_dims, stated_dims = found_type.shape.dim, stated_type.shape.dim
        # inference may leave an extent open
        same = len(found_dims) == len(stated_dims) and all(
            not f.HasField("dim_value") or f.dim_value == s.dim_value for f, s in zip(found_dims, stated_dims)
        )
        if not same:
            raise ValueError(f"{name} has shape {found_dims}, stated is {stated_dims}")


def main():
    paths = sorted(pathlib.Path(sys.argv[1]).glob("*.onnx"))
    failures = 0
    for path in paths:
        try:
            check(path)
        except Exception as e:  # whatever it is, the next model is checked too
            failures += 1
            print(f"{path.name}: {' '.join(str(e).split())}")
    print(f"{len(paths)} models checked, {failures} fail")
    sys.exit(1 if failures or not paths else 0)


main()
