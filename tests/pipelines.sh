#!/usr/bin/env bash
# Builds and tests what pipelines use: bash tests/pipelines.sh TOOLS, where TOOLS is a virtual environment of
# tests/python/requirements-tools.txt. Called by tests/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=${1:?usage: bash tests/pipelines.sh TOOLS}/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n== %s\n' "$*" >&2; }

# as `pip install .` builds it, but for the profile: that of the tests, which compiles nothing twice
say "the wheel"
rm -rf target/wheels
python -m pip wheel --quiet --no-deps --no-build-isolation --config-settings=build-args='--profile dev' \
    --wheel-dir target/wheels .
python3 -m venv --clear target/wheel-venv
target/wheel-venv/bin/python -m pip install --quiet --no-index target/wheels/*.whl
mypy python/onnx_unlearn
mypy --python-executable target/wheel-venv/bin/python tests/python/test_wheel.py
target/wheel-venv/bin/python tests/python/test_wheel.py

say "workflow files and recipes"
check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --builtin-schema vendor.github-actions docs/examples/github/action.yml
hadolint docs/container/Containerfile
