#!/usr/bin/env bash
# A model of 3 GiB with external data: inspected, its Fisher for a few layers, those layers rewritten; none of it may hold more than 2 GB
# beside the maps of the files. bash tests/huge_model.sh TOOL FOLDER, where FOLDER has 7 GB to spare and goes away afterwards.
#
# Needs Linux, and a python3 with numpy and onnx as $ONNX_UNLEARN_PYTHON.
set -euo pipefail
tool=$(realpath "$1")
folder=$2
python=${ONNX_UNLEARN_PYTHON:-python3}
mkdir -p "$folder/out"
trap 'rm -rf "$folder"' EXIT
"$python" "$(dirname "${BASH_SOURCE[0]}")/python/huge_model.py" "$folder"
cd "$folder"

# within COMMAND…: runs the tool, watches its memory that is no file, and fails above 2 GB
within() {
    local most=0 now started=$SECONDS
    "$tool" "$@" >last.txt 2>&1 &
    local pid=$!
    while [ -d "/proc/$pid" ]; do
        now=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
        [ "${now:-0}" -gt "$most" ] && most=$now
        sleep 0.05
    done
    wait "$pid" || { cat last.txt; exit 1; }
    echo "$1: $((most / 1024)) MiB beside the maps, $((SECONDS - started)) s"
    [ "$most" -lt 2000000 ] || { echo "more than 2 GB"; exit 1; }
}
layers='fc47.weight,head.*'
within inspect m.onnx --layers "$layers"
within fisher m.onnx --layers "$layers" --inputs c.npz --engine cpu -o f.safetensors
within forget m.onnx --layers "$layers" --inputs c.npz --class 0 --rule dampen --alpha 1 --lambda 1 --engine cpu -o out/m.onnx
cmp -s m.onnx out/m.onnx && { echo "head.weight did not change"; exit 1; }
# all layers but the last chosen one are as they were
cmp -n $((47 * 4096 * 4096 * 4)) w.bin out/w.bin
cmp -s w.bin out/w.bin && { echo "fc47.weight did not change"; exit 1; }
echo "ok"
