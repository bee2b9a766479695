"""Makes training views of labeled pictures: a face at a random place, size, and angle, as a poor camera would show it.

Painted cloth teaches that a face with a cover of any color and pattern is a face. Covers over a part of the mouth, as
hands make them, teach the same. Rotation and a changed aspect ratio stand for heads that are tilted to the side and
back.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import cv2
import numpy as np
from labels import Face, Picture
from numpy.typing import NDArray

SIDE = 320
LEAST_FACE = 9  # Faces with a shorter side under this many pixels are left open.
LEAST_SHARE = 0.45  # So are faces of which less than this share is visible.

Image = NDArray[np.float32]  # BGR, 0 to 255
Box = NDArray[np.float32]


@dataclass
class View:
    """A picture [SIDE, SIDE, 3], its faces, and boxes that are neither faces nor background."""

    image: Image
    faces: list[Face] = field(default_factory=list)
    open_boxes: list[Box] = field(default_factory=list)


@dataclass
class _Placed:
    view: View
    # Where the canvas shows the picture.
    inside: NDArray[np.bool_]


class Views:
    """Draws views. The same seed gives the same views."""

    def __init__(self, photographs: list[Picture], face_pictures: list[Picture], seed: int) -> None:
        self._photographs = photographs
        self._face_pictures = face_pictures
        self._random = random.Random(seed)
        self._noise = np.random.default_rng(seed)
        self._cache: dict[str, NDArray[np.uint8]] = {}

    def draw(self) -> View:
        picture = self._random.choice(self._photographs if self._chance(0.5) else self._face_pictures)
        placed = self._place(picture)
        view = placed.view
        self._fill_outside(view, ~placed.inside)
        for face in view.faces:
            if face.landmarks is not None and self._chance(0.3):
                self._paint_cloth(view.image, face.box, face.landmarks)
        for face in view.faces:
            if self._chance(0.06):
                self._cover_mouth(view.image, face.box)
        view.image = self._as_poor_camera(view.image, view.faces)
        if self._chance(0.3):
            self._pad(view)
        view.image = np.clip(np.round(view.image), 0, 255)
        return view

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _between(self, low: float, high: float) -> float:
        """A random number whose logarithm is uniform."""
        return math.exp(self._random.uniform(math.log(low), math.log(high)))

    def _color(self) -> Image:
        return np.array([self._random.uniform(0, 255) for _ in range(3)], np.float32)

    def _read(self, picture: Picture) -> NDArray[np.uint8]:
        key = str(picture.path)
        if key not in self._cache:
            self._cache[key] = cv2.imread(key)
        return self._cache[key]

    def _place(self, picture: Picture) -> _Placed:
        """Puts the picture on the canvas, so that one of its faces has a random size and place."""
        image = self._read(picture)
        rng = self._random
        side, center = 40.0, np.array([image.shape[1] / 2, image.shape[0] / 2])
        wanted = self._between(12, 150)
        if picture.shows_one_face_large:
            wanted = self._between(22, 270) if self._chance(0.85) else self._between(200, 330)
        if picture.faces:
            widths = [max(1.0, float(face.box[2] - face.box[0])) for face in picture.faces]
            box = rng.choices(picture.faces, weights=widths)[0].box
            side = math.sqrt(max(1.0, float((box[2] - box[0]) * (box[3] - box[1]))))
            center = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        scale = min(wanted / side, 3.0)
        # Bilinear sampling skips pixels if a picture gets much smaller, so it is first reduced.
        shrink = min(1.0, scale * 1.4) if scale < 0.6 else 1.0
        small = image if shrink == 1.0 else cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        ratio = np.diag([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])

        angle = math.radians(max(-35.0, min(35.0, rng.gauss(0, 11)))) if self._chance(0.7) else 0.0
        aspect = self._between(0.78, 1.3) if self._chance(0.6) else 1.0
        mirrored = self._chance(0.5)
        shear = rng.uniform(-0.12, 0.12) if self._chance(0.3) else 0.0
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        sizes = np.diag([scale / math.sqrt(aspect) * (-1 if mirrored else 1), scale * math.sqrt(aspect)])
        linear = rotation @ np.array([[1, shear], [0, 1]]) @ sizes
        half = side * scale / 2
        margin = -0.3 * half if self._chance(0.25) else min(half, SIDE / 2)
        target = np.array([rng.uniform(margin, SIDE - margin), rng.uniform(margin, SIDE - margin)])
        shift = target - linear @ center

        matrix = np.concatenate([linear @ ratio, shift[:, None]], 1)
        canvas = cv2.warpAffine(small, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        whole = np.full(small.shape[:2], 255, np.uint8)
        inside = cv2.warpAffine(whole, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST) >= 128

        view = View(canvas.astype(np.float32))
        for face in picture.faces:
            box = _warp_box(face.box, linear, shift)
            visible = np.clip(box, 0, SIDE)
            share = _area(visible) / max(_area(box), 1e-6)
            if share <= 0:
                continue
            if share < LEAST_SHARE or min(visible[2] - visible[0], visible[3] - visible[1]) < LEAST_FACE:
                view.open_boxes.append(visible)
                continue
            landmarks = None
            if face.landmarks is not None:
                landmarks = (face.landmarks @ linear.T + shift).astype(np.float32)
                if mirrored:
                    landmarks = landmarks[[1, 0, 2, 4, 3]]
            view.faces.append(Face(visible, landmarks))
        for box in picture.open_boxes:
            visible = np.clip(_warp_box(box, linear, shift), 0, SIDE)
            if min(visible[2] - visible[0], visible[3] - visible[1]) > 2:
                view.open_boxes.append(visible)
        return _Placed(view, inside)

    def _fill_outside(self, view: View, outside: NDArray[np.bool_]) -> None:
        """Fills the canvas beside the picture with another picture, a color, or a pattern, or leaves it black."""
        if outside.mean() <= 0.03:
            return
        kind = self._random.random()
        if kind < 0.45:
            other = self._place(self._random.choice(self._photographs if self._chance(0.8) else self._face_pictures))
            fill = other.view.image
            fill[~other.inside] = self._random.uniform(0, 255)
            view.image[outside] = fill[outside]
            for face in other.view.faces:
                left, top, right, bottom = face.box.astype(int)
                part = outside[top : bottom + 1, left : right + 1]
                share = part.mean() if part.size else 0.0
                if share > 0.9:
                    view.faces.append(face)
                elif share > 0.25:
                    view.open_boxes.append(face.box)
            view.open_boxes.extend(other.view.open_boxes)
        elif kind < 0.75:
            view.image[outside] = self._color()
            if self._chance(0.5):
                noise = self._noise.normal(0, self._random.uniform(0, 25), (int(outside.sum()), 1))
                view.image[outside] += noise.astype(np.float32)
        elif kind < 0.9:
            view.image[outside] = self._texture()[outside]

    def _texture(self) -> Image:
        """A cloth of the canvas's size: plain, striped, dotted, or a piece of a photograph."""
        rng = self._random
        kind = rng.random()
        if kind < 0.35:
            color = self._color()
        elif kind < 0.5:  # black
            color = np.full(3, rng.uniform(5, 45)) + self._noise.uniform(-6, 6, 3)
        elif kind < 0.62:  # the color of skin
            color = np.array([rng.uniform(70, 190), rng.uniform(100, 205), rng.uniform(140, 235)])
        elif kind < 0.72:  # dark red
            color = np.array([rng.uniform(15, 50), rng.uniform(10, 45), rng.uniform(70, 150)])
        elif kind < 0.85:  # white
            color = np.full(3, rng.uniform(190, 250)) + self._noise.uniform(-8, 8, 3)
        else:
            image = self._read(rng.choice(self._photographs))
            top, left = rng.randrange(max(1, image.shape[0] - 60)), rng.randrange(max(1, image.shape[1] - 60))
            return cv2.resize(image[top : top + 60, left : left + 60], (SIDE, SIDE)).astype(np.float32)
        cloth = np.tile(color.astype(np.float32), (SIDE, SIDE, 1))
        pattern = rng.random()
        y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
        drawn = None
        if pattern < 0.25:
            period, angle = self._between(3, 20), rng.uniform(0, math.pi)
            wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period)
            drawn = wave > rng.uniform(-0.5, 0.5)
        elif pattern < 0.4:
            period = self._between(4, 20)
            wave = np.sin(x * 2 * math.pi / period) * np.sin(y * 2 * math.pi / period)
            drawn = wave > rng.uniform(0.2, 0.6)
        if drawn is not None:
            cloth[drawn] = cloth[drawn] * 0.3 + 0.7 * self._color()
        across, down = rng.uniform(-0.35, 0.35), rng.uniform(-0.25, 0.25)
        light = 1 + across * (x / SIDE - 0.5) * 2 + down * (y / SIDE - 0.5) * 2
        grain = self._noise.normal(0, rng.uniform(0, 6), cloth.shape)
        return np.clip(cloth * light[..., None] + grain, 0, 255).astype(np.float32)

    def _paint_cloth(self, image: Image, box: Box, landmarks: NDArray[np.float32]) -> None:
        """Paints a mask from the bridge of the nose to the chin."""
        rng = self._random
        width = float(box[2] - box[0])
        eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
        across, down = landmarks[1] - landmarks[0], mouth - eyes
        if width < 20 or np.hypot(*down) < 4 or np.hypot(*across) < 4:
            return
        top = eyes + (landmarks[2] - eyes) * rng.uniform(0.25, 0.75)
        half = across / np.hypot(*across) * width * 0.5 * rng.uniform(0.85, 1.0)
        chin = mouth + down * rng.uniform(0.45, 0.75)
        outline = np.array(
            [
                top,
                top + half * 0.95 + down * rng.uniform(0, 0.15),
                mouth + half * 0.85 - down * 0.1,
                chin + half * 0.35,
                chin,
                chin - half * 0.35,
                mouth - half * 0.85 - down * 0.1,
                top - half * 0.95 + down * rng.uniform(0, 0.15),
            ]
        )
        outline += self._noise.normal(0, 0.012 * width, outline.shape)
        mask = np.zeros((SIDE, SIDE), np.float32)
        cv2.fillPoly(mask, [np.round(outline * 4).astype(np.int32)], 1.0, cv2.LINE_AA, 2)
        mask = cv2.GaussianBlur(mask, (0, 0), max(0.6, width / 90))
        cloth = self._texture()
        if self._chance(0.5) and (mask > 0.5).any():  # The cloth keeps the light and shadow of the face.
            gray = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_BGR2GRAY).astype(np.float32)
            gray = cv2.GaussianBlur(gray, (0, 0), max(1.0, width / 12))
            cloth = cloth * np.clip(gray / max(20.0, float(np.median(gray[mask > 0.5]))), 0.4, 1.7)[..., None]
        image[:] = image * (1 - mask[..., None]) + cloth * mask[..., None]

    def _cover_mouth(self, image: Image, box: Box) -> None:
        """Paints an ellipse over a part of the lower half of the face."""
        rng = self._random
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        x = (box[0] + box[2]) / 2 + rng.uniform(-0.15, 0.15) * width
        y = box[1] + height * rng.uniform(0.6, 0.85)
        axes = (max(1, int(width * rng.uniform(0.25, 0.5))), max(1, int(width * rng.uniform(0.15, 0.35))))
        mask = np.zeros((SIDE, SIDE), np.float32)
        cv2.ellipse(mask, (int(x), int(y)), axes, rng.uniform(-50, 50), 0, 360, 1, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), max(0.6, width / 60))[..., None]
        image[:] = image * (1 - mask) + self._texture() * mask

    def _as_poor_camera(self, image: Image, faces: list[Face]) -> Image:
        """Changes light, color, and sharpness, and adds noise and JPEG. One in five pictures stays as it is."""
        rng = self._random
        if self._chance(0.2):
            return image
        if self._chance(0.3) and faces:
            image = self._against_light(image, rng.choice(faces).box)
        if self._chance(0.6):
            image = 255 * np.power(np.clip(image, 0, 255) / 255, self._between(0.45, 2.4))
        if self._chance(0.6):
            image = image * self._between(0.25 if self._chance(0.4) else 0.6, 1.5)
        if self._chance(0.4):
            mean = image.mean()
            image = (image - mean) * self._between(0.45, 1.4) + mean
        if self._chance(0.2):
            haze = rng.uniform(0.05, 0.4)
            image = image * (1 - haze) + haze * rng.uniform(120, 240)
        if self._chance(0.35):
            image = image * np.array([self._between(0.7, 1.4) for _ in range(3)], np.float32)
        fading = rng.random()
        if fading < 0.3:
            gray = image @ np.array([0.114, 0.587, 0.299], np.float32)
            saturation = 0 if fading < 0.15 else rng.uniform(0.1, 0.8)
            image = image * saturation + gray[..., None] * (1 - saturation)
        image = np.clip(image, 0, 255).astype(np.float32)
        if self._chance(0.35):
            scale = rng.uniform(0.25, 0.8)
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            image = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        if self._chance(0.2):
            image = cv2.filter2D(image, -1, self._motion(rng.randint(3, 11)))
        elif self._chance(0.25):
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.2))
        if self._chance(0.5):
            image = image + self._sensor_noise()
        image = np.clip(image, 0, 255)
        if self._chance(0.5):
            quality = [cv2.IMWRITE_JPEG_QUALITY, rng.randint(15, 85)]
            _, data = cv2.imencode(".jpg", image.astype(np.uint8), quality)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32)
        return image

    def _against_light(self, image: Image, box: Box) -> Image:
        y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
        size = float(max(box[2] - box[0], box[3] - box[1]))
        distance = np.hypot(x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2 - 0.5 * size) / size
        person = np.clip(1.6 - distance, 0, 1)[..., None]
        dark, bright = self._random.uniform(0.25, 0.8), self._random.uniform(1.0, 1.8)
        glare = self._random.uniform(0, 60)
        return image * (person * dark + (1 - person) * bright) + (1 - person) * glare

    def _motion(self, length: int) -> Image:
        angle = self._random.uniform(0, math.pi)
        kernel = np.zeros((length, length), np.float32)
        center = length // 2
        x, y = center * math.cos(angle), center * math.sin(angle)
        start, end = (round(center - x), round(center - y)), (round(center + x), round(center + y))
        cv2.line(kernel, start, end, 1)
        return kernel / kernel.sum()

    def _sensor_noise(self) -> Image:
        channels = 3 if self._chance(0.6) else 1
        noise = self._noise.normal(0, self._random.uniform(1, 20), (SIDE, SIDE, channels)).astype(np.float32)
        if self._chance(0.3):
            noise = cv2.GaussianBlur(noise, (0, 0), 1).reshape(SIDE, SIDE, channels) * 2
        return noise

    def _pad(self, view: View) -> None:
        """Makes the bottom or the right black, as at run time for frames that are not square."""
        edge = SIDE - self._random.choice((64, 80))
        axis = 1 if self._chance(0.5) else 0
        if axis == 1:
            view.image[edge:] = 0
        else:
            view.image[:, edge:] = 0
        faces = []
        for face in view.faces:
            cut = face.box.copy()
            cut[axis + 2] = min(cut[axis + 2], edge)
            length = cut[axis + 2] - cut[axis]
            if length <= 2:
                continue
            if length / (face.box[axis + 2] - face.box[axis]) < 0.5:
                view.open_boxes.append(cut)
            else:
                faces.append(Face(cut, face.landmarks))
        view.faces = faces


def _area(box: Box) -> float:
    return max(0.0, float(box[2] - box[0])) * max(0.0, float(box[3] - box[1]))


def _warp_box(box: Box, linear: NDArray[np.float64], shift: NDArray[np.float64]) -> Box:
    """Returns the box of the warped ellipse that the box encloses. A face is closer to an ellipse than to a box."""
    center = linear @ np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) + shift
    half = np.array([(box[2] - box[0]) / 2, (box[3] - box[1]) / 2])
    reach = np.sqrt((linear[:, 0] * half[0]) ** 2 + (linear[:, 1] * half[1]) ** 2)
    return np.concatenate([center - reach, center + reach]).astype(np.float32)
