"""Fine-tunes the face detector on faces with masks and on poor pictures.

    python train.py --photographs crowd --faces faces/train --output ../export/yunet/finetuned.npz

It starts from the published weights, and needs less than an hour on two cores. Everything is drawn from --seed, but
other processors and other versions of the packages round differently, so the weights are not the same to the bit.
README.md in this folder explains what is trained and how the result was measured.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from pathlib import Path

import numpy as np
import torch
from labels import Picture, face_pictures, is_held_out, photographs
from network import YuNet, decode, priors
from torch import Tensor, multiprocessing
from torch.nn import functional
from views import SIDE, View, Views

PUBLISHED = Path(__file__).resolve().parents[1] / "export" / "yunet" / "weights.npz"
BATCH = 16
# The weights of the losses, as in YuNet's own training, except for the landmarks, whose labels come from the published
# detector and are rough under a mask.
BOX_WEIGHT = 5.0
LANDMARK_WEIGHT = 1.0
# Pulls the weights toward the published ones, which have seen far more faces.
ANCHOR_WEIGHT = 1e-3


def _pair_overlaps(a: Tensor, b: Tensor) -> Tensor:
    size = (torch.min(a[:, None, 2:], b[None, :, 2:]) - torch.max(a[:, None, :2], b[None, :, :2])).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    return shared / (_areas(a)[:, None] + _areas(b)[None] - shared + 1e-7)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _box_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """EIoU (Y. Zhang et al., "Focal and Efficient IOU Loss for Accurate Bounding Box Regression", 2021)."""
    size = (torch.min(found[:, 2:], wanted[:, 2:]) - torch.max(found[:, :2], wanted[:, :2])).clamp(min=0)
    shared = size[:, 0] * size[:, 1]
    overlap = shared / (_areas(found) + _areas(wanted) - shared + 1e-7)
    hull = torch.max(found[:, 2:], wanted[:, 2:]) - torch.min(found[:, :2], wanted[:, :2])
    centers = (found[:, :2] + found[:, 2:] - wanted[:, :2] - wanted[:, 2:]) / 2
    sides = (found[:, 2:] - found[:, :2]) - (wanted[:, 2:] - wanted[:, :2])
    distance = (centers**2).sum(1) / ((hull**2).sum(1) + 1e-7)
    return 1 - overlap + distance + (sides**2 / (hull**2 + 1e-7)).sum(1)


@torch.no_grad()
def _assign(boxes: Tensor, scores: Tensor, prior: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the face of each prior, or -1, and the overlap of its box with this face.

    This is SimOTA (Z. Ge et al., "YOLOX: Exceeding YOLO Series in 2021"): each face gets the priors with the least
    cost near its center, as many as the sum of the best ten overlaps.
    """
    corner = prior[:, :2]
    inside = ((corner[:, None] > faces[None, :, :2]) & (corner[:, None] < faces[None, :, 2:])).all(-1)
    center = (faces[:, :2] + faces[:, 2:]) / 2
    near = ((corner[:, None] - center[None]).abs() < 2.5 * prior[:, None, 2:3]).all(-1)
    candidates = (inside | near).any(1).nonzero()[:, 0]
    overlap = _pair_overlaps(boxes[candidates], faces)
    cost = -torch.log(scores[candidates].clamp(1e-6, 1 - 1e-6))[:, None] - 3 * torch.log(overlap + 1e-8)
    cost = cost + 1e5 * (~(inside[candidates] & near[candidates])).float()
    chosen = torch.zeros_like(cost, dtype=torch.bool)
    counts = torch.topk(overlap, min(10, len(candidates)), dim=0)[0].sum(0).int().clamp(min=1)
    for face, count in enumerate(counts.tolist()):
        chosen[torch.topk(cost[:, face], min(count, len(candidates)), largest=False)[1], face] = True
    contested = chosen.sum(1) > 1
    if contested.any():
        best = cost[contested].argmin(1)
        chosen[contested] = False
        chosen[contested.nonzero()[:, 0], best] = True
    face_of = torch.full((len(prior),), -1, dtype=torch.long)
    overlap_of = torch.zeros(len(prior))
    taken = chosen.any(1)
    face = chosen[taken].float().argmax(1)
    face_of[candidates[taken]] = face
    overlap_of[candidates[taken]] = overlap[taken, face]
    return face_of, overlap_of


def _loss(outputs: Tensor, views: list[View], prior: Tensor) -> Tensor:
    """The loss of a batch, divided by the number of priors that belong to faces."""
    boxes, scores, landmarks = decode(outputs, prior)
    total = outputs.new_zeros(())
    positives = 0
    for index, view in enumerate(views):
        counts = torch.ones(len(prior))
        is_face = torch.zeros(len(prior))
        if view.open_boxes:
            left_open = torch.from_numpy(np.stack(view.open_boxes))
            middle = prior[:, :2] + prior[:, 2:] / 2
            covered = ((middle[:, None] > left_open[None, :, :2]) & (middle[:, None] < left_open[None, :, 2:])).all(-1)
            counts[covered.any(1) | (_pair_overlaps(boxes[index].detach(), left_open) > 0.5).any(1)] = 0
        if view.faces:
            faces = torch.from_numpy(np.stack([face.box for face in view.faces]))
            face_of, overlap = _assign(boxes[index].detach(), scores[index].detach(), prior, faces)
            taken = face_of >= 0
            positives += int(taken.sum())
            is_face[taken] = 1
            counts[taken] = 1
            classes = outputs[index, taken, 0]
            total = total + functional.binary_cross_entropy_with_logits(classes, overlap[taken], reduction="sum")
            total = total + BOX_WEIGHT * _box_loss(boxes[index, taken], faces[face_of[taken]]).sum()
            total = total + LANDMARK_WEIGHT * _landmark_loss(landmarks[index, taken], view, face_of[taken], prior[taken])
        objects = functional.binary_cross_entropy_with_logits(outputs[index, :, 1], is_face, reduction="none")
        total = total + (objects * counts).sum()
    return total / max(positives, 1)


def _landmark_loss(found: Tensor, view: View, face_of: Tensor, prior: Tensor) -> Tensor:
    unknown = np.full((5, 2), np.nan, np.float32)
    rows = [unknown if face.landmarks is None else face.landmarks for face in view.faces]
    wanted = torch.from_numpy(np.stack(rows))[face_of]
    known = ~torch.isnan(wanted).any(-1).any(-1)
    stride = prior[known][:, 2].reshape(-1, 1, 1)
    return functional.smooth_l1_loss(found[known] / stride, wanted[known] / stride, reduction="sum", beta=0.11) / 10


def _load(queue: multiprocessing.Queue, sources: tuple[list[Picture], list[Picture]], seed: int) -> None:
    torch.set_num_threads(1)
    views = Views(*sources, seed=seed)
    while True:
        queue.put([views.draw() for _ in range(BATCH)])


def train(sources: tuple[list[Picture], list[Picture]], steps: int, rate: float, seed: int) -> YuNet:
    """Returns the network with the moving average of its weights."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    # One process makes the views, so that their order does not depend on the load.
    queue: multiprocessing.Queue = multiprocessing.Queue(12)
    multiprocessing.Process(target=_load, args=(queue, sources, seed), daemon=True).start()
    network = YuNet(PUBLISHED).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    published = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0)
    prior = priors(SIDE, SIDE)
    for step in range(steps):
        decayed = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * decayed
        views = queue.get()
        images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
        loss = _loss(network(images.float().contiguous(memory_format=torch.channels_last)), views, prior)
        pairs = zip(network.parameters(), published, strict=True)
        moved = sum(((now - then) ** 2).sum() for now, then in pairs)
        optimizer.zero_grad()
        (loss + ANCHOR_WEIGHT * moved).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        keep = min(0.999, (step + 1) / (step + 20))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tunes the face detector.")
    parser.add_argument("--photographs", type=Path, required=True, help="photographs with a Pascal VOC .xml beside each")
    parser.add_argument("--faces", type=Path, required=True, help="face pictures in folders by label")
    parser.add_argument("--output", type=Path, required=True, help="write the weights to this file (.npz)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate after the warm-up")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    published = YuNet(PUBLISHED).eval()
    scenes = [picture for picture in photographs(published, options.photographs) if not is_held_out(picture.path)]
    faces = face_pictures(published, options.faces)
    if not scenes or not faces:
        sys.exit("train: there are no pictures to train with; check --photographs and --faces")
    print(f"{len(scenes)} photographs and {len(faces)} face pictures", file=sys.stderr)
    train((scenes, faces), options.steps, options.rate, options.seed).save(options.output)


if __name__ == "__main__":
    main()
