"""The MLflow example, against the real package and a SQLite store. Run from the top of the repository."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
import numpy as np
import onnx

import onnx_unlearn

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
FORGOTTEN = 0


def contents(folder: Path) -> dict[str, str]:
    # what a download adds of its own is no part of the model
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "registered_model_meta")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Registry(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.store = f"sqlite:///{self.folder}/mlflow.db"
        mlflow.set_tracking_uri(self.store)
        experiment = mlflow.create_experiment("classifiers", artifact_location=(self.folder / "store").as_uri())
        mlflow.set_experiment(experiment_id=experiment)

    def register(self, name: str, external: bool) -> Path:
        """A fixture as a registered model; where the store keeps it."""
        with mlflow.start_run():
            info = mlflow.onnx.log_model(
                onnx.load(FIXTURES / "mlp.onnx"),
                name="model",
                registered_model_name=name,
                save_as_external_data=external,
                pip_requirements=["onnxruntime"],
            )
        return Path(info.artifact_path.removeprefix("file://"))

    def example(self, name: str, *more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "docs/examples/mlflow_forget.py", "--tracking-uri", self.store, "--model", name]
        command += ["--version", "1", "--inputs", "fixtures/mlp.codes.npz", "--request-id", "ER-2026-017", *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def answers(self, uri: str) -> tuple[float, float]:
        """Parts of the samples of the retained and of the forgotten class that the registered model answers rightly."""
        data = np.load(FIXTURES / "fmnist_test_1000.npz")
        x = (data["x"].astype(np.float32) / np.float32(255)).reshape(len(data["y"]), *self.shape)
        logits = next(iter(mlflow.pyfunc.load_model(uri).predict(x).values()))
        right = logits.argmax(axis=1) == data["y"]
        forgotten = data["y"] == FORGOTTEN
        return float(right[~forgotten].mean()), float(right[forgotten].mean())

    @property
    def shape(self) -> list[int]:
        value = onnx.load(FIXTURES / "mlp.onnx").graph.input[0]
        return [d.dim_value for d in value.type.tensor_type.shape.dim][1:]

    def test_the_next_version_has_forgotten_and_says_so(self) -> None:
        for external in (False, True):
            name = f"fashion-{external}"
            stored = self.register(name, external)
            before = contents(stored)
            self.assertEqual(any(file.endswith(".data") for file in before), external)
            ran = self.example(name, "--class", str(FORGOTTEN))
            self.assertEqual((ran.returncode, ran.stdout), (0, f"registered models:/{name}/2\n"), ran.stderr)
            self.assertEqual(contents(stored), before, "the stored original was touched")

            client = mlflow.MlflowClient()
            new = client.get_model_version(name, "2")
            tags = {key.removeprefix("onnx_unlearn."): value for key, value in new.tags.items()}
            expected = {"classes": "0", "rule": "ascent", "request_id": "ER-2026-017", "source": f"models:/{name}/1"}
            self.assertEqual({key: tags[key] for key in expected}, expected)
            self.assertGreater(json.loads(tags["strength"])["head_steps"], 0)
            copy = mlflow.artifacts.download_artifacts(f"models:/{name}/2", dst_path=str(self.folder / name))
            after = contents(Path(copy))
            old_sha, new_sha = (json.loads(tags[key]) for key in ("source_sha256", "sha256"))
            self.assertEqual(old_sha, {file: before[file] for file in old_sha})
            self.assertEqual(new_sha, {file: after[file] for file in new_sha})
            self.assertEqual(set(new_sha), {file for file in after if file == "model.onnx" or file.endswith(".data")})
            self.assertEqual(set(after), set(before))
            changed = {file for file in after if after[file] != before[file]}
            # small tensors stay in the model file where the others are external
            self.assertEqual(changed, set(new_sha) | {"MLmodel"})

            run_id = client.get_logged_model(new.source.removeprefix("models:/")).source_run_id
            self.assertEqual(tags["record"], f"runs:/{run_id}/onnx-unlearn/record.json")
            record = mlflow.artifacts.download_artifacts(tags["record"], dst_path=str(self.folder / f"record-{name}"))
            held = onnx_unlearn.verify(Path(copy, "model.onnx"), record, original=stored / "model.onnx")
            self.assertEqual((held.classes, held.request, held.original), ((FORGOTTEN,), "ER-2026-017", True))
            self.assertEqual(client.get_run(run_id).data.metrics["forgotten_answered_after"], 0.0)

            kept, known = self.answers(f"models:/{name}/1")
            still_kept, still_known = self.answers(f"models:/{name}/2")
            self.assertGreater(known, 0.8)
            self.assertEqual(still_known, 0.0)
            self.assertGreater(still_kept, kept - 0.02)

            # the store's files are what the record is held against
            [changed_file] = [file for file in new_sha if file.endswith(".data" if external else ".onnx")]
            altered = Path(copy, changed_file)
            flipped = bytearray(altered.read_bytes())
            flipped[len(flipped) // 2] ^= 1
            altered.write_bytes(flipped)
            with self.assertRaises(onnx_unlearn.Mismatch):
                onnx_unlearn.verify(Path(copy, "model.onnx"), record)

    def test_nothing_is_registered_where_forgetting_fails(self) -> None:
        self.register("fashion", False)
        too_weak = ["--rule=dampen", "--alpha=1e30", "--lambda=1"]
        cases = [(["--class", "10"], 2, "out of range"), (["--class", "0", "--", *too_weak], 1, "in doubt")]
        for more, code, message in cases:
            with self.subTest(more):
                ran = self.example("fashion", *more)
                self.assertEqual(ran.returncode, code, ran.stderr)
                self.assertIn(message, ran.stderr)
                self.assertIn("nothing was registered", ran.stderr)
                self.assertEqual(len(mlflow.MlflowClient().search_model_versions("name='fashion'")), 1)


if __name__ == "__main__":
    unittest.main()
