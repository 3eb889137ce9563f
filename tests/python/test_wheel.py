"""The installed wheel: its command, its typed functions, what they raise. Run from the top of the repository."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from importlib import metadata
from pathlib import Path
from unittest import mock

import onnx_unlearn
from onnx_unlearn import (
    BadInput,
    CheckFailed,
    InternalError,
    Mismatch,
    OnnxUnlearnError,
    evaluate,
    forget,
    inspect,
    verify,
)

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL, CODES, DATA = FIXTURES / "mlp.onnx", FIXTURES / "mlp.codes.npz", FIXTURES / "fmnist_test_1000.npz"


class Wheel(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def test_the_command_is_the_one_of_this_installation(self) -> None:
        self.script("onnx-unlearn", "exit 9")
        with mock.patch.dict(os.environ, PATH=f"{self.folder}{os.pathsep}{os.environ['PATH']}"):
            self.assertEqual(shutil.which("onnx-unlearn"), str(self.folder / "onnx-unlearn"))
            onnx_unlearn.binary.cache_clear()
            self.assertTrue(Path(onnx_unlearn.binary()).is_relative_to(sys.prefix))
            self.assertEqual(inspect(MODEL).classes, 10)
        version = metadata.version("onnx-unlearn")
        for command in ([onnx_unlearn.binary()], [sys.executable, "-m", "onnx_unlearn"]):
            said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
            self.assertEqual(said.stdout, f"onnx-unlearn {version}\n")
        refused = subprocess.run([sys.executable, "-m", "onnx_unlearn", "nonsense"], capture_output=True, check=False)
        self.assertEqual(refused.returncode, 2)

    def test_forget_writes_a_model_that_has_forgotten(self) -> None:
        before = MODEL.read_bytes()
        out = self.folder / "out.onnx"
        done = forget(MODEL, [0], output=out, inputs=CODES, engine="cpu", seed=3)
        self.assertEqual((done.file, done.classes, done.engine, done.seed), (out, (0,), "cpu", 3))
        self.assertEqual((done.rule, set(done.strength)), ("ascent", {"body_steps", "head_steps"}))
        self.assertEqual((done.inputs.retained_samples, done.inputs.forgotten_samples), (9, 1))
        self.assertEqual((done.inputs.forgotten_answered_before, done.inputs.forgotten_answered_after), (1, 0))
        self.assertEqual(done.elements_changed, sum(c.changed for c in done.changes))
        self.assertAlmostEqual(sum(c.share for c in done.changes), 1.0)
        self.assertEqual(MODEL.read_bytes(), before)
        self.assertEqual(len(out.read_bytes()), len(before))
        old, new = (evaluate(m, DATA, forgotten=[0], engine="cpu") for m in (MODEL, out))
        self.assertIsNotNone(old.a_f)
        self.assertGreater(old.a_f or 0.0, 0.8)
        self.assertEqual(new.a_f, 0.0)
        self.assertGreater(new.a_r or 0.0, (old.a_r or 1.0) - 0.02)
        self.assertEqual([c.class_id for c in new.classes], list(range(10)))
        self.assertEqual(new.samples, sum(c.samples for c in new.classes))

    def test_in_place_and_names_that_look_like_flags(self) -> None:
        shutil.copy(MODEL, self.folder / "-m.onnx")
        here = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, here)
        more = ["--alpha=6", "--lambda=1"]
        done = forget("-m.onnx", (0, 1), in_place=True, inputs=CODES, rule="dampen", engine="cpu", arguments=more)
        self.assertEqual(done.classes, (0, 1))
        self.assertEqual(dict(done.strength), {"alpha": 6.0, "lambda": 1.0})
        self.assertNotEqual(Path("-m.onnx").read_bytes(), MODEL.read_bytes())
        forget(MODEL, [0], output="-o.onnx", inputs=CODES, protect=["fc1.*"], engine="cpu")
        self.assertTrue(Path("-o.onnx").is_file())

    def test_bad_input_says_what_the_command_says_and_writes_nothing(self) -> None:
        out = self.folder / "out.onnx"
        with self.assertRaisesRegex(BadInput, "^class 10 is out of range") as raised:
            forget(MODEL, [10], output=out, inputs=CODES, engine="cpu")
        self.assertEqual((raised.exception.exit_code, raised.exception.report), (2, None))
        self.assertIsInstance(raised.exception, (OnnxUnlearnError, ValueError))
        with self.assertRaisesRegex(BadInput, "required"):
            forget(MODEL, [], output=out)
        with self.assertRaisesRegex(BadInput, "nowhere.onnx"):
            inspect(self.folder / "nowhere.onnx")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_doubtful_result_fails_the_check_and_is_reported(self) -> None:
        out = self.folder / "out.onnx"
        nothing = ["--alpha=1e30", "--lambda=1"]
        with self.assertRaises(CheckFailed) as raised:
            forget(MODEL, [0], output=out, inputs=CODES, rule="dampen", strict=True, engine="cpu", arguments=nothing)
        report = raised.exception.report
        assert report is not None
        self.assertEqual((raised.exception.exit_code, report["elements_changed"]), (1, 0))
        self.assertTrue(report["doubts"])
        self.assertTrue(out.is_file())

    def test_a_record_holds_until_a_byte_changes(self) -> None:
        out, record = self.folder / "out.onnx", self.folder / "record.json"
        forget(MODEL, [0], output=out, inputs=CODES, engine="cpu", record=record, request_id="ER-7")
        held = verify(out, record, original=MODEL)
        self.assertEqual((held.classes, held.request, held.original, held.signature), ((0,), "ER-7", True, "none"))
        flipped = bytearray(out.read_bytes())
        flipped[len(flipped) // 2] ^= 1
        out.write_bytes(flipped)
        with self.assertRaises(Mismatch) as raised:
            verify(out, record)
        self.assertEqual(raised.exception.exit_code, 4)
        self.assertTrue(raised.exception.mismatches)
        self.assertEqual(str(raised.exception), "; ".join(raised.exception.mismatches))

    @unittest.skipUnless(os.name == "posix", "shell scripts stand in for the command")
    def test_every_end_of_the_command_has_its_exception(self) -> None:
        cases: list[tuple[str, type[OnnxUnlearnError], str, int]] = [
            ("echo 'error: a defect' >&2; exit 3", InternalError, "^a defect$", 3),
            ("exit 77", InternalError, "^exit code 77$", 77),
            ("kill -9 $$", InternalError, "^ended by signal 9$", -9),
            ("echo text", InternalError, "no JSON", 0),
        ]
        for text, kind, message, code in cases:
            stand_in = self.script("stand-in", text)
            with self.subTest(text), mock.patch("onnx_unlearn._process.binary", return_value=str(stand_in)):
                with self.assertRaisesRegex(kind, message) as raised:
                    inspect(MODEL)
                self.assertEqual(raised.exception.exit_code, code)


if __name__ == "__main__":
    unittest.main()
