// The number of face pictures that wait for a label, which every view shows in the navigation.

import { api } from "./api.js";
import { whileVisible } from "./dom.js";
import { CHANGED } from "./marking.js";
import { number as written, t } from "./texts.js";

/** The event that tells how many face pictures wait on the device. */
export const WAITING = "waiting";

const INTERVAL = 5000;

/** Increases with each number that is shown, so that an older answer does not replace it. */
let shown = 0;

/** Shows a number of waiting face pictures. */
export function showWaiting(number) {
  shown += 1;
  const badge = document.getElementById("unlabelled-count");
  badge.hidden = number === 0;
  badge.textContent = written(number);
  badge.setAttribute("aria-label", t("nav.waiting", { number }));
}

async function look() {
  const before = shown;
  let stats;
  try {
    stats = await api.stats();
  } catch {
    // The view itself says that the device does not respond.
    return;
  }
  if (shown !== before) return;
  const { samples = 0, feature_only: without = 0 } = stats.unlabelled ?? {};
  showWaiting(samples - without);
  window.dispatchEvent(new CustomEvent(WAITING, { detail: samples - without }));
}

/** Keeps the number up to date. Returns a function that ends this. */
export function watchWaiting() {
  const end = whileVisible(look, INTERVAL);
  window.addEventListener(CHANGED, look);
  return () => {
    end();
    window.removeEventListener(CHANGED, look);
  };
}
