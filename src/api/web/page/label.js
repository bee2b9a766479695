// The queue of crops that wait for a label: one tap or one key for each.

import { api, pictureOf } from "./api.js";
import { count, fill, h, percent, toast, words } from "./dom.js";

const UNDOS = 20;
/** Discarded crops are deleted for good after this long. */
const GRACE = 6000;

class LabelQueue extends HTMLElement {
  connectedCallback() {
    this.groups = [];
    this.done = [];
    this.labels = [];
    this.key = (event) => this.press(event);
    document.addEventListener("keydown", this.key);
    this.flush = () => this.deleteNow(true);
    window.addEventListener("pagehide", this.flush);
    this.load();
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.key);
    window.removeEventListener("pagehide", this.flush);
    this.deleteNow(true);
  }

  async load() {
    try {
      const [queue, status] = await Promise.all([api.queue(), api.status()]);
      this.total = queue.waiting - queue.without_picture;
      this.featureOnly = queue.without_picture;
      this.groups = queue.groups.map((group) => ({ ...group, left: new Set() }));
      const known = status.live.labels;
      const more = Object.keys(status.samples).filter((label) => label !== "unlabelled" && !known.includes(label));
      this.labels = [...known, ...more, ...this.labels.filter((label) => !known.includes(label) && !more.includes(label))];
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
    const badge = document.getElementById("waiting");
    badge.hidden = this.total === 0;
    badge.textContent = this.total;
    if (!this.group) return this.renderEmpty();
    const { samples, left, usefulness } = this.group;
    const [first] = samples;
    const said = Object.entries(first.probabilities).sort((a, b) => b[1] - a[1])[0];
    fill(this, 
      h("h2", {}, samples.length === 1 ? "What is this?" : `What are these ${samples.length}?`),
      h(
        "p",
        { class: "hint" },
        said ? `The head says ${words(said[0])}, ${percent(said[1], 0)}. ` : "The head has not seen it yet. ",
        `${usefulness > 0.5 ? "A label teaches much. " : ""}${count(this.total, "crop")} waiting.`,
      ),
      h("div", { class: samples.length === 1 ? "crops one" : "crops" }, samples.map((sample, at) => this.crop(sample, at, left, samples.length))),
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
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "d", onclick: () => this.discard() }, h("kbd", {}, "D"), " discard"),
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "s", onclick: () => this.skip() }, h("kbd", {}, "S"), " skip"),
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "u", disabled: this.done.length === 0, onclick: () => this.undo() }, h("kbd", {}, "U"), " undo"),
        this.another(),
      ),
    );
  }

  crop(sample, at, left, of) {
    const image = h("img", { src: pictureOf(sample.id), alt: `Crop ${at + 1} of ${of}, ${sample.day}`, width: 224, height: 224 });
    if (of === 1) return image;
    // Near-copies are labelled together, but for those that are left out by a tap.
    return h(
      "button",
      {
        type: "button",
        class: "crop",
        "aria-pressed": String(!left.has(sample.id)),
        "aria-label": `Crop ${at + 1} of ${of}: labelled with the others`,
        onclick: (event) => {
          if (!left.delete(sample.id)) left.add(sample.id);
          event.currentTarget.setAttribute("aria-pressed", String(!left.has(sample.id)));
        },
      },
      image,
    );
  }

  another() {
    const input = h("input", { type: "text", name: "label", placeholder: "another label", "aria-label": "Another label", maxlength: 64, required: true, size: 14 });
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
      h("button", { class: "quiet" }, "use"),
    );
  }

  renderEmpty() {
    fill(this, 
      h("h2", {}, "Nothing waits for a label"),
      h("p", {}, this.capturing ? "Crops of which the head is unsure come here by themselves." : "Crops are not kept: turn capture on in the settings to get some."),
      this.featureOnly > 0 && h("p", { class: "hint" }, `${count(this.featureOnly, "sample")} without a picture cannot be shown.`),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", onclick: () => this.load() }, "Look again"),
        h("button", { type: "button", class: "quiet", "aria-keyshortcuts": "u", disabled: this.done.length === 0, onclick: () => this.undo() }, h("kbd", {}, "U"), " undo"),
        h("a", { class: "button quiet", href: "#learning" }, "To learning"),
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

  /** Takes the chosen crops of the first group out of the queue. */
  take() {
    const group = this.groups.shift();
    const taken = group.samples.filter((sample) => !group.left.has(sample.id));
    const rest = group.samples.filter((sample) => group.left.has(sample.id));
    if (taken.length === 0) {
      this.groups.unshift({ ...group, left: new Set() });
      toast("All crops of this group are left out.");
      return null;
    }
    if (rest.length > 0) this.groups.unshift({ ...group, samples: rest, left: new Set() });
    this.total -= taken.length;
    return { ...group, samples: taken, left: new Set() };
  }

  /** Puts a group back in front. */
  giveBack(group) {
    this.total += group.samples.length;
    this.groups.unshift(group);
    this.render();
  }

  remember(step) {
    this.done.push(step);
    if (this.done.length > UNDOS) this.done.shift();
  }

  async label(label) {
    if (!this.group) return;
    this.deleteNow();
    const group = this.take();
    if (!group) return this.render();
    const ids = group.samples.map((sample) => sample.id);
    const step = { group, undo: () => api.mark(ids, "unlabelled") };
    this.remember(step);
    this.next();
    try {
      const marked = await api.mark(ids, { as: label });
      const failed = Object.values(marked.failed);
      toast(failed.length > 0 ? `${count(failed.length, "crop")} not labelled: ${failed[0]}` : `${words(label)}: ${count(ids.length, "crop")}`, {
        name: "Undo",
        run: () => this.undo(),
      });
    } catch (problem) {
      this.done = this.done.filter((other) => other !== step);
      toast(problem.message);
      this.giveBack(group);
    }
  }

  discard() {
    this.deleteNow();
    const group = this.take();
    if (!group) return this.render();
    const ids = group.samples.map((sample) => sample.id);
    const step = {
      group,
      undo: async () => {
        if (this.pending !== step) throw new Error("They are deleted: this cannot be undone.");
        clearTimeout(step.timer);
        this.pending = null;
      },
      ids,
    };
    step.timer = setTimeout(() => this.deleteNow(), GRACE);
    this.pending = step;
    this.remember(step);
    this.next();
    toast(`${count(ids.length, "crop")} discarded`, { name: "Undo", run: () => this.undo() });
  }

  /** Deletes what was discarded before, which can't be undone then. */
  deleteNow(leaving = false) {
    const step = this.pending;
    if (!step) return;
    clearTimeout(step.timer);
    this.pending = null;
    this.done = this.done.filter((other) => other !== step);
    api.mark(step.ids, "discard", leaving ? { keepalive: true } : {}).catch((problem) => toast(problem.message));
  }

  skip() {
    this.groups.push(this.groups.shift());
    this.render();
  }

  async undo() {
    const step = this.done.pop();
    if (!step) return;
    try {
      await step.undo();
      this.giveBack(step.group);
      toast("Taken back.");
    } catch (problem) {
      toast(problem.message);
    }
  }

  next() {
    this.render();
    if (!this.group && this.total > 0) this.load();
  }
}

customElements.define("label-queue", LabelQueue);
