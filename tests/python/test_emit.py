"""Documents that `forget --emit` writes: the bill of materials against CycloneDX's schema, the model card against a YAML
reader. Run from the top of the repository with ONNX_UNLEARN naming the command.
"""

import hashlib
import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from ruamel.yaml import YAML

COMMAND = os.environ["ONNX_UNLEARN"]
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Emit(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def forget(self, *more: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [COMMAND, "forget", "--class=0", "--inputs=fixtures/mlp.codes.npz", "--engine=cpu", "--rule=dampen"]
        command += ["--alpha=6", "--lambda=1", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def test_documents_are_valid_and_tell_of_the_files(self) -> None:
        out, card, bom = (self.folder / name for name in ("new.onnx", "card.md", "bom.json"))
        said = self.forget("fixtures/mlp.onnx", str(out), f"--emit=model-card={card}", f"--emit=cyclonedx={bom}").stdout
        for document in (card, bom):
            self.assertIn(f"[ok] wrote {document} together with the model\n", said)

        self.assertIsNone(VALIDATOR.validate_str(bom.read_text()))
        model = json.loads(bom.read_text())["metadata"]["component"]
        [ancestor] = model["pedigree"]["ancestors"]
        self.assertEqual((ancestor["name"], model["name"]), ("mlp.onnx", "new.onnx"))
        hashes = [part["hashes"][0]["content"] for part in (ancestor, model)]
        self.assertEqual(hashes, [sha256(Path("fixtures/mlp.onnx")), sha256(out)])
        [patch] = model["pedigree"]["patches"]
        changes = json.loads(patch["diff"]["text"]["content"])
        changed = sum(change["changed"] for change in changes)
        self.assertIn(f"{changed:,} elements of {len(changes)} weights", model["pedigree"]["notes"])
        self.assertIn(f"{changed:,} elements of {len(changes)} weights changed", said)

        empty, front, body = card.read_text().split("---\n", 2)
        self.assertEqual(empty, "")
        self.assertEqual(YAML(typ="safe").load(front), {"library_name": "onnx", "tags": ["onnx", "machine-unlearning"]})
        for hexadecimal in hashes:
            self.assertIn(f"`{hexadecimal}`", body)
        self.assertIn("after forgetting class 0 of 10", body)
        for document in (card, bom):
            self.assertNotIn(str(self.folder), document.read_text(), "a path of this machine")

        # the same change, told in the same bytes
        again = self.folder / "again"
        again.mkdir()
        self.forget("fixtures/mlp.onnx", str(again / "new.onnx"), f"--emit=cyclonedx={again / 'bom.json'}")
        self.assertEqual((again / "bom.json").read_bytes(), bom.read_bytes())

    def test_a_broken_document_is_found(self) -> None:
        bom = self.folder / "bom.json"
        self.forget("fixtures/mlp.onnx", str(self.folder / "new.onnx"), f"--emit=cyclonedx={bom}")
        broken = json.loads(bom.read_text())
        broken["metadata"]["component"]["pedigree"]["patches"][0]["type"] = "official"
        self.assertIsNotNone(VALIDATOR.validate_str(json.dumps(broken)))

    def test_nothing_is_written_where_a_document_cannot_be(self) -> None:
        out = self.folder / "new.onnx"
        for emit in (f"cyclonedx={out}", f"cyclonedx={self.folder}/no/bom.json", "spdx=x", "cyclonedx=fixtures/mlp.onnx"):
            with self.subTest(emit):
                self.forget("fixtures/mlp.onnx", str(out), f"--emit={emit}", code=2)
                self.assertEqual(list(self.folder.iterdir()), [])
        self.forget("fixtures/mlp.onnx", str(out), f"-o={out}", code=2)
        self.forget("fixtures/mlp.onnx", code=2)


if __name__ == "__main__":
    unittest.main()
