// Records face pictures of the person in front of the camera while a button is held.

import { api } from "./api.js";
import { fill, h, toast } from "./dom.js";
import { announce } from "./marking.js";
import "./upload.js";
import { library } from "./sample_panel.js";
import { rich, t, words } from "./texts.js";

/** How often the counts are updated, in ms. */
const INTERVAL = 400;

/** A recording ends after this many seconds, because the next face may belong to another person. */
const LONGEST = 120;

/** If the page no longer asks for the counts, the recording ends after this many seconds. */
const LEASE = 3;

const MAX_PICTURES = 1000;

/** The model contradicts the label of a picture if it is at least this sure of another one. */
const SURE = 0.9;

/** The page asks whether a label is right if the model contradicts at least this share of a recording. */
const CONTRADICTED_SHARE = 0.8;

/** Fewer pictures say little. */
const MIN_PICTURES = 5;

/** The most recent pictures of a recording that are compared with the model. */
const COMPARED = 50;

class TeachPanel extends HTMLElement {
  connectedCallback() {
    this.buttons = h("div", { class: "row", role: "group", "aria-label": t("teach.record") });
    this.status = h("p", { role: "status", id: "teach-status" });
    this.question = h("p", { class: "error", role: "alert", id: "teach-question" });
    this.enough = h("ul", { class: "hint plain" });
    /** The labels about which the page has asked. */
    this.asked = new Set();
    fill(
      this,
      h("h2", {}, t("teach.title")),
      this.buttons,
      this.status,
      this.question,
      h("p", { class: "hint" }, t("teach.hint")),
      this.enough,
      h("p", {}, h("a", { href: "#learning" }, t("queue.toTraining"))),
      h("details", {}, h("summary", { id: "upload-open" }, t("upload.title")), h("upload-panel")),
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
      this.known = live.labels;
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
      t("teach.hold", { label: words(label) }),
    );
  }

  async start(label) {
    if (this.held) return;
    const held = (this.held = { label });
    this.status.textContent = t("teach.starting");
    fill(this.question);
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
      await this.compare(enrollment);
    } catch (problem) {
      this.status.textContent = "";
      toast(problem.shown);
    }
    if (held === this.held) this.held = null;
    announce();
    this.load();
  }

  stop() {
    this.held = null;
  }

  /** Asks once whether a label is right that the model contradicts on nearly all pictures of a recording. */
  async compare({ label, stored }) {
    if (stored < MIN_PICTURES || !this.known.includes(label) || this.asked.has(label)) return;
    const { samples } = await api.samples({ label, order: "label", limit: Math.min(stored, COMPARED), predictions: true });
    const others = samples.filter(({ predicted, probability }) => predicted !== undefined && predicted !== label && probability >= SURE);
    if (others.length < CONTRADICTED_SHARE * samples.length) return;
    this.asked.add(label);
    const link = h("a", { href: library({ label }) }, t("teach.check"));
    fill(this.question, rich("teach.contradicted", { other: words(others[0].predicted), number: others.length, total: samples.length, label: words(label) }), " ", link);
  }

  say({ label, taken, stored }, recording) {
    this.status.textContent = recording
      ? t("teach.recording", { label: words(label), number: taken })
      : stored === 0
        ? t("teach.nothing")
        : t("teach.recorded", { label: words(label), number: stored });
  }
}

/** Says whether there are enough people with a label to train. */
function sufficiency({ label, tracks, wanted, only_day: onlyDay }) {
  const key = tracks < wanted ? "teach.notEnough" : onlyDay === undefined ? "teach.enough" : "teach.oneDay";
  const text = t(key, { label: words(label), number: tracks, wanted });
  return text.charAt(0).toUpperCase() + text.slice(1);
}

customElements.define("teach-panel", TeachPanel);
