"""The tables of the comparison, in Markdown.

This file owns how figures are shown, and how a document gets them. `scoring.py` computes them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from quality import COVERAGES, MEASURES, SIDES, Judged, person, risk, separation, span
from scoring import MASKED, TITLES, TRUTHS, Counts, DataSet, Scores, difference, share_interval
from side_by_side import Failure


@dataclass(frozen=True)
class Side:
    title: str
    scores: dict[str, Scores]
    """The scores by data set."""


def percent(part: int, all_: int) -> str:
    return f"{100 * part / max(1, all_):.1f}%"


def cell(counts: Counts) -> str:
    return f"{counts.right} ({percent(counts.right, counts.faces)}) | {counts.found}"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def header(cells: list[str]) -> list[str]:
    return [row(cells), row(["---"] * len(cells))]


def table(sides: list[Side], sets: list[DataSet]) -> list[str]:
    """Returns a row for each data set and label."""
    columns = ["pictures", "label", "faces"]
    for side in sides:
        columns += [f"{side.title}: right", "found"]
    lines = header(columns)
    for data in sets:
        for label in data.labels:
            each = [side.scores[data.name].labels[label] for side in sides]
            lines.append(row([data.title, TITLES[label], str(each[0].faces), *map(cell, each)]))
    return lines


def interval_table(sides: list[Side], data: DataSet) -> list[str]:
    """Returns the intervals over cameras, and the differences to the first side."""
    lines = header(["label", *[f"{side.title}: right, 90% interval" for side in sides]])
    groups = [(TITLES[label], [label]) for label in data.labels] + [("all", data.labels)]
    for title, labels in groups:
        cells = [title]
        for side in sides:
            scores = side.scores[data.name]
            counts = [scores.labels[label] for label in labels]
            right, faces = sum(each.right for each in counts), sum(each.faces for each in counts)
            cells.append(f"{percent(right, faces)}{between(share_interval(scores, labels))}")
        lines.append(row(cells))
    return lines


def between(ends: tuple[float, float] | None) -> str:
    return f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""


def differences(sides: list[Side], data: DataSet) -> list[str]:
    ours, *others = sides
    told = []
    for other in others:
        figure, ends = difference(ours.scores[data.name], other.scores[data.name], data.labels)
        told.append(f"{100 * figure:+.1f} points compared with {other.title}{between(ends)}")
    if not told:
        return []
    return [
        f"Difference in the share of pictures classified correctly by {ours.title}, over all labels: {', '.join(told)}."
    ]


def camera_table(sides: list[Side], sets: list[DataSet]) -> list[str]:
    """Returns a row for each camera and label."""
    lines = header(["camera", "label", "pictures", *[f"{side.title}: right" for side in sides]])
    for data in sets:
        for camera, label in sorted(sides[0].scores[data.name].cameras):
            each = [side.scores[data.name].cameras[camera, label] for side in sides]
            lines.append(
                row([f"`{camera}`", f"`{label}`", str(each[0].faces), *[str(counts.right) for counts in each]])
            )
    return lines


def false_table(sides: list[Side], sets: list[DataSet]) -> list[str]:
    """Returns the detections for each picture that match no box, or all detections if there are no boxes."""
    lines = header(["pictures", "count", "counted", *[f"{side.title}, for each picture" for side in sides]])
    for data in sets:
        cells = [data.title, str(len(data.pictures)), "false detections" if data.has_boxes else "all detections"]
        for side in sides:
            scores = side.scores[data.name]
            finds = scores.false_detections if data.has_boxes else scores.detections
            cells.append(f"{finds / max(1, scores.pictures):.3f}")
        lines.append(row(cells))
    return lines


def full_text(sides: list[Side], sets: list[DataSet]) -> str:
    parts = [table(sides, sets)]
    with_cameras = [data for data in sets if any(picture.camera for picture in data.pictures)]
    for data in with_cameras:
        cameras = len({picture.camera for picture in data.pictures})
        title = f"{data.title[0].upper()}{data.title[1:]}"
        intro = f"{title}, {len(data.pictures)} pictures from {cameras} cameras. The intervals are over cameras:"
        parts += [[intro], interval_table(sides, data), differences(sides, data)]
    if with_cameras:
        parts += [["By camera:"], camera_table(sides, with_cameras)]
    parts += [["Detections:"], false_table(sides, sets)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def short_text(sides: list[Side], sets: list[DataSet]) -> str:
    """Returns the shares of right faces alone."""
    columns = ["pictures", "label", "faces", *[side.title for side in sides]]
    lines = header(columns)
    for data in sets:
        for label in data.labels:
            each = [side.scores[data.name].labels[label] for side in sides]
            shares = [percent(counts.right, counts.faces) for counts in each]
            lines.append(row([data.title, TITLES[label], str(each[0].faces), *shares]))
    return "\n".join(lines)


# --- Further measurements


def view_table(sides: list[Side], sets: list[DataSet]) -> list[str]:
    """Returns a row for each data set, over all labels, with intervals over cameras."""
    ours, *others = sides
    columns = [f"{side.title}: right, 90% interval" for side in sides]
    lines = header(["pictures", *columns, *[f"{ours.title} minus {other.title}, points" for other in others]])
    for data in sets:
        cells = [data.title, *[share(side.scores[data.name], data.labels) for side in sides]]
        for other in others:
            figure, ends = difference(ours.scores[data.name], other.scores[data.name], data.labels)
            cells.append(f"{100 * figure:+.1f}{between(ends)}")
        lines.append(row(cells))
    return lines


def share(scores: Scores, labels: list[str]) -> str:
    counts = [scores.labels[label] for label in labels]
    right, faces = sum(each.right for each in counts), sum(each.faces for each in counts)
    ends = share_interval(scores, labels)
    told = f", {100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
    return f"{right} ({percent(right, faces)}{told})"


def light_table(sides: list[Side], groups: list[DataSet]) -> list[str]:
    """Returns a row for each group by brightness and truth, with what the pictures have in common."""
    columns = ["brightness of the forehead", "label", "pictures", "people", "cameras", "most are from"]
    lines = header([*columns, *[f"{side.title}: right" for side in sides]])
    for data in groups:
        for masked in (True, False):
            labels = [label for label in data.labels if (TRUTHS[label] == MASKED) == masked]
            pictures = [each for each in data.pictures if each.faces[0][0] in labels]
            if not pictures:
                continue
            cameras = [each.camera for each in pictures]
            most = max(sorted(set(cameras)), key=cameras.count)
            people = len({person(each) for each in pictures})
            cells = [data.title, "masked" if masked else "not masked", str(len(pictures)), str(people)]
            cells += [str(len(set(cameras))), f"`{most}` ({cameras.count(most)})"]
            cells += [share(side.scores[data.name], labels) for side in sides]
            lines.append(row(cells))
    return lines


def answered_text(what: str, faces: list[Judged]) -> str:
    answered = sum(face.answered for face in faces)
    wrong = sum(face.answered_wrong for face in faces)
    without = sum(face.wrong for face in faces)
    return (
        f"{what}: {len(faces)} labeled faces are found. The verdict on {answered} of them "
        f"({percent(answered, len(faces))}) is not `unsure`, and {wrong} of these verdicts "
        f"({percent(wrong, answered)}) are wrong. Without `unsure`, {without} of {len(faces)} would be wrong:"
    )


def wrong_by_group(faces: list[Judged]) -> str:
    counts = Counter(sorted(face.group for face in faces if face.wrong))
    return ", ".join(f"`{group}` {count}" for group, count in counts.most_common())


def confident_text(faces: list[Judged]) -> str:
    """Says which labels the wrong verdicts at the smallest coverage have."""
    order = sorted(faces, key=lambda face: face.measures["confidence"], reverse=True)
    kept = order[: round(COVERAGES[-1] * len(faces))]
    counts = Counter(face.label for face in kept if face.wrong)
    told = ", ".join(f"{count} {TITLES[label]}" for label, count in counts.most_common())
    return f"Wrong verdicts among the {COVERAGES[-1]:.0%} with the most confidence, by label: {told or 'none'}."


def risks(faces: list[Judged], measure: str) -> list[str]:
    return [f"{100 * risk(faces, measure, coverage):.1f}%" for coverage in COVERAGES]


def at_coverages() -> list[str]:
    return [f"wrong at {coverage:.0%}" for coverage in COVERAGES]


def risk_table(faces: list[Judged], group: str, with_interval: bool) -> list[str]:
    """Returns a row for each measure by which faces are kept. `group` names what they have in common."""
    auroc = "AUROC, 90% interval" if with_interval else "AUROC"
    lines = header(["faces with the largest ... are kept", auroc, f"AUROC within a {group}", *at_coverages()])
    for measure, title in MEASURES.items():
        told = separation(faces, measure, with_interval)
        ends = f" ({told.ends[0]:.2f} to {told.ends[1]:.2f})" if told.ends else ""
        lines.append(row([title, f"{told.all:.2f}{ends}", f"{told.within:.2f}", *risks(faces, measure)]))
    return lines


def size_table(faces: list[Judged]) -> list[str]:
    """Returns a row for each group of faces by their shorter side, kept by the confidence of the classifier."""
    columns = ["shorter side, pixels", "found faces", "not `unsure`", "wrong of these"]
    lines = header([*columns, *at_coverages()])
    for begin, end in zip(SIDES, [*SIDES[1:], float("inf")], strict=True):
        group = [face for face in faces if begin <= face.side < end]
        answered, wrong = sum(face.answered for face in group), sum(face.answered_wrong for face in group)
        cells = [span(begin, end, float("inf")), str(len(group)), str(answered)]
        lines.append(row([*cells, f"{wrong} ({percent(wrong, answered)})", *risks(group, "confidence")]))
    return lines


def markers(name: str, options: str) -> tuple[str, str]:
    """Returns the lines between which a table stands in a document. `options` of `run` make it."""
    return f"<!-- {name}: begin, made by benches/accuracy/run {options} -->", f"<!-- {name}: end -->"


def write_between(path: Path, ends: tuple[str, str], text: str) -> None:
    """Replaces the text between the markers in a file."""
    content = path.read_text()
    before, begin, rest = content.partition(ends[0])
    _, end, after = rest.partition(ends[1])
    if not begin or not end:
        raise Failure(f"{path.name} has no markers {ends[0]} and {ends[1]}.")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
