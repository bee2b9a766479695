"""How the verdict depends on where the face is in the picture, and on the pose of the head.

This file owns the geometry of the views that are cut from whole frames, and which pictures show which pose. `pixels.py`
cuts the views.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from scoring import SAME_FACE, Box, DataSet, Found, Json, Picture, largest, overlap

POSES = Path(__file__).resolve().parent / "poses.json"
# Width divided by height of the strips.
TALL, WIDE = 9 / 16, 3.0
# A strip is at least this many times as wide and as high as the face.
ROOM = 1.25
# The share of the shorter side that a filling face takes, and the share of a face's width that the edge cuts off.
FILLED, CUT_OFF = 0.8, 0.2
DEGREES = 20.0

Size = tuple[float, float]


@dataclass(frozen=True)
class View:
    """A part of a frame, in pixels of the frame."""

    window: tuple[int, int, int, int]
    """Left, top, width and height. Where it reaches beyond the frame, it is black."""
    box: Box
    """The box of the face in the window, in pixels of the window."""
    degrees: float = 0.0
    """The frame is rotated by this angle, counterclockwise, about the middle of the face before the window is cut."""
    about: tuple[float, float] = (0.0, 0.0)

    def json(self) -> Json:
        return asdict(self)

    def is_padded(self, frame: Size) -> bool:
        left, top, width, height = self.window
        return left < 0 or top < 0 or left + width > frame[0] or top + height > frame[1]


def place(middle: float, length: float, whole: float) -> float:
    """Returns where a window begins, on one axis. It is as near to the middle of the face as the frame allows. If it is
    longer than the frame, the frame is in the middle of it."""
    return min(max(0.0, middle - length / 2), whole - length) if length <= whole else (whole - length) / 2


def window(frame: Size, box: Box, size: Size) -> View:
    """Returns the view of this size around a face."""
    width, height = round(size[0]), round(size[1])
    left = round(place(box[0] + box[2] / 2, width, frame[0]))
    top = round(place(box[1] + box[3] / 2, height, frame[1]))
    return View((left, top, width, height), (box[0] - left, box[1] - top, box[2], box[3]))


def strip(frame: Size, box: Box, aspect: float) -> list[View]:
    """Returns the largest strip of the frame. If the face would not fit, the strip is enlarged beyond the frame."""
    width = min(frame[0], frame[1] * aspect)
    width = max(width, ROOM * box[2], ROOM * box[3] * aspect)
    return [window(frame, box, (width, width / aspect))]


def filling(frame: Size, box: Box) -> list[View]:
    """Returns the view with the shape of the frame in which the longer side of the face takes most of the shorter side
    of the view."""
    scale = min(1.0, max(box[2], box[3]) / FILLED / min(frame))
    return [window(frame, box, (frame[0] * scale, frame[1] * scale))]


def edge(frame: Size, box: Box) -> list[View]:
    """Returns the view that cuts off a part of the face on the side of the frame that is nearer to it."""
    cut = CUT_OFF * box[2]
    if box[0] + box[2] / 2 < frame[0] / 2:
        left = round(box[0] + cut)
        return [View((left, 0, round(frame[0]) - left, round(frame[1])), (0.0, box[1], box[2] - cut, box[3]))]
    width = round(box[0] + box[2] - cut)
    return [View((0, 0, width, round(frame[1])), (box[0], box[1], box[2] - cut, box[3]))]


def tilted(frame: Size, box: Box) -> list[View]:
    """Returns the frame rotated to either side about the middle of the face, which stays where it is."""
    middle = (box[0] + box[2] / 2, box[1] + box[3] / 2)
    whole = (0, 0, round(frame[0]), round(frame[1]))
    return [View(whole, box, degrees, middle) for degrees in (-DEGREES, DEGREES)]


VARIANTS: dict[str, tuple[str, Callable[[Size, Box], list[View]]]] = {
    "tall": ("tall strip, 9:16", lambda frame, box: strip(frame, box, TALL)),
    "wide": ("wide strip, 3:1", lambda frame, box: strip(frame, box, WIDE)),
    "filling": ("the face fills the frame", filling),
    "edge": ("the edge cuts off a fifth of the face", edge),
    "tilted": ("rotated by 20° to either side", tilted),
}


def agreed_boxes(data: DataSet, ours: Found, theirs: Found) -> dict[Path, tuple[Size, Box]]:
    """Returns the size of each picture and the mean of the two boxes of its largest face, where both sides find the
    same face."""
    boxes = {}
    for picture in data.pictures:
        a, b = largest(ours[picture.path] or []), largest(theirs[picture.path] or [])
        if a and b and overlap(a["box"], b["box"]) >= SAME_FACE:
            x, y, width, height = ((p + q) / 2 for p, q in zip(a["box"], b["box"], strict=True))
            boxes[picture.path] = (a["frame"], (x, y, width, height))
    return boxes


@dataclass
class Views:
    """The data sets of the views, and how many views have black bars."""

    sets: list[DataSet]
    padded: dict[str, int]


def make_views(data: DataSet, boxes: dict[Path, tuple[Size, Box]], folder: Path, cut: Callable[[Json], Json]) -> Views:
    """Cuts all views of the pictures into files in a folder. `cut` asks the worker."""
    pictures = [picture for picture in data.pictures if picture.path in boxes]
    same = [
        Picture(picture.path, picture.camera, ((picture.faces[0][0], boxes[picture.path][1]),)) for picture in pictures
    ]
    sets, padded = [DataSet("unchanged", "unchanged", same)], {}
    for name, (title, views) in VARIANTS.items():
        made, padded[name] = [], 0
        for picture in pictures:
            frame, box = boxes[picture.path]
            label = picture.faces[0][0]
            for number, view in enumerate(views(frame, box)):
                path = folder / f"{name}-{picture.camera}-{label}-{picture.path.stem}-{number}.png"
                cut({"cut": str(picture.path), "view": view.json(), "to": str(path)})
                padded[name] += view.is_padded(frame)
                made.append(Picture(path, picture.camera, ((label, view.box),)))
        sets.append(DataSet(name, title, made))
    return Views(sets, padded)


def pose_sets(data: DataSet) -> list[DataSet]:
    """Returns the pictures of one camera by the pose of the head."""
    poses = json.loads(POSES.read_text())
    camera = poses.pop("camera")
    names = {(label, stem): pose for pose, labels in poses.items() for label, stems in labels.items() for stem in stems}
    rest = "other poses"
    groups: dict[str, list[Picture]] = {pose: [] for pose in [*poses, rest]}
    for picture in data.pictures:
        if picture.camera == camera:
            groups[names.get((picture.faces[0][0], picture.path.stem), rest)].append(picture)
    return [DataSet(pose, f"`{camera}`, {pose}", pictures) for pose, pictures in groups.items() if pictures]
