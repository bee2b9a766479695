// The queue of face pictures to label. Labeling each one takes a single tap or key press.

import { api, pictureOf } from "./api.js";
import { count, fill, h, percent, toast, words } from "./dom.js";

/** Maximum number of steps that can be undone. */
const MAX_UNDO = 20;

class LabelQueue extends HTMLElement {
  connectedCallback() {
    this.groups = [];
    this.done = [];
    this.labels = [];
    this.key = (event) => this.press(event);
    document.addEventListener("keydown", this.key);
    this.load();
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.key);
  }

  async load() {
    try {
      const [queue, status] = await Promise.all([api.queue(), api.status()]);
      this.total = queue.waiting - queue.without_picture;
      this.featureOnly = queue.without_picture;
      this.groups = queue.groups.map((group) => ({ ...group, excluded: new Set() }));
      const known = status.live.labels;
      const others = Object.keys(status.samples).filter((label) => label !== "unlabelled" && !known.includes(label));
      this.labels = [...known, ...others, ...this.labels.filter((label) => !known.includes(label) && !others.includes(label))];
      this.capturing = status.live.capture.on;
      this.render();
    } catch (problem) {
      fill(this, h("p", { class: "error", role: "alert" }, problem.message));
    }
  }

  get group() {
    return this.groups[0];
  }

  render() {
    const badge = document.getElementById("unlabelled-count");
    badge.hidden = this.total === 0;
    badge.textContent = this.total;
    if (!this.group) return this.renderEmpty();
    const { samples, excluded, usefulness } = this.group;
    const [first] = samples;
    const guess = Object.entries(first.probabilities).sort((a, b) => b[1] - a[1])[0];
    fill(this, 
      h("h2", {}, samples.length === 1 ? "What is this?" : `What are these ${samples.length}?`),
      h(
        "p",
        { class: "hint" },
        guess ? `The model says ${words(guess[0])}, ${percent(guess[1], 0)}. ` : "The model has not classified it yet. ",
        `${usefulness > 0.5 ? "This label is especially useful. " : ""}${count(this.total, "face picture")} to label.`,
      ),
      h("div", { class: samples.length === 1 ? "crops one" : "crops" }, samples.map((sample, at) => this.facePicture(sample, at, excluded, samples.length))),
      h(
        "div",
        { class: "labels", role: "group", "aria-label": "Labels" },
        this.labels.map((label, at) =>
          h("button", { type: "button", class: `label ${label}`, "aria-keyshortcuts": at < 9 ? String(at + 1) : null, onclick: () => this.label(label) }, h("kbd", {}, String(at + 1)), ` ${words(label)}`),
        ),
      ),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "d", onclick: () => this.discard() }, h("kbd", {}, "D"), " Discard"),
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "s", onclick: () => this.skip() }, h("kbd", {}, "S"), " Skip"),
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "u", disabled: this.done.length === 0, onclick: () => this.undo() }, h("kbd", {}, "U"), " Undo"),
        this.newLabelForm(),
      ),
    );
  }

  facePicture(sample, at, excluded, total) {
    const image = h("img", { src: pictureOf(sample.id), alt: `Face ${at + 1} of ${total}, ${sample.day}`, width: 224, height: 224 });
    if (total === 1) return image;
    // Near duplicates are labeled together, except for those that the user deselects with a tap.
    return h(
      "button",
      {
        type: "button",
        class: "crop",
        "aria-pressed": String(!excluded.has(sample.id)),
        "aria-label": `Face ${at + 1} of ${total}: label with the others`,
        onclick: (event) => {
          if (!excluded.delete(sample.id)) excluded.add(sample.id);
          event.currentTarget.setAttribute("aria-pressed", String(!excluded.has(sample.id)));
        },
      },
      image,
    );
  }

  newLabelForm() {
    const input = h("input", { type: "text", name: "label", placeholder: "new label", "aria-label": "New label", maxlength: 64, required: true, size: 14 });
    return h(
      "form",
      {
        class: "row",
        onsubmit: (event) => {
          event.preventDefault();
          const name = input.value.trim().replaceAll(" ", "_");
          if (name && !this.labels.includes(name)) this.labels.push(name);
          if (name) this.label(name);
        },
      },
      input,
      h("button", { class: "quiet" }, "Use"),
    );
  }

  renderEmpty() {
    fill(this, 
      h("h2", {}, "Nothing to label"),
      h("p", {}, this.capturing ? "Face pictures that the model is uncertain about appear here." : "Face pictures are not kept. To collect some, turn this on in the settings."),
      this.featureOnly > 0 && h("p", { class: "hint" }, `${count(this.featureOnly, "sample was", "samples were")} stored without a picture and cannot be shown.`),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", onclick: () => this.load() }, "Check again"),
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "u", disabled: this.done.length === 0, onclick: () => this.undo() }, h("kbd", {}, "U"), " Undo"),
        h("a", { class: "button quiet", href: "#learning" }, "Go to training"),
      ),
    );
  }

  press(event) {
    const typing = event.target.matches("input, textarea, select");
    if (typing || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const undo = event.key === "u" || (event.ctrlKey && event.key === "z");
    if (undo) this.undo();
    else if (event.ctrlKey || !this.group) return;
    else if (event.key >= "1" && event.key <= "9" && this.labels[event.key - 1]) this.label(this.labels[event.key - 1]);
    else if (event.key === "d" || event.key === "Delete") this.discard();
    else if (event.key === "s" || event.key === "ArrowRight") this.skip();
    else return;
    event.preventDefault();
  }

  /** Removes the selected face pictures of the first group from the queue. */
  dequeue() {
    const group = this.groups.shift();
    const taken = group.samples.filter((sample) => !group.excluded.has(sample.id));
    const rest = group.samples.filter((sample) => group.excluded.has(sample.id));
    if (taken.length === 0) {
      this.groups.unshift({ ...group, excluded: new Set() });
      toast("No face picture is selected.");
      return null;
    }
    if (rest.length > 0) this.groups.unshift({ ...group, samples: rest, excluded: new Set() });
    this.total -= taken.length;
    return { ...group, samples: taken, excluded: new Set() };
  }

  /** Puts a group back at the front of the queue. */
  requeue(group) {
    this.total += group.samples.length;
    this.groups.unshift(group);
    this.render();
  }

  addUndo(step) {
    this.done.push(step);
    if (this.done.length > MAX_UNDO) this.done.shift();
  }

  label(label) {
    return this.mark({ as: label }, (number) => `${words(label)}: ${count(number, "face picture")}`, "labeled");
  }

  discard() {
    return this.mark("discard", (number) => `${count(number, "face picture")} discarded`, "discarded");
  }

  /** Labels or discards the selected face pictures of the first group. `success` makes a message from their number. */
  async mark(mark, success, verb) {
    if (!this.group) return;
    const group = this.dequeue();
    if (!group) return this.render();
    const ids = group.samples.map((sample) => sample.id);
    const step = { group, sent: api.mark(ids, mark) };
    this.addUndo(step);
    this.next();
    try {
      const { failed } = await step.sent;
      const reasons = Object.values(failed);
      toast(reasons.length > 0 ? `${count(reasons.length, "face picture")} not ${verb}: ${reasons[0]}` : success(ids.length), {
        name: "Undo",
        run: () => this.undo(step),
      });
    } catch (problem) {
      this.forget(step);
      toast(problem.message);
      this.requeue(group);
    }
  }

  skip() {
    this.groups.push(this.groups.shift());
    this.render();
  }

  forget(step) {
    this.done = this.done.filter((other) => other !== step);
  }

  /** Undoes a step on the device, which knows the labels from before. */
  async undo(step = this.done.at(-1)) {
    if (!this.done.includes(step)) return;
    this.forget(step);
    // A failure to send the step is reported where it was sent.
    const sent = await step.sent.catch(() => null);
    if (!sent) return;
    try {
      const { done, failed } = sent.action ? await api.undo(sent.action) : { done: [], failed: {} };
      const samples = step.group.samples.filter((sample) => done.includes(sample.id));
      const left = step.group.samples.length - samples.length;
      const why = Object.values(failed)[0] ?? "they were changed or deleted since";
      toast(left === 0 ? "Undone." : `Not undone for ${count(left, "face picture")}: ${why}`);
      if (samples.length > 0) this.requeue({ ...step.group, samples });
      else this.render();
    } catch (problem) {
      // The device does not have the step any more, or it may succeed later.
      if (problem.status !== 404) this.addUndo(step);
      toast(problem.message);
      this.render();
    }
  }

  async next() {
    this.render();
    if (this.group || this.total === 0) return;
    // Otherwise, the device could send face pictures again that are about to be labeled.
    await Promise.allSettled(this.done.map((step) => step.sent));
    if (!this.group) this.load();
  }
}

customElements.define("label-queue", LabelQueue);
