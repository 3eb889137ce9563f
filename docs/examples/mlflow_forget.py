"""Takes a registered ONNX model, makes it forget classes, and registers the result as the model's next version.

    python docs/examples/mlflow_forget.py --tracking-uri sqlite:///mlflow.db --model fashion --version 1 \\
        --class 7 --inputs codes.npz --request-id ER-2026-017

The stored original is never written: the work is done on a downloaded copy, and the new version is stored apart from it. The new
version carries what was done as tags; its run holds the report. Needs the packages onnx_unlearn and mlflow (mlflow-skinny with
sqlalchemy and alembic suffices for a SQLite store).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Sequence

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model

from onnx_unlearn import CheckFailed, Forgotten, OnnxUnlearnError, forget, verify

# where a run keeps the record
FOLDER, RECORD = "onnx-unlearn", "record.json"


def forget_version(
    name: str,
    version: str,
    classes: Sequence[int],
    *,
    inputs: Path | None,
    request_id: str,
    arguments: Sequence[str] = (),
) -> ModelVersion:
    """Registers the next version of a model, without the classes. Nothing is registered where forgetting fails."""
    client = mlflow.MlflowClient()
    source = client.get_model_version(name, version)
    with tempfile.TemporaryDirectory() as folder:
        # a folder of its own: without one, a store on this machine hands out its own files
        original = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=f"{folder}/original"))
        file = onnx_file(original)
        changed = Path(folder, "changed", file.relative_to(original))
        changed.parent.mkdir(parents=True)
        record = Path(folder, RECORD)
        done = forget(
            file,
            classes,
            output=changed,
            inputs=inputs,
            strict=True,
            record=record,
            request_id=request_id,
            arguments=arguments,
        )
        tags = {
            "onnx_unlearn.classes": ",".join(map(str, done.classes)),
            "onnx_unlearn.rule": done.rule,
            "onnx_unlearn.strength": json.dumps(dict(done.strength)),
            "onnx_unlearn.request_id": request_id,
            "onnx_unlearn.source": f"models:/{name}/{version}",
            "onnx_unlearn.source_sha256": json.dumps(digests(file.parent, like=changed.parent)),
            "onnx_unlearn.sha256": json.dumps(digests(changed.parent, like=changed.parent)),
        }
        run_id = store_run(source, done, tags, record)
        model_id = store_model(original, Path(folder, "changed"), run_id, tags)
        # what the store gives back, not what was sent there
        stored = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=f"{folder}/stored"))
        kept = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{FOLDER}/{RECORD}", dst_path=f"{folder}/record")
        verify(onnx_file(stored), kept, original=file)
    tags["onnx_unlearn.record"] = f"runs:/{run_id}/{FOLDER}/{RECORD}"
    return mlflow.register_model(f"models:/{model_id}", name, tags=tags)


def onnx_file(folder: Path) -> Path:
    """The ONNX file of a stored model."""
    flavors = Model.load(str(folder)).flavors
    if "onnx" not in flavors:
        raise SystemExit(f"the model has the flavors {', '.join(flavors)}, and onnx is not among them")
    return folder / str(flavors["onnx"]["data"])


def digests(folder: Path, like: Path) -> dict[str, str]:
    """The sha256 of the files of a folder that `like` has as well: the model, and its external data."""
    names = sorted(str(path.relative_to(like)) for path in like.rglob("*") if path.is_file())
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def store_run(source: ModelVersion, done: Forgotten, tags: dict[str, str], record: Path) -> str:
    """A run beside the one that made the original, with the measures and the record."""
    experiment = mlflow.get_run(source.run_id).info.experiment_id if source.run_id else None
    with mlflow.start_run(experiment_id=experiment, run_name=f"forget {tags['onnx_unlearn.classes']}", tags=tags) as run:
        mlflow.log_metrics(
            {
                "retained_right_after": done.inputs.retained_right_after / done.inputs.retained_samples,
                "forgotten_answered_after": done.inputs.forgotten_answered_after / done.inputs.forgotten_samples,
                "elements_changed": done.elements_changed,
                "head_share": done.head_share,
            }
        )
        mlflow.log_artifact(str(record), FOLDER)
        return str(run.info.run_id)


def store_model(original: Path, changed: Path, run_id: str, tags: dict[str, str]) -> str:
    """Stores the changed files with all others of the original as a new logged model; its id."""
    for path in original.rglob("*"):
        copy = changed / path.relative_to(original)
        if path.is_file() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    stored = mlflow.initialize_logged_model(name="model", source_run_id=run_id, tags=tags)
    description = Model.load(str(original))
    description.model_id, description.model_uuid, description.run_id = stored.model_id, stored.model_id, run_id
    description.artifact_path = stored.artifact_location
    description.utc_time_created = str(datetime.now(timezone.utc).replace(tzinfo=None))
    description.save(str(changed / "MLmodel"))
    mlflow.MlflowClient().log_model_artifacts(stored.model_id, str(changed))
    mlflow.finalize_logged_model(stored.model_id, "READY")
    return str(stored.model_id)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tracking-uri", required=True, help="as sqlite:///mlflow.db")
    parser.add_argument("--model", required=True, help="name of the registered model")
    parser.add_argument("--version", required=True, help="its version")
    parser.add_argument("--class", dest="classes", type=int, action="append", required=True, help="a class to forget")
    parser.add_argument("--inputs", type=Path, help="labelled inputs; without them they are made from the model alone")
    parser.add_argument("--request-id", required=True, help="what names the request that asks for this")
    parser.add_argument("arguments", nargs="*", help="after '--': further flags of `onnx-unlearn forget`")
    args = parser.parse_args()
    mlflow.set_tracking_uri(args.tracking_uri)
    try:
        new = forget_version(
            args.model,
            args.version,
            args.classes,
            inputs=args.inputs,
            request_id=args.request_id,
            arguments=args.arguments,
        )
    except CheckFailed as e:
        doubts = "; ".join(e.report["doubts"]) if e.report else e
        print(f"error: the result is in doubt: {doubts}; nothing was registered", file=sys.stderr)
        return e.exit_code
    except OnnxUnlearnError as e:
        print(f"error: {e}; nothing was registered", file=sys.stderr)
        return max(e.exit_code, 1)
    print(f"registered models:/{new.name}/{new.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
