// The queue of face pictures to label. Labeling each one takes a single tap or key press.

import { api, pictureOf } from "./api.js";
import { device, h, redraw, toast } from "./dom.js";
import { CHANGED, labelName, labelsOf, newLabelField, reasonOf } from "./marking.js";
import { faceSize, quality, strip } from "./sample_panel.js";
import { percent, rich, t, time, words } from "./texts.js";
import { WAITING, showWaiting } from "./waiting.js";

/** Maximum number of steps that can be undone. */
const MAX_UNDO = 20;

/** Number of steps that are shown below the queue. */
const SHOWN_HISTORY = 6;

const NOTHING_SELECTED = t("queue.noneSelected");

/** Returns whether a sample still has no label, or true if the device does not respond. */
async function waits(sample) {
  try {
    const { samples } = await api.samples({ id: sample.id, label: "unlabelled" });
    return samples.some(({ id }) => id === sample.id);
  } catch {
    return true;
  }
}

class LabelQueue extends HTMLElement {
  connectedCallback() {
    this.groups = [];
    this.done = [];
    this.labels = [];
    this.total = 0;
    /** The first face pictures of the groups that the user skipped. */
    this.skipped = new Set();
    /** Increases with each action, so that an answer from before the action is not used. */
    this.actions = 0;
    this.newLabelError = h("p", { class: "error", role: "alert", id: "new-label-error" });
    this.key = (event) => this.press(event);
    document.addEventListener("keydown", this.key);
    this.onWaiting = (event) => this.follow(event.detail);
    window.addEventListener(WAITING, this.onWaiting);
    this.onChanged = () => this.load();
    window.addEventListener(CHANGED, this.onChanged);
    this.load();
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.key);
    window.removeEventListener(WAITING, this.onWaiting);
    window.removeEventListener(CHANGED, this.onChanged);
  }

  /** Loads the queue if something changed on the device, where `number` face pictures wait. */
  async follow(number) {
    const shown = this.group?.samples[0];
    // The number stays the same if as many face pictures were labeled as were added.
    if (number !== this.total || (shown && !(await waits(shown)))) await this.load();
  }

  /** Loads the queue. The group that the user looks at stays where it is, if it still waits. */
  async load() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    // The device could otherwise send face pictures again that are about to be labeled.
    await Promise.allSettled(this.done.map((step) => step.sent));
    const { actions } = this;
    try {
      const [queue, status] = await Promise.all([api.queue(), api.status()]);
      const waiting = new Set(queue.groups.flatMap((group) => group.samples.map((sample) => sample.id)));
      // The queue is limited to the most useful groups, so others may still wait.
      const others = (this.group?.samples ?? []).filter((sample) => !waiting.has(sample.id));
      const checked = await Promise.all(others.map(waits));
      others.forEach((sample, at) => checked[at] && waiting.add(sample.id));
      if (!this.isConnected || turn !== this.turn || actions !== this.actions) return;
      this.groups = this.merged(queue.groups, waiting);
      this.total = queue.waiting - queue.without_picture;
      this.featureOnly = queue.without_picture;
      this.labels = labelsOf(status);
      this.capturing = status.live.capture.on;
      showWaiting(this.total);
      this.render();
    } catch (problem) {
      if (!this.isConnected || turn !== this.turn) return;
      // Keys must not label what is not shown, and the next look at the device must load again.
      Object.assign(this, { groups: [], total: -1 });
      redraw(this, h("p", { class: "error", role: "alert" }, problem.shown), h("button", { type: "button", id: "again", onclick: () => this.load() }, t("common.tryAgain")));
    }
  }

  /** Returns the groups from the device in the order in which the user sees them. */
  merged(fresh, waiting) {
    const shown = this.group && { ...this.group, samples: this.group.samples.filter((sample) => waiting.has(sample.id)) };
    const keep = shown?.samples.length > 0 ? [shown] : [];
    const kept = new Set(keep.flatMap((group) => group.samples.map((sample) => sample.id)));
    const rest = fresh
      .map((group) => ({ ...group, samples: group.samples.filter((sample) => !kept.has(sample.id)), excluded: new Set() }))
      .filter((group) => group.samples.length > 0);
    const isSkipped = (group) => group.samples.some((sample) => this.skipped.has(sample.id));
    return [...keep, ...rest.filter((group) => !isSkipped(group)), ...rest.filter(isSkipped)];
  }

  get group() {
    return this.groups[0];
  }

  render() {
    if (!this.group) return this.renderEmpty();
    const { samples, excluded, usefulness } = this.group;
    const [first] = samples;
    const isRefused = this.newLabelError.textContent !== "";
    this.newLabel = newLabelField("new-label", this.newLabel, { "aria-describedby": "new-label-error", "aria-invalid": isRefused ? "true" : null });
    const guess = Object.entries(first.probabilities).sort((a, b) => b[1] - a[1])[0];
    redraw(
      this,
      h("h2", {}, samples.length === 1 ? t("queue.whatIsThis") : t("queue.whatAreThese", { number: samples.length })),
      h(
        "p",
        { class: "hint" },
        guess ? t("queue.modelSays", { label: words(guess[0]), percent: percent(guess[1], 0) }) : t("queue.notClassified"),
        " ",
        usefulness > 0.5 && [t("queue.useful"), " "],
        t("queue.left", { number: this.total }),
      ),
      h("div", { class: samples.length === 1 ? "crops one" : "crops" }, samples.map((sample, at) => this.facePicture(sample, at, excluded, samples.length))),
      h(
        "div",
        { class: "labels", role: "group", "aria-label": t("queue.labels") },
        this.labels.map((label, at) =>
          h("button", { type: "button", id: `label-${label}`, class: `label ${label}`, "aria-keyshortcuts": at < 9 ? String(at + 1) : null, onclick: () => this.label(label) }, h("kbd", {}, String(at + 1)), " ", words(label)),
        ),
      ),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", id: "discard", class: "quiet", "aria-keyshortcuts": "d", onclick: () => this.discard() }, h("kbd", {}, "D"), " ", t("mark.discard")),
        h("button", { type: "button", id: "skip", class: "quiet", "aria-keyshortcuts": "s", onclick: () => this.skip() }, h("kbd", {}, "S"), " ", t("queue.skip")),
        this.undoButton(),
        h("form", { class: "row", onsubmit: (event) => this.useNewLabel(event) }, this.newLabel, h("button", { class: "quiet", id: "use-new-label" }, t("mark.use"))),
      ),
      this.newLabelError,
      this.history(),
    );
  }

  undoButton() {
    return h("button", { type: "button", id: "undo", class: "quiet", "aria-keyshortcuts": "u", disabled: this.done.length === 0, onclick: () => this.undo() }, h("kbd", {}, "U"), " ", t("mark.undo"));
  }

  facePicture(sample, at, excluded, total) {
    const image = h("img", { src: pictureOf(sample.id), alt: t("queue.face", { at: at + 1, number: total, time: time(sample.time) }), width: 224, height: 224 });
    const caption = h("figcaption", {}, rich("queue.caption", { size: faceSize(sample), quality: quality(sample), time: h("time", { datetime: sample.time }, time(sample.time, true)) }));
    if (total === 1) return h("figure", {}, image, caption);
    // Near duplicates are labeled together, except for those that the user deselects with a tap.
    return h(
      "figure",
      {},
      h(
        "button",
        {
          type: "button",
          class: "crop",
          id: `crop-${sample.id}`,
          "aria-pressed": String(!excluded.has(sample.id)),
          "aria-label": t("queue.faceButton", { at: at + 1, number: total, size: faceSize(sample), quality: quality(sample) }),
          onclick: (event) => {
            if (!excluded.delete(sample.id)) excluded.add(sample.id);
            event.currentTarget.setAttribute("aria-pressed", String(!excluded.has(sample.id)));
          },
        },
        image,
      ),
      caption,
    );
  }

  /** Uses a new label. The device checks it, and only a label that it accepts becomes a button. */
  async useNewLabel(event) {
    event.preventDefault();
    const name = labelName(this.newLabel.value);
    if (!name) return;
    this.newLabelError.replaceChildren();
    const problem = await this.label(name);
    if (problem) {
      this.newLabelError.replaceChildren(problem);
      this.render();
      this.newLabel.focus();
      return;
    }
    this.newLabel.value = "";
    if (!this.labels.includes(name)) this.labels.push(name);
    this.render();
  }

  /** Shows what was labeled last. */
  history() {
    const items = this.done
      .slice(-SHOWN_HISTORY)
      .reverse()
      .flatMap(({ group, what }) => group.samples.slice(0, 1).map((sample) => ({ id: sample.id, name: what, caption: h("span", {}, group.samples.length > 1 ? t("queue.several", { what, number: group.samples.length }) : what) })));
    return items.length > 0 && h("section", { "aria-label": t("queue.justNow") }, h("h3", {}, t("queue.justNow")), strip(items));
  }

  renderEmpty() {
    redraw(
      this,
      h("h2", {}, t("queue.empty")),
      h("p", {}, t(this.capturing ? "queue.emptyHint" : "queue.notCapturing")),
      this.featureOnly > 0 && h("p", { class: "hint" }, t("queue.withoutPicture", { number: this.featureOnly })),
      h(
        "div",
        { class: "row" },
        this.done.length > 0 && this.undoButton(),
        !this.capturing && h("a", { class: "button quiet", href: "#settings" }, t("queue.toSettings")),
        h("a", { class: "button quiet", href: "#live" }, t("queue.toLive")),
        h("a", { class: "button quiet", href: "#library" }, t("queue.toLibrary")),
        h("a", { class: "button quiet", href: "#learning" }, t("queue.toTraining")),
      ),
      this.history(),
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
      toast(NOTHING_SELECTED);
      return null;
    }
    if (rest.length > 0) this.groups.unshift({ ...group, samples: rest, excluded: new Set() });
    this.total -= taken.length;
    return { ...group, samples: taken, excluded: new Set() };
  }

  /** Puts a group back at the front of the queue. */
  requeue(group) {
    this.actions += 1;
    this.total += group.samples.length;
    showWaiting(this.total);
    const ids = new Set(group.samples.map((sample) => sample.id));
    const others = this.groups.map((other) => ({ ...other, samples: other.samples.filter((sample) => !ids.has(sample.id)) }));
    this.groups = [group, ...others.filter((other) => other.samples.length > 0)];
    this.render();
  }

  addUndo(step) {
    this.done.push(step);
    if (this.done.length > MAX_UNDO) this.done.shift();
  }

  label(label) {
    return this.mark({ as: label }, (number) => t("mark.labeled", { number, label: words(label) }), words(label));
  }

  discard() {
    return this.mark("discard", (number) => t("mark.discarded", { number }), t("queue.discarded"));
  }

  /**
   * Labels or discards the selected face pictures of the first group. `success` makes a
   * message from their number, and `what` names the action. Returns the problem if the device
   * refuses the request.
   */
  async mark(mark, success, what) {
    if (!this.group) return undefined;
    const group = this.dequeue();
    if (!group) {
      this.render();
      return NOTHING_SELECTED;
    }
    this.actions += 1;
    const ids = group.samples.map((sample) => sample.id);
    const step = { group, what, sent: api.mark(ids, mark) };
    this.addUndo(step);
    this.next();
    try {
      const { failed } = await step.sent;
      const reasons = Object.values(failed);
      toast(reasons.length > 0 ? rich("mark.notChanged", { number: reasons.length, reason: device(reasons[0]) }) : success(ids.length), {
        name: t("mark.undo"),
        run: () => this.undo(step),
      });
      return undefined;
    } catch (problem) {
      this.forget(step);
      toast(problem.shown);
      this.requeue(group);
      return problem.shown;
    }
  }

  skip() {
    const group = this.groups.shift();
    if (!group) return;
    this.skipped.add(group.samples[0].id);
    this.groups.push(group);
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
      toast(left === 0 ? t("mark.undone") : rich("mark.notUndone", { number: left, reason: reasonOf(failed) }));
      if (samples.length > 0) this.requeue({ ...step.group, samples });
      else this.render();
    } catch (problem) {
      // The device does not have the step any more, or it may succeed later.
      if (problem.status !== 404) this.addUndo(step);
      toast(problem.shown);
      this.render();
    }
  }

  next() {
    showWaiting(this.total);
    this.render();
    // The queue has only the most useful groups.
    if (!this.group && this.total > 0) this.load();
  }
}

customElements.define("label-queue", LabelQueue);
