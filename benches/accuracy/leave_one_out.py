"""Chooses settings on all cameras but one, and scores them on the camera that was left out.

This file owns the grid of settings, the rule that chooses one of them, and the tables. `run` runs maskd with each of
them. Figures of settings that were chosen on the same cameras are too good. The figures that this file computes are
not, because no camera takes part in the choice of its own settings.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from scoring import TITLES, DataSet, Found, score
from side_by_side import Failure
from tables import header, row

Settings = tuple[tuple[str, str], ...]
"""The keys of the config, such as `detect.threshold`, with their values."""


@dataclass(frozen=True)
class Tally:
    """What settings achieve on one camera."""

    faces: int
    right: dict[str, int]
    """The number of right verdicts by label."""
    additional: int
    """The number of boxes besides the labeled face."""

    @property
    def worth(self) -> float:
        """The share of right verdicts. Each additional box counts as much as a wrong verdict."""
        return (sum(self.right.values()) - self.additional) / self.faces


Tallies = dict[str, Tally]
"""The tallies by camera."""


def grid(axes: list[str]) -> list[Settings]:
    """Returns all combinations of `KEY=VALUE,VALUE,…`. Several keys with the same values are joined by `+`."""
    choices = []
    for axis in axes:
        keys, _, values = axis.partition("=")
        if not values or not all("." in key for key in keys.split("+")):
            raise Failure(f"`{axis}` is not a setting with its values, such as detect.threshold=0.75,0.7.")
        choices.append([tuple((key, value) for key in keys.split("+")) for value in values.split(",")])
    return [tuple(itertools.chain(*each)) for each in itertools.product(*choices)]


def config(settings: Settings) -> str:
    """Returns the settings as a config file."""
    sections: dict[str, list[str]] = {}
    for key, value in settings:
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{name} = {value}")
    return "".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())


def tallies(data: DataSet, found: Found) -> Tallies:
    counts = score(data, found).cameras
    additional = Counter[str]()
    for picture in data.pictures:
        additional[picture.camera] += max(0, len(found[picture.path] or []) - 1)
    return {
        camera: Tally(
            sum(each.faces for (of, _), each in counts.items() if of == camera),
            {label: each.right for (of, label), each in counts.items() if of == camera},
            additional[camera],
        )
        for camera in sorted({camera for camera, _ in counts})
    }


def choose(results: dict[Settings, Tallies], cameras: list[str]) -> Settings:
    """Returns the settings with the best mean worth over these cameras. Of equal settings, the first is chosen."""

    def worth(settings: Settings) -> float:
        return round(sum(results[settings][camera].worth for camera in cameras) / len(cameras), 9)

    return max(results, key=worth)


def text(data: DataSet, results: dict[Settings, Tallies]) -> str:
    """Returns the tables: all settings on all cameras, and each camera with the settings chosen on the others."""
    cameras = sorted(next(iter(results.values())))
    labels = data.labels
    columns = [*[f"{TITLES[label]}: right" for label in labels], "additional boxes"]

    def cells(of: list[Tally]) -> list[str]:
        right = [sum(tally.right.get(label, 0) for tally in of) for label in labels]
        return [*map(str, right), str(sum(tally.additional for tally in of))]

    lines = header(["settings", *columns, "mean worth"])
    for settings, tally in results.items():
        mean = sum(each.worth for each in tally.values()) / len(tally)
        lines.append(row([named(settings), *cells(list(tally.values())), f"{mean:.4f}"]))
    lines += ["", *header(["left out", "chosen on the others", *columns])]
    held_out = []
    for camera in cameras:
        chosen = choose(results, [each for each in cameras if each != camera])
        held_out.append(results[chosen][camera])
        lines.append(row([f"`{camera}`", named(chosen), *cells(held_out[-1:])]))
    lines.append(row(["sum", "", *cells(held_out)]))
    everywhere = choose(results, cameras)
    lines.append(row(["none", named(everywhere), *cells(list(results[everywhere].values()))]))
    return "\n".join(lines)


def named(settings: Settings) -> str:
    return ", ".join(f"{key.partition('.')[2]} {value}" for key, value in settings)
