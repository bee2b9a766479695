"""Generates report.json in this folder, with scikit-learn's reports on synthetic predictions.

The text comes from classification_report, and the interval comes from scipy. This script uses
numpy to compute the calibration error from its definition.

    pip install -r requirements-report.txt
    python make_report_golden.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import (
    classification_report,
    confusion_matrix,
    precision_recall_fscore_support,
)
from sklearn.utils.class_weight import compute_class_weight

GOLDEN = Path(__file__).resolve().parent
BINS = 15


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Computes the expected calibration error (Guo et al. 2017, equation 3)."""
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truth
    edges = np.arange(BINS + 1) / BINS
    error = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (top > low) & (top <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return float(error)


def case(truth: Any, probabilities: Any, names: list[str], predicted: Any = None) -> dict[str, Any]:
    truth = np.asarray(truth)
    probabilities = np.round(np.asarray(probabilities), 4).astype(np.float32)
    given = predicted is not None
    predicted = np.asarray(predicted) if given else probabilities.argmax(axis=1)
    labels = list(range(len(names)))
    options: dict[str, Any] = {"labels": labels, "zero_division": 0}
    scores = precision_recall_fscore_support(truth, predicted, **options)
    right = int((truth == predicted).sum())
    interval = binomtest(right, len(truth)).proportion_ci(method="wilson")
    present = np.unique(truth)
    weights = None
    if len(present) == len(names):
        weights = compute_class_weight("balanced", classes=present, y=truth).tolist()
    text = classification_report(truth, predicted, target_names=names, **options)
    # If no prediction is right, scikit-learn 1.9 prints a support of 2 as 2.0.
    text = re.sub(r"(\d+)\.0$", r"  \1", text, flags=re.MULTILINE)
    return {
        "truth": truth.tolist(),
        "probabilities": [round(float(p), 4) for p in probabilities.ravel()],
        "names": names,
        "predicted": predicted.tolist() if given else None,
        "text": text,
        "accuracy": right / len(truth),
        "interval": [interval.low, interval.high],
        "calibration_error": calibration_error(truth, probabilities),
        "confusion": confusion_matrix(truth, predicted, labels=labels).tolist(),
        "precision": scores[0].tolist(),
        "recall": scores[1].tolist(),
        "f1": scores[2].tolist(),
        "support": [int(count) for count in scores[3]],
        "class_weights": weights,
    }


def random_case(seed: int, size: int, names: list[str], skill: float) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(len(names)) * 3)
    truth = rng.choice(len(names), size=size, p=shares)
    logits = rng.normal(size=(size, len(names)))
    logits[np.arange(size), truth] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return case(truth, probabilities, names)


def hard(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[predicted] * 0.8 + 0.1


def main() -> None:
    pair = ["with_mask", "without_mask"]
    eighths = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    cases = {
        "two classes": random_case(1, 629, pair, 3.0),
        "three classes": random_case(2, 200, ["chin", "mask", "none"], 1.0),
        "twelve classes": random_case(3, 500, [f"class {i}" for i in range(12)], 1.5),
        "long and odd names": random_case(4, 90, ["a", "Gesicht mit Maske über der Nase"], 0.5),
        "all right": case([0, 1, 1], hard([0, 1, 1], 2), pair),
        "all wrong": case([0, 0, 1], hard([1, 1, 0], 2), pair),
        "a class never predicted": case([0, 0, 1, 2], hard([0, 1, 1, 0], 3), ["a", "b", "c"]),
        "a class that is not there": case([0, 0, 1, 1], hard([0, 2, 1, 1], 3), ["a", "b", "c"]),
        "halves of the last digit": case([0] * 8 + [1] * 8, hard(eighths, 2), pair),
        "ties": case([0, 1, 0, 1], np.full((4, 2), 0.5), pair),
        "own decisions": case([0, 1, 0, 1, 1], hard([0, 1, 1, 0, 1], 2), pair, [0, 1, 0, 0, 0]),
        "one picture": case([1], [[0.25, 0.75]], pair),
    }
    text = json.dumps(cases, indent=None, separators=(",", ":"), ensure_ascii=False)
    # Put each case on its own line.
    text = text.replace('},"', '},\n"')
    (GOLDEN / "report.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
