"""Reads the pictures to train with, and where their faces are.

Photographs with boxes (Pascal VOC) and pictures in folders by label are used. For the second kind, and for landmarks,
the published detector labels the pictures: it looks at each picture in several sizes and mirrored, which finds more
faces than one look, and boxes of a low score are left open (neither a face nor background).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from network import Boxes, Landmarks, YuNet, detect, overlaps, suppress
from numpy.typing import NDArray

# Photographs are looked at in these sizes (longest side), and face pictures in smaller ones as well, because faces
# that fill the picture are found only in a small copy.
PHOTOGRAPH_SIDES = (320, 640, 200, 120)
FACE_SIDES = (320, 200, 120, 80)

LEAST_SCORE = 0.1
# A face picture's box is a face from FACE_SCORE on, and left open from OPEN_SCORE on.
FACE_SCORE = 0.6
OPEN_SCORE = 0.3
# In a photograph, all faces have boxes, but some are missing. A box of the published detector that matches no label is
# left open from this score on.
UNLABELED_SCORE = 0.55
MATCH_OVERLAP = 0.45
# From this score on, the detector's box replaces a label.
BOX_SCORE = 0.7


@dataclass
class Face:
    """A face in the pixels of its picture. Boxes are drawn as YuNet draws them, from the forehead to the chin."""

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None


@dataclass
class Picture:
    path: Path
    faces: list[Face]
    # Boxes that are neither faces nor background.
    open_boxes: list[NDArray[np.float32]]
    # Whether this is a face picture, and not a photograph of a scene.
    shows_one_face_large: bool


def is_held_out(path: Path) -> bool:
    """One in five photographs is never trained with, chosen by the name of its annotation."""
    return int(hashlib.md5(path.with_suffix(".xml").name.encode()).hexdigest(), 16) % 5 == 0


def _look(
    network: YuNet, picture: NDArray[np.uint8], sides: tuple[int, ...]
) -> tuple[Boxes, NDArray[np.float32], Landmarks]:
    """Finds faces in several sizes of the picture and of its mirror image. Nothing is enlarged."""
    found: list[tuple[Boxes, NDArray[np.float32], Landmarks]] = []
    height, width = picture.shape[:2]
    longest = max(height, width)
    for side in sides:
        if side > longest * 1.05 and side != sides[0]:
            continue
        scale = min(1.0, side / longest)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = picture if scale == 1.0 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for mirrored in (False, True):
            boxes, scores, landmarks = detect(network, small[:, ::-1].copy() if mirrored else small, LEAST_SCORE)
            boxes, landmarks = boxes / scale, landmarks / scale
            if mirrored:
                boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
                landmarks = landmarks[:, [1, 0, 2, 4, 3]]
                landmarks[..., 0] = width - landmarks[..., 0]
            found.append((boxes, scores, landmarks))
    boxes, scores, landmarks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    kept = suppress(boxes, scores)
    return boxes[kept], scores[kept], landmarks[kept]


def photographs(network: YuNet, folder: Path) -> list[Picture]:
    """Reads photographs with boxes. Labels are moved to where YuNet would draw the box, by the median difference."""
    read: list[tuple[Path, Boxes, list[int | None], tuple[Boxes, NDArray[np.float32], Landmarks]]] = []
    differences: list[NDArray[np.float32]] = []
    for annotation in sorted(folder.glob("*.xml")):
        path = next(p for p in (annotation.with_suffix(s) for s in (".jpg", ".png", ".jpeg")) if p.exists())
        picture = cv2.imread(str(path))
        boxes, scores, landmarks = _look(network, picture, PHOTOGRAPH_SIDES)
        labels = np.array(
            [
                [float(face.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")]
                for face in ElementTree.parse(annotation).getroot().iter("object")
            ],
            np.float32,
        ).reshape(-1, 4)
        shared = overlaps(labels, boxes)
        matches: list[int | None] = []
        for label, row in zip(labels, shared, strict=True):
            best = int(row.argmax()) if len(row) else None
            if best is None or row[best] <= MATCH_OVERLAP or scores[best] <= 0.5:
                matches.append(None)
                continue
            matches.append(best)
            size = np.tile(label[2:] - label[:2], 2)
            if size.min() > 24:
                differences.append((boxes[best] - label) / size)
        read.append((path, labels, matches, (boxes, scores, landmarks)))

    difference = np.median(np.array(differences), 0)
    pictures = []
    for path, labels, matches, (boxes, scores, landmarks) in read:
        faces = []
        for label, match in zip(labels, matches, strict=True):
            moved = label + difference * np.tile(label[2:] - label[:2], 2)
            if match is None:
                faces.append(Face(moved, None))
            else:
                faces.append(Face(boxes[match] if scores[match] > BOX_SCORE else moved, landmarks[match]))
        shared = overlaps(boxes, labels).max(1) if len(labels) else np.zeros(len(boxes))
        is_open = (scores > UNLABELED_SCORE) & (shared < MATCH_OVERLAP)
        is_open[[match for match in matches if match is not None]] = False
        pictures.append(Picture(path, faces, list(boxes[is_open]), False))
    return pictures


def face_pictures(network: YuNet, folder: Path) -> list[Picture]:
    """Reads face pictures in folders by label. Pictures in which no face is found are left out."""
    pictures = []
    for path in sorted(folder.glob("*/*")):
        picture = cv2.imread(str(path))
        if picture is None:
            continue
        boxes, scores, landmarks = _look(network, picture, FACE_SIDES)
        is_face = scores >= FACE_SCORE
        if is_face.any():
            faces = [Face(boxes[index], landmarks[index]) for index in np.flatnonzero(is_face)]
            pictures.append(Picture(path, faces, list(boxes[~is_face & (scores > OPEN_SCORE)]), True))
    return pictures
