// The state of the door in the live view. The page only shows it: nothing here unlocks a door.

import { fill, h } from "./dom.js";

const REASONS = {
  mask: "unlocked by a mask",
  "exit-button": "unlocked by the exit button",
  release: "unlocked by the release line",
  fault: "unlocked by a fault",
  schedule: "unlocked at this time",
};

const POSITIONS = { open: "open", closed: "closed", unknown: "its contact cannot be read" };

/** Makes the element in which `showDoor` shows the door. */
export const doorElement = () => h("p", { class: "door", role: "status", "aria-label": "Door", hidden: true });

/** Shows a door, or nothing if there is none or its state is not known. */
export function showDoor(element, door) {
  element.hidden = !door;
  const text = door ? `Door: ${describe(door)}` : "";
  // Screen readers announce every assignment, so assign only changes.
  if (element.textContent !== text) fill(element, text);
  element.classList.toggle("held-open", door?.held_open === true);
}

function describe({ unlocked_by: reason, position, held_open: isHeldOpen }) {
  const lock = reason ? (REASONS[reason] ?? "unlocked") : "locked";
  if (isHeldOpen) return `${lock}, held open. Close it.`;
  return position ? `${lock}, ${POSITIONS[position] ?? position}` : lock;
}
