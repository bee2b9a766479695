// The state of the door in the live view. The page only shows it: nothing here unlocks a door.

import { fill, h } from "./dom.js";
import { known, t } from "./texts.js";

/** Makes the element in which `showDoor` shows the door. */
export const doorElement = () => h("p", { class: "door", role: "status", "aria-label": t("door"), hidden: true });

/** Shows a door, or nothing if there is none or its state is not known. */
export function showDoor(element, door) {
  element.hidden = !door;
  const text = door ? t("door.state", { state: describe(door) }) : "";
  // Screen readers announce every assignment, so assign only changes.
  if (element.textContent !== text) fill(element, text);
  element.classList.toggle("held-open", door?.held_open === true);
}

function describe({ unlocked_by: reason, position, held_open: isHeldOpen }) {
  const lock = reason ? known(`door.unlocked.${reason}`, t("door.unlocked")) : t("door.locked");
  if (isHeldOpen) return t("door.heldOpen", { lock });
  return position ? t("door.lockAndPosition", { lock, position: t(`door.${position}`) }) : lock;
}
