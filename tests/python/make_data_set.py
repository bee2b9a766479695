"""Creates a data set for training from the golden crops, with six different pictures
per class.

    python tests/python/make_data_set.py FOLDER

All pictures are lossless and have 224 x 224 pixels, so that no program needs to resize
them.
"""

import sys
from pathlib import Path

from PIL import Image

CROPS = Path(__file__).resolve().parents[1] / "golden" / "crops"
TURNS = {"upright": None, "left": Image.Transpose.ROTATE_90}


def main(folder: Path) -> None:
    for label, prefix in {"bare": "bare_", "masked": "mask_"}.items():
        (folder / label).mkdir(parents=True)
        for crop in sorted(CROPS.glob(f"{prefix}*.png")):
            with Image.open(crop) as picture:
                for name, turn in TURNS.items():
                    turned = picture if turn is None else picture.transpose(turn)
                    turned.save(folder / label / f"{crop.stem}_{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
