// Changes labels from any view. Every change can be undone, and every view hears of it.

import { api } from "./api.js";
import { count, h, toast, words } from "./dom.js";

/** The event that tells every view that labels have changed on the device. */
export const CHANGED = "samples-changed";

export const announce = () => window.dispatchEvent(new Event(CHANGED));

/** Turns what a person typed into a label, as the command line and the folders have it. */
export const labelName = (text) => text.trim().replaceAll(" ", "_");

/** Creates the field for a new label. It takes over the text of the field that it replaces. */
export const newLabelField = (id, before, attributes = {}) =>
  h("input", { type: "text", id, value: before?.value ?? "", placeholder: "new label", title: "Faces with a new label count as not masked, unless classify.masked-labels in the config names it", "aria-label": "New label", maxlength: 64, required: true, ...attributes });

/** Returns the labels that a person can choose: those of the model, and others in use. */
export function labelsOf(status) {
  const known = status.live.labels;
  return [...known, ...Object.keys(status.samples).filter((label) => label !== "unlabelled" && !known.includes(label))];
}

function success(mark, number) {
  if (mark === "discard") return `${count(number, "face picture")} discarded.`;
  if (mark === "unlabelled") return `${count(number, "face picture")} without a label now.`;
  return `${count(number, "face picture")} labeled ${words(mark.as)}.`;
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
    toast(problem.message);
    return false;
  }
  const reasons = Object.values(result.failed);
  const undo = result.action === undefined ? undefined : { name: "Undo", run: () => undoAction(result.action) };
  toast(reasons.length > 0 ? `${count(reasons.length, "face picture")} not changed: ${reasons[0]}.` : success(mark, ids.length), undo);
  announce();
  return true;
}

async function undoAction(action) {
  try {
    const { changed, failed } = await api.undo(action);
    const left = changed.length + Object.keys(failed).length;
    toast(left === 0 ? "Undone." : `Not undone for ${count(left, "face picture")}: ${Object.values(failed)[0] ?? "they were changed or deleted since"}.`);
  } catch (problem) {
    toast(problem.message);
  }
  announce();
}

/** Brings discarded samples back, and says what happened. */
export async function restoreSamples(ids) {
  try {
    const { done, failed } = await api.restore(ids);
    const reasons = Object.values(failed);
    toast(reasons.length > 0 ? `${count(reasons.length, "face picture")} not restored: ${reasons[0]}.` : `${count(done.length, "face picture")} restored.`);
  } catch (problem) {
    toast(problem.message);
  }
  announce();
}
