"""Whether something that can be measured in a picture tells which verdicts are wrong.

This file owns the brightness of the forehead, the order of faces by a measure, and the risk at a coverage. `pixels.py`
measures the pictures.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from scoring import MASKED, TRUTHS, Box, DataSet, Found, Json, Picture, interval, largest, take_same

# The part of the forehead that is measured lies between the eyebrows, because hair often covers the rest. These are
# fractions of the width of the face's box: how far the middle of the part is above the middle between the eyes, and its
# width and height.
FOREHEAD_ABOVE, FOREHEAD_WIDTH, FOREHEAD_HEIGHT = 0.09, 0.14, 0.16
# Where the eyes are in the box of a detector that gives no landmarks, as a fraction of its height.
EYES_AT = 0.36
# A camera whose pictures have a smaller mean difference between their largest and smallest color is gray.
GRAY = 3.0
# The lower ends of the groups by brightness of the forehead.
BRIGHTNESS = (0, 70, 100, 130)
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7)
# The lower ends of the groups by the shorter side of a face, in pixels.
SIDES = (0, 16, 24, 32, 48)


def forehead(face: Json) -> Box:
    """Returns the box of the measured part of a face's forehead."""
    left, top, width, height = face["box"]
    if "landmarks" in face:
        eyes = face["landmarks"][:2]
        x, y = (sum(eye[axis] for eye in eyes) / 2 for axis in (0, 1))
    else:
        x, y = left + width / 2, top + EYES_AT * height
    across, down = FOREHEAD_WIDTH * width, FOREHEAD_HEIGHT * width
    return (x - across / 2, y - FOREHEAD_ABOVE * width - down / 2, across, down)


def person(picture: Picture) -> str:
    """Returns who a picture of a camera shows. Its file name is NUMBER-PERSON."""
    return f"{picture.camera}/{picture.path.stem.partition('-')[2]}"


@dataclass
class Light:
    groups: list[DataSet]
    """The pictures by brightness of the forehead, and at last those in which neither side finds a face."""
    gray: list[str]
    """The cameras that were left out."""


def by_brightness(data: DataSet, ours: Found, theirs: Found, ask: Callable[[Json], Json]) -> Light:
    """Groups pictures by the brightness of the forehead of the largest face. The box is from the other side where our
    side finds no face."""
    colors: dict[str, list[float]] = defaultdict(list)
    light: dict[Path, float | None] = {}
    for picture in data.pictures:
        face = largest(ours[picture.path] or []) or largest(theirs[picture.path] or [])
        # Without a face, only the color counts, and any box will do.
        request = {"measure": str(picture.path), "box": [0, 0, 1, 1], "forehead": [0, 0, 0, 0]}
        if face:
            request |= {"box": face["box"], "forehead": forehead(face)}
        told = ask(request)
        colors[picture.camera].append(told["color"])
        light[picture.path] = told["forehead"]
    gray = sorted(camera for camera, each in colors.items() if sum(each) / len(each) < GRAY)
    pictures = [picture for picture in data.pictures if picture.camera not in gray]
    groups = []
    for begin, end in zip(BRIGHTNESS, [*BRIGHTNESS[1:], 256], strict=True):
        group = [each for each in pictures if (value := light[each.path]) is not None and begin <= value < end]
        groups.append(DataSet(f"{begin}", span(begin, end, 256), group))
    groups.append(DataSet("unknown", "no face found", [each for each in pictures if light[each.path] is None]))
    return Light([group for group in groups if group.pictures], gray)


def span(begin: int, end: float, last: float) -> str:
    if end >= last:
        return f"{begin} and more"
    return f"{begin} to {end - 1:g}" if begin else f"under {end:g}"


# --- Risk against coverage


@dataclass(frozen=True)
class Judged:
    """A labeled face that was found, with the verdict of the larger probability on it."""

    label: str
    group: str
    """The camera or the picture, whose faces are alike."""
    side: float
    """The shorter side of the found face, in pixels."""
    wrong: bool
    answered: bool
    """Whether the verdict is not `unsure`."""
    answered_wrong: bool
    measures: dict[str, float]
    """All measures. For each, a larger value should mean fewer errors."""


MEASURES = {
    "confidence": "confidence of the classifier",
    "score": "score of the detector",
    "side": "shorter side of the face",
    "sharpness": "sharpness at native size",
    "sharpness_scaled": "sharpness at 64 pixels",
    "light": "mean light of the face",
    "forehead": "brightness of the forehead",
    "contrast": "contrast of the face",
    "light_to_frame": "light of the face minus light of the frame",
    "inside": "share of the box inside the frame",
}


def middle_threshold(config: Path) -> Callable[[float], float]:
    """Returns the function that gives the middle of the two thresholds for the probability of a mask, for a face with
    this shorter side in pixels. The thresholds for small faces are higher."""
    classify = tomllib.loads(config.read_text())["classify"]
    middle = (classify["masked-threshold"] + classify["unmasked-threshold"]) / 2
    small, share = classify["small-face-pixels"], classify["small-face-raise"]
    return lambda side: middle + share * (1 - middle) if side < small else middle


def confidence(probability: float, middle: float) -> float:
    """Returns how far a probability is from the middle of the unsure band, as a fraction of what is possible."""
    return (probability - middle) / (1 - middle) if probability >= middle else (middle - probability) / middle


def judged(
    data: DataSet, found: Found, ask: Callable[[Json], Json], middle_for: Callable[[float], float]
) -> list[Judged]:
    """Returns the labeled faces that were found. Without boxes, it is the largest face of each picture."""
    faces = []
    for picture in data.pictures:
        rest = list(found[picture.path] or [])
        for label, box in picture.faces:
            face = largest(rest) if box is None else take_same(rest, box)
            if not face or not face.get("probabilities"):
                continue
            told = ask({"measure": str(picture.path), "box": face["box"], "forehead": forehead(face)})
            if not told["measures"]:
                continue
            probability = face["probabilities"][MASKED]
            truth, side = TRUTHS[label] == MASKED, min(face["box"][2:])
            middle = middle_for(side)
            answered = face["verdict"] in TRUTHS
            measures = {
                "confidence": confidence(probability, middle),
                "score": face["score"],
                "side": side,
                **told["measures"],
            }
            group = picture.camera or picture.path.stem
            wrong = (probability >= middle) != truth
            answered_wrong = answered and TRUTHS[face["verdict"]] != TRUTHS[label]
            faces.append(Judged(label, group, side, wrong, answered, answered_wrong, measures))
    return faces


def risk(faces: list[Judged], measure: str, coverage: float) -> float:
    """Returns the expected share of wrong verdicts among the given share of the faces, those with the largest measure.
    Among faces with the same measure, the choice is random."""
    wanted, wrong = coverage * len(faces), 0.0
    taken = 0.0
    for group in tied(faces, measure):
        part = min(1.0, (wanted - taken) / len(group))
        wrong += part * sum(face.wrong for face in group)
        taken += part * len(group)
        if part < 1.0:
            break
    return wrong / taken if taken else 0.0


def tied(faces: list[Judged], measure: str) -> Iterable[list[Judged]]:
    """Returns the faces in groups of the same measure, the largest first."""
    groups: dict[float, list[Judged]] = defaultdict(list)
    for face in faces:
        groups[face.measures[measure]].append(face)
    return [groups[value] for value in sorted(groups, reverse=True)]


Pairs = dict[tuple[str, str], tuple[float, int]]


def pairs(faces: list[Judged], measure: str) -> Pairs:
    """Returns, for each pair of groups, how many pairs of a wrong verdict in the first and a right verdict in the
    second are in order (the right one has the larger measure; half a pair if both are the same), and how many there
    are."""
    values: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for face in faces:
        values[face.group, face.wrong].append(face.measures[measure])
    wrong = {group: each for (group, is_wrong), each in values.items() if is_wrong}
    right = {group: each for (group, is_wrong), each in values.items() if not is_wrong}
    return {
        (a, b): (sum((y > x) + (y == x) / 2 for x in low for y in high), len(low) * len(high))
        for a, low in wrong.items()
        for b, high in right.items()
    }


def auroc(of: Pairs, names: list[str]) -> float:
    """Returns the share of pairs in order, when groups are drawn with these names. 0.5 means that there is no order."""
    times: dict[str, int] = defaultdict(int)
    for name in names:
        times[name] += 1
    weights = {pair: times[pair[0]] * times[pair[1]] for pair in of}
    total = sum(weights[pair] * count for pair, (_, count) in of.items())
    return sum(weights[pair] * ordered for pair, (ordered, _) in of.items()) / total if total else 0.5


@dataclass
class Separation:
    """How well a measure separates right from wrong verdicts."""

    all: float
    ends: tuple[float, float] | None
    """The interval over groups."""
    within: float
    """The share of the pairs from the same group alone."""


def separation(faces: list[Judged], measure: str, with_interval: bool) -> Separation:
    of = pairs(faces, measure)
    names = sorted({face.group for face in faces})
    same = {pair: counts for pair, counts in of.items() if pair[0] == pair[1]}
    ends = interval(lambda drawn: auroc(of, drawn), names) if with_interval else None
    return Separation(auroc(of, names), ends, auroc(same, names))
