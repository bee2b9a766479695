"""Cuts faces out of photographs. Reads one JSON object per line from standard input, with `picture`, `box` (left edge, top
edge, width, and height, or null for the whole picture), and `file`, and writes each face to its file without loss."""

import json
import math
import sys

from PIL import Image

# The default of classify.margin.
MARGIN = 0.2

for line in sys.stdin:
    face = json.loads(line)
    with Image.open(face["picture"]) as picture:
        if face["box"]:
            left, top, width, height = face["box"]
            dx, dy = MARGIN * width, MARGIN * height
            # Rounded outward and limited to the picture, as the daemon does.
            picture = picture.crop(
                (
                    max(0, math.floor(left - dx)),
                    max(0, math.floor(top - dy)),
                    min(picture.width, math.ceil(left + width + dx)),
                    min(picture.height, math.ceil(top + height + dy)),
                )
            )
        picture.convert("RGB").save(face["file"])
