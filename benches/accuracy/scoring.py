"""The data sets of the comparison, and the scores of one side on them.

This file defines what is right: the truth of each picture and face, and how a verdict compares with it. It knows nothing
about the programs that are compared. The same code scores all sides.
"""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Box = tuple[float, float, float, float]
Found = dict[Path, list[Json] | None]
"""The faces that a side found in each picture, or None for pictures that it can't read."""

# A detection and a labeled box with at least this intersection over union are the same face, as in `maskd eval`.
SAME_FACE = 0.4
LEVEL = 0.9
DRAWS = 10_000
SEED = 1
PICTURES = (".jpg", ".jpeg", ".png")

MASKED, UNMASKED = "with_mask", "without_mask"
# What a label stands for at a door. `hard_nomask` is a mask under the chin, or a hand or a shirt in front of the
# mouth.
TRUTHS = {
    MASKED: MASKED,
    UNMASKED: UNMASKED,
    "hard_nomask": UNMASKED,
    "mask_weared_incorrect": UNMASKED,
}
TITLES = {
    MASKED: "masked",
    UNMASKED: "unmasked",
    "hard_nomask": "mask under the chin, or a hand or shirt before the mouth",
    "mask_weared_incorrect": "mask below the nose or on the chin",
}


@dataclass(frozen=True)
class Picture:
    path: Path
    camera: str
    """The camera, or an empty string if it is not known."""
    faces: tuple[tuple[str, Box | None], ...]
    """The label and the box of each labeled face. Without a box, it is the largest face of the picture."""


@dataclass(frozen=True)
class DataSet:
    name: str
    title: str
    pictures: list[Picture]

    @property
    def has_boxes(self) -> bool:
        return any(box is not None for picture in self.pictures for _, box in picture.faces)

    @property
    def labels(self) -> list[str]:
        present = {label for picture in self.pictures for label, _ in picture.faces}
        return [label for label in TRUTHS if label in present]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def by_camera(folder: Path, keep: Callable[[str], bool]) -> list[Picture]:
    """Returns the pictures in CAMERA/LABEL."""
    return [
        Picture(path, camera.name, ((label.name, None),))
        for camera in folders(folder)
        if keep(camera.name)
        for label in folders(camera)
        for path in files(label)
    ]


def by_label(folder: Path) -> list[Picture]:
    """Returns the pictures in LABEL."""
    return [Picture(path, "", ((label.name, None),)) for label in folders(folder) for path in files(label)]


def with_boxes(folder: Path) -> list[Picture]:
    """Returns the pictures that have a Pascal VOC file beside them."""
    pictures = []
    for path in files(folder):
        annotation = path.with_suffix(".xml")
        if not annotation.exists():
            continue
        faces: list[tuple[str, Box | None]] = []
        for item in ElementTree.parse(annotation).iter("object"):
            x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax"))
            faces.append((item.findtext("name", ""), (x1, y1, x2 - x1, y2 - y1)))
        pictures.append(Picture(path, "", tuple(faces)))
    return pictures


# The data sets, with their folders within the folder of all data.
SETS: dict[str, tuple[str, str, Callable[[Path], list[Picture]]]] = {
    "cameras": ("cameras", "real cameras, whole frames", lambda folder: by_camera(folder, lambda camera: not is_crops(camera))),
    "crops": ("cameras", "real cameras, face crops", lambda folder: by_camera(folder, is_crops)),
    "frames": ("frames", "photographs with boxes, `frames`", with_boxes),
    "crowd": ("crowd", "photographs with boxes, `crowd`", with_boxes),
    "val": ("faces/val", "face pictures, `faces/val`", by_label),
}


def is_crops(camera: str) -> bool:
    return camera.startswith("crops-")


def load(name: str, data: Path) -> DataSet | None:
    """Returns a data set, or None if its folder is missing or empty."""
    folder, title, read = SETS[name]
    place = data / folder
    pictures = read(place) if place.is_dir() else []
    return DataSet(name, title, pictures) if pictures else None


@dataclass
class Counts:
    """Counts of faces with a label."""

    faces: int = 0
    found: int = 0
    right: int = 0
    unsure: int = 0

    def add(self, label: str, verdict: str | None) -> None:
        """Adds a labeled face. `verdict` is None if the face was not found."""
        self.faces += 1
        self.found += verdict is not None
        self.unsure += verdict == "unsure"
        self.right += verdict is not None and TRUTHS.get(verdict) == TRUTHS[label]


@dataclass
class Scores:
    """The scores of one side on a data set."""

    pictures: int = 0
    unreadable: int = 0
    detections: int = 0
    false_detections: int = 0
    """Detections that match no box. It is 0 for data sets without boxes."""
    labels: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    cameras: dict[tuple[str, str], Counts] = field(default_factory=lambda: defaultdict(Counts))
    """Counts by camera and label."""

    def json(self) -> Json:
        return {
            "pictures": self.pictures,
            "unreadable": self.unreadable,
            "detections": self.detections,
            "false_detections": self.false_detections,
            "labels": {label: vars(counts) for label, counts in self.labels.items()},
            "cameras": {f"{camera}/{label}": vars(counts) for (camera, label), counts in self.cameras.items()},
        }


def score(data: DataSet, found: Found) -> Scores:
    """Scores the faces that a side found. Pictures that it can't read are not counted."""
    scores = Scores()
    for picture in data.pictures:
        faces = found[picture.path]
        if faces is None:
            scores.unreadable += 1
            continue
        scores.pictures += 1
        scores.detections += len(faces)
        rest = list(faces)
        for label, box in picture.faces:
            face = largest(rest) if box is None else take_same(rest, box)
            verdict = face["verdict"] if face else None
            scores.labels[label].add(label, verdict)
            if picture.camera:
                scores.cameras[picture.camera, label].add(label, verdict)
        if data.has_boxes:
            scores.false_detections += len(rest)
    return scores


def largest(faces: list[Json]) -> Json | None:
    return max(faces, key=lambda face: face["box"][2] * face["box"][3], default=None)


def take_same(faces: list[Json], box: Box) -> Json | None:
    """Removes and returns the detection that overlaps most with a box, if that is enough."""
    if not faces:
        return None
    best = max(range(len(faces)), key=lambda index: overlap(faces[index]["box"], box))
    return faces.pop(best) if overlap(faces[best]["box"], box) >= SAME_FACE else None


def overlap(a: Any, b: Box) -> float:
    """Returns the intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


# --- Intervals over cameras


def per_camera(scores: Scores, labels: list[str]) -> dict[str, tuple[int, int]]:
    """Returns, for each camera, the number of right pictures and the number of all pictures with these labels."""
    cameras: dict[str, tuple[int, int]] = {}
    for (camera, label), counts in scores.cameras.items():
        if label in labels:
            right, faces = cameras.get(camera, (0, 0))
            cameras[camera] = (right + counts.right, faces + counts.faces)
    return cameras


def interval(figure: Callable[[list[str]], float], cameras: list[str]) -> tuple[float, float] | None:
    """Returns the interval of a figure that is computed from cameras, by a bootstrap over cameras."""
    if len(cameras) < 2:
        return None
    draw = random.Random(SEED)
    figures = sorted(figure(draw.choices(cameras, k=len(cameras))) for _ in range(DRAWS))
    outside = round(DRAWS * (1 - LEVEL) / 2)
    return figures[outside], figures[DRAWS - 1 - outside]


def share_of(cameras: dict[str, tuple[int, int]], names: list[str]) -> float:
    return sum(cameras[name][0] for name in names) / sum(cameras[name][1] for name in names)


def share_interval(scores: Scores, labels: list[str]) -> tuple[float, float] | None:
    cameras = per_camera(scores, labels)
    return interval(lambda names: share_of(cameras, names), sorted(cameras))


def difference(ours: Scores, theirs: Scores, labels: list[str]) -> tuple[float, tuple[float, float] | None]:
    """Returns our share of right pictures minus theirs, with its interval. Both sides get the same draws."""
    a, b = per_camera(ours, labels), per_camera(theirs, labels)

    def figure(names: list[str]) -> float:
        return share_of(a, names) - share_of(b, names)

    names = sorted(a)
    return figure(names), interval(figure, names)
