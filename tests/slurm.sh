#!/usr/bin/env bash
# docs/scheduling/ on a real Slurm, all of it on this machine: an array job for four parts and the merge that depends on it;
# the result is compared, byte by byte, with that of one run. Then a part fails, and nothing is joined. Not part of CI.
#
#   tests/slurm.sh TOOL      as root; needs Debian's packages slurmctld, slurmd, slurm-client and munge
set -euo pipefail
tool=$(realpath "$1")
cd "$(dirname "$0")/.."
room=$(mktemp -d)
daemons=()
finish() {
  for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  [ -n "${KEEP-}" ] || rm -rf "$room"
}
trap finish EXIT

# ---- a cluster of one node, in a folder of its own
mkdir -p "$room"/{bin,munge,state,spool,logs}
# munge refuses sockets in folders that others may write to, and keys that others may read
chmod 755 "$room" "$room/munge"
head -c 1024 /dev/urandom >"$room/munge/key"
chmod 400 "$room/munge/key"
munged --foreground --key-file="$room/munge/key" --socket="$room/munge/socket" --pid-file="$room/munge/pid" \
  --log-file="$room/logs/munge" --seed-file="$room/munge/seed" --force 2>/dev/null &
daemons+=($!)
host=$(hostname -s)
cpus=$(nproc)
cat >"$room/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$room/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$room/state
SlurmdSpoolDir=$room/spool
SlurmctldPidFile=$room/slurmctld.pid
SlurmdPidFile=$room/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$room/slurm.conf
slurmctld -D -f "$SLURM_CONF" >"$room/logs/slurmctld" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" >"$room/logs/slurmd" 2>&1 &
daemons+=($!)
for _ in $(seq 60); do
  [ "$(sinfo -h -o %t 2>/dev/null || true)" = idle ] && break
  sleep 1
done
sinfo

# ---- a folder of images, and its Fisher in one run
ln -s "$tool" "$room/bin/onnx-unlearn"
export PATH=$room/bin:$PATH
python3 - "$room/images" <<'PY'
import os, struct, sys, zlib
# grey PNG files of 28x28 pixels, class 0 in more than one block
def png(path, pixels):
    rows = b"".join(b"\0" + bytes(pixels[28 * r : 28 * r + 28]) for r in range(28))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
    open(path, "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
for c in range(10):
    os.makedirs(f"{sys.argv[1]}/{c}")
    for n in range(600 if c == 0 else 40):
        png(f"{sys.argv[1]}/{c}/{n:04}.png", [(31 * c + 7 * n + i * i * (c + 3)) % 256 for i in range(784)])
PY
model=$PWD/fixtures/mlp.onnx
onnx-unlearn fisher "$model" --inputs "$room/images" --engine cpu -q -o "$room/whole" | tail -1

# ---- the same as an array job and a merge
cd "$room"
bash "$OLDPWD/docs/scheduling/submit.sh" "$model" "$room/images" "$room/parts" 4 "$room/joined" "--engine cpu"
squeue
until [ -z "$(squeue -h)" ]; do sleep 1; done
tail -n 2 fisher-*.log
ls -l parts
cmp whole joined
echo "four tasks and a merge gave the Fisher of one run, byte by byte"

# ---- a part that fails leaves nothing to be joined
rm -r parts joined
printf 'no picture' >images/9/0000.png
bash "$OLDPWD/docs/scheduling/submit.sh" "$model" "$room/images" "$room/parts" 4 "$room/joined" "--engine cpu"
until [ -z "$(squeue -h)" ]; do sleep 1; done
tail -n 1 fisher-part-3.log
ls parts
[ ! -e joined ] || { echo "a Fisher was joined from three parts"; exit 1; }
echo "a task failed, and the merge did not run"
