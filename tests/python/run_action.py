"""Runs the last step of a composite action as GitHub would: run_action.py ACTION KEY=VALUE…

Inputs are given as KEY=VALUE; expressions of the step's environment are filled in from them and their defaults.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

action = YAML(typ="safe").load(Path(sys.argv[1]))
given = {name: spec.get("default") for name, spec in action["inputs"].items()}
given.update(word.split("=", 1) for word in sys.argv[2:])
step = action["runs"]["steps"][-1]

with tempfile.TemporaryDirectory() as folder:
    output = Path(folder, "output")

    def fill(expression: "re.Match[str]") -> str:
        context, _, name = expression[1].strip().partition(".")
        return folder if (context, name) == ("runner", "temp") else given[name]

    variables = {name: re.sub(r"\$\{\{(.*?)\}\}", fill, text) for name, text in step["env"].items()}
    # GitHub's own words for `shell: bash`
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(shell, env={**os.environ, **variables, "GITHUB_OUTPUT": str(output)}, check=False)
    for line in output.read_text().splitlines() if output.exists() else []:
        name, _, path = line.partition("=")
        print(f"{name}: {len(Path(path).read_text())} characters of JSON")
sys.exit(done.returncode)
