"""Runs a command and writes its seconds and its peak memory in MB (Linux): measure.py REPORT COMMAND…

A process of its own, since a new process starts with the peak of the one that starts it.
"""

import pathlib
import resource
import subprocess
import sys
import time

report, *command = sys.argv[1:]
start = time.time()
code = subprocess.run(command).returncode
seconds = time.time() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
pathlib.Path(report).write_text(f"{seconds} {peak}")
sys.exit(code if code >= 0 else 1)
