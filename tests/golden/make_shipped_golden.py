"""Generates tests/golden/shipped.json, which contains the reference values for the
built-in classifier.

    python make_shipped_golden.py

Run this after `maskd train` has created another head. It needs the packages in
models/export/requirements.txt, because onnxruntime computes the values.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[1]
sys.path.insert(0, str(ROOT / "models" / "export"))

import checks  # noqa: E402

answers = checks.run_shipped((ROOT / "models" / "mask_classifier.onnx").read_bytes())
(GOLDEN / "shipped.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
for crop, answer in answers.items():
    print(f"{crop}: P(with_mask) = {answer['probabilities'][0]:.6f}")
