"""Holds the table of operator versions in src/onnx/import/versions.rs against the package onnx."""

import pathlib
import re
import sys

import onnx.defs


def form(schema):
    """All that changes how a node is read: attributes, and how many inputs and outputs there are and of what kind."""
    attributes = {
        name: (str(a.type), a.required, str(a.default_value) if a.default_value.type else "")
        for name, a in schema.attributes.items()
    }
    return attributes, [str(p.option) for p in schema.inputs], [str(p.option) for p in schema.outputs]


def known_by_onnx():
    schemas = {}
    for s in onnx.defs.get_all_schemas_with_history():
        if s.domain == "":
            schemas.setdefault(s.name, []).append(s)
    table = {}
    for name, versions in schemas.items():
        versions.sort(key=lambda s: s.since_version)
        changed = [b.since_version for a, b in zip(versions, versions[1:]) if form(a) != form(b)]
        if newer := [v for v in changed if v > 7]:
            table[name] = newer
    return table


def known_here():
    source = pathlib.Path(__file__).resolve().parents[2] / "src/onnx/import/versions.rs"
    rows = re.findall(r'\("(\w+)", &\[([\d, ]+)\]\)', source.read_text())
    return {name: [int(v) for v in versions.split(",")] for name, versions in rows}


ours, theirs = known_here(), known_by_onnx()
wrong = [f"{n}: {ours.get(n)} here, {theirs.get(n)} in onnx" for n in sorted(ours | theirs) if ours.get(n) != theirs.get(n)]
sys.exit("\n".join(wrong) if wrong else 0)
