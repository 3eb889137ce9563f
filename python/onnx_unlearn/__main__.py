"""``python -m onnx_unlearn``: the command itself."""

import subprocess
import sys

from ._process import binary, environment

try:
    sys.exit(subprocess.run([binary(), *sys.argv[1:]], env=environment(), check=False).returncode)
except KeyboardInterrupt:
    sys.exit(130)
