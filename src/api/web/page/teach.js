// Records face pictures of the person in front of the camera while a button is held.

import { api } from "./api.js";
import { count, fill, h, toast, words } from "./dom.js";
import { announce } from "./marking.js";

/** How often the counts are updated, in ms. */
const INTERVAL = 400;

/** A recording ends after this many seconds, because the next face may belong to another person. */
const LONGEST = 120;

/** If the page no longer asks for the counts, the recording ends after this many seconds. */
const LEASE = 3;

const MAX_PICTURES = 1000;

class TeachPanel extends HTMLElement {
  connectedCallback() {
    this.buttons = h("div", { class: "row", role: "group", "aria-label": "Record" });
    this.status = h("p", { role: "status", id: "teach-status" });
    this.enough = h("ul", { class: "hint plain" });
    fill(
      this,
      h("h2", {}, "Teach"),
      h("p", { class: "hint" }, "Stand in front of the camera, and hold a button. While you hold it, the pictures of your face get this label. Only pictures that show something new are kept, so turn your head a little."),
      this.buttons,
      this.status,
      this.enough,
    );
    this.load();
  }

  disconnectedCallback() {
    this.stop();
  }

  async load() {
    try {
      const { live, progress } = await api.status();
      if (!this.isConnected) return;
      const shown = [...this.buttons.children].map((button) => button.dataset.label);
      // Buttons that a person holds must stay.
      if (JSON.stringify(shown) !== JSON.stringify(live.labels)) fill(this.buttons, live.labels.map((label) => this.button(label)));
      fill(this.enough, progress.map((record) => h("li", {}, sufficiency(record))));
    } catch {
      // The live view says that the device does not respond.
    }
  }

  button(label) {
    const start = (event) => {
      event.preventDefault();
      event.currentTarget.focus();
      if (event.pointerId !== undefined) event.currentTarget.setPointerCapture(event.pointerId);
      this.start(label);
    };
    const isKey = (event) => event.key === " " || event.key === "Enter";
    return h(
      "button",
      {
        type: "button",
        class: "teach",
        id: `teach-${label}`,
        "data-label": label,
        onpointerdown: (event) => event.button === 0 && start(event),
        onpointerup: () => this.stop(),
        onpointercancel: () => this.stop(),
        onblur: () => this.stop(),
        onkeydown: (event) => {
          if (!isKey(event)) return;
          event.preventDefault();
          if (!event.repeat) start(event);
        },
        onkeyup: (event) => isKey(event) && this.stop(),
        oncontextmenu: (event) => event.preventDefault(),
      },
      `Hold: ${words(label)}`,
    );
  }

  async start(label) {
    if (this.held) return;
    const held = (this.held = { label });
    this.status.textContent = "Starting…";
    let enrollment;
    try {
      enrollment = await api.enroll({ label, count: MAX_PICTURES, seconds: LONGEST, lease_seconds: LEASE });
      while (held === this.held && enrollment.taken < enrollment.wanted) {
        this.say(enrollment, true);
        await new Promise((resolve) => setTimeout(resolve, INTERVAL));
        enrollment = await api.enrollment(enrollment.id);
      }
      enrollment = await api.endEnrollment(enrollment.id);
      // The last pictures are still being written.
      for (let turn = 0; turn < 20 && enrollment.stored < enrollment.taken; turn += 1) {
        await new Promise((resolve) => setTimeout(resolve, INTERVAL));
        enrollment = await api.enrollment(enrollment.id);
      }
      this.say(enrollment, false);
    } catch (problem) {
      this.status.textContent = "";
      toast(problem.message);
    }
    if (held === this.held) this.held = null;
    announce();
    this.load();
  }

  stop() {
    this.held = null;
  }

  say({ label, taken, stored }, recording) {
    this.status.textContent = recording
      ? `Recording ${words(label)}: ${count(taken, "picture")}`
      : stored === 0
        ? "No picture was recorded: there was no face, or nothing new to see."
        : `Recorded ${words(label)}: ${count(stored, "picture")}`;
  }
}

/** Says whether there are enough people with a label to train. */
function sufficiency({ label, tracks, wanted, only_day: onlyDay }) {
  const people = `${words(label)}: ${count(tracks, "person", "people")} so far`;
  if (tracks < wanted) return `${people}, ${wanted} give a clear result. Not enough yet.`;
  return onlyDay === undefined ? `${people}. Enough.` : `${people}. Enough, but all on one day: record some on another day.`;
}

customElements.define("teach-panel", TeachPanel);
