#!/usr/bin/env bash
# Estimates a Fisher on a Slurm cluster: an array job for its parts, and a job that joins them, which starts when all
# parts succeeded and is dropped when one fails. Paths have to be seen by every node; `onnx-unlearn` is on the PATH there.
#
#   submit.sh MODEL INPUTS PARTS_FOLDER N FISHER [FLAGS]
set -euo pipefail
export MODEL=$1 INPUTS=$2 PARTS=$3 FISHER=$5 FLAGS=${6-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$PARTS"
parts=$(sbatch --parsable --array="0-$(($4 - 1))" "$here/fisher-part.sbatch")
merge=$(sbatch --parsable --dependency="afterok:$parts" --kill-on-invalid-dep=yes "$here/fisher-merge.sbatch")
echo "parts: job $parts, $4 tasks; merge: job $merge"
