// Changes labels from any view. Every change can be undone, and every view hears of it.

import { api } from "./api.js";
import { device, h, toast } from "./dom.js";
import { rich, t, words } from "./texts.js";

/** The event that tells every view that labels have changed on the device. */
export const CHANGED = "samples-changed";

export const announce = () => window.dispatchEvent(new Event(CHANGED));

/** Turns what a person typed into a label, as the command line and the folders have it. */
export const labelName = (text) => text.trim().replaceAll(" ", "_");

/** Creates the field for a new label. It takes over the text of the field that it replaces. */
export const newLabelField = (id, before, attributes = {}) =>
  h("input", { type: "text", id, value: before?.value ?? "", placeholder: t("mark.newLabel"), title: t("mark.newLabelHint"), "aria-label": t("mark.newLabelName"), maxlength: 64, required: true, ...attributes });

/** Returns the labels that a person can choose: those of the model, and others in use. */
export function labelsOf(status) {
  const known = status.live.labels;
  return [...known, ...Object.keys(status.samples).filter((label) => label !== "unlabelled" && !known.includes(label))];
}

function success(mark, number) {
  if (mark === "discard") return t("mark.discarded", { number });
  if (mark === "unlabelled") return t("mark.cleared", { number });
  return t("mark.labeled", { number, label: words(mark.as) });
}

/**
 * Labels or discards samples, says what happened, and offers to undo it. Returns whether the
 * device accepted the request.
 */
export async function markSamples(ids, mark) {
  let result;
  try {
    result = await api.mark(ids, mark);
  } catch (problem) {
    toast(problem.shown);
    return false;
  }
  const reasons = Object.values(result.failed);
  const undo = result.action === undefined ? undefined : { name: t("mark.undo"), run: () => undoAction(result.action) };
  toast(reasons.length > 0 ? rich("mark.notChanged", { number: reasons.length, reason: device(reasons[0]) }) : success(mark, ids.length), undo);
  announce();
  return true;
}

/** Returns why something was not undone. */
export function reasonOf(failed) {
  const [reason] = Object.values(failed);
  return reason === undefined ? t("mark.changedSince") : device(reason);
}

async function undoAction(action) {
  try {
    const { changed, failed } = await api.undo(action);
    const left = changed.length + Object.keys(failed).length;
    toast(left === 0 ? t("mark.undone") : rich("mark.notUndone", { number: left, reason: reasonOf(failed) }));
  } catch (problem) {
    toast(problem.shown);
  }
  announce();
}

/** Brings discarded samples back, and says what happened. */
export async function restoreSamples(ids) {
  try {
    const { done, failed } = await api.restore(ids);
    const reasons = Object.values(failed);
    toast(reasons.length > 0 ? rich("mark.notRestored", { number: reasons.length, reason: device(reasons[0]) }) : t("mark.restored", { number: done.length }));
  } catch (problem) {
    toast(problem.shown);
  }
  announce();
}
