#!/usr/bin/env bash
# Checks full-size classifiers against PyTorch, with time and memory: bash tests/full_size.sh [MODEL…] [--engines cpu,ort,wgpu,cpu64]
#
# Not part of the tests that run on every change: it needs PyTorch and some minutes per model. TORCH_PYTHON names a
# Python with torch 1.13, torchvision 0.14, onnx, and for bert and distilbert transformers (default: /usr/bin/python3,
# with Debian's packages; with libopenblas0-pthread, many times quicker). tests/run.sh installs the ONNX Runtime that it uses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/target/test-venv
if [ -e "$venv/requirements.txt" ]; then
    export ONNX_UNLEARN_PYTHON=${ONNX_UNLEARN_PYTHON:-$venv/bin/python}
    for library in "$venv"/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.*; do
        export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$library}
    done
fi
cargo build --locked --release
exec "${TORCH_PYTHON:-/usr/bin/python3}" -W ignore tests/python/full_size.py target/release/onnx-unlearn "$@"
