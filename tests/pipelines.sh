#!/usr/bin/env bash
# Builds and tests what pipelines use: bash tests/pipelines.sh TOOLS MLFLOW, two virtual environments of
# tests/python/requirements-tools.txt and requirements-mlflow.txt. Called by tests/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${1:?usage: bash tests/pipelines.sh TOOLS MLFLOW}
mlflow=${2:?usage: bash tests/pipelines.sh TOOLS MLFLOW}
export PATH=$tools/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1

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

say "the MLflow example"
"$mlflow/bin/python" -m pip install --quiet --no-index --no-deps --force-reinstall target/wheels/*.whl
mypy --python-executable "$mlflow/bin/python" docs/examples/mlflow_forget.py
"$mlflow/bin/python" -W ignore tests/python/test_mlflow.py

say "documents about the result"
ONNX_UNLEARN=target/wheel-venv/bin/onnx-unlearn python tests/python/test_emit.py

say "the GitHub action"
action() {
    PATH=target/wheel-venv/bin:$PATH "$tools/bin/python" tests/python/run_action.py docs/examples/github/action.yml \
        model=fixtures/mlp.onnx classes=0,1 inputs=fixtures/mlp.codes.npz output=target/wheel-venv/action.onnx "$@"
}
action 'arguments=--engine cpu --seed 3'
rc=0
action 'arguments=--engine cpu --rule dampen --alpha 1e30 --lambda 1' || rc=$?
[ $rc = 1 ] || { echo "a result in doubt ended with $rc, not 1" >&2; exit 1; }

say "workflow files and recipes"
check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --builtin-schema vendor.github-actions docs/examples/github/action.yml
hadolint docs/container/Containerfile
