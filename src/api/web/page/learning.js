// What was learned, whether it helped, and what to do next.

import { api, fileOfHead, pictureOf } from "./api.js";
import { confusion, line, score } from "./charts.js";
import { confirmed, count, fill, h, percent, toast, whileSeen, words } from "./dom.js";

/** What to capture and label next, in a sentence. */
function advice(entry) {
  const [kind, about] = Object.entries(entry)[0];
  const label = about.label && words(about.label);
  switch (kind) {
    case "more-tracks":
      return `Label crops of more people ${label}: ${about.groups} so far, ${about.wanted} say much more.`;
    case "another-day":
      return `All samples of ${label} are of one day: add some of another day or another light.`;
    case "more-of":
      return `${label} is told wrong most often (${about.wrong} of ${about.samples}): label more crops of it.`;
    case "check-labels":
      return `Look at the ${count(about.suspects, "sample")} below whose label may be wrong.`;
    default:
      return kind;
  }
}

class LearningView extends HTMLElement {
  connectedCallback() {
    this.opened = new Set();
    fill(this, h("p", {}, "Loading…"));
    this.end = whileSeen(() => this.look(), 2000);
  }

  disconnectedCallback() {
    this.end();
  }

  async look() {
    try {
      const [status, heads] = await Promise.all([api.status(), api.heads()]);
      const seen = JSON.stringify([status.samples, status.new_labels, status.last_refit, status.live.refitting, status.live.learning_waits, status.live.head, heads]);
      // Only what is new is drawn, so that nothing jumps under a finger.
      if (seen !== this.seen) {
        this.seen = seen;
        this.render(status, heads);
      }
    } catch (problem) {
      this.seen = null;
      fill(this, h("p", { class: "error", role: "alert" }, problem.message));
    }
  }

  render(status, heads) {
    const focused = document.activeElement?.id;
    const { live, last_refit: last } = status;
    const samples = Object.entries(status.samples);
    const outcome = last?.outcome;
    fill(this, 
      h("h2", {}, "Learning"),
      h(
        "section",
        { class: "card", "aria-label": "Now" },
        h(
          "p",
          {},
          samples.length === 0 ? "There are no samples yet. " : samples.map(([label, counted]) => `${counted.samples} ${words(label)}`).join(", ") + ". ",
          `${count(status.new_labels, "label is", "labels are")} new since the last refit.`,
        ),
        h("p", { role: "status" }, live.refitting ? "A head is being learned…" : live.learning_waits ? `Learning waits, since ${live.learning_waits}.` : ""),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", id: "refit", disabled: live.refitting, onclick: () => this.refit() }, "Refit now"),
          h("button", { type: "button", id: "rollback", class: "quiet", disabled: live.head === undefined, onclick: () => this.rollback() }, "Roll back"),
        ),
      ),
      outcome && this.result(last),
      outcome?.advice.length > 0 &&
        h("section", { class: "card", "aria-label": "What next" }, h("h3", {}, "What next"), h("ul", {}, outcome.advice.map((entry) => h("li", {}, advice(entry))))),
      h("h2", {}, "Heads"),
      heads.length === 0
        ? h("p", { class: "hint" }, "Only the shipped head is there. Label some crops of each kind, and refit.")
        : [this.course(heads), ...[...heads].reverse().map((head) => this.head(head))],
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  result(last) {
    const { outcome } = last;
    const accepted = outcome.ruling === "accepted";
    return h(
      "section",
      { class: `card ${accepted ? "good" : "bad"}`, "aria-label": "The last refit" },
      h("h3", {}, accepted ? `The last refit made head ${last.head}` : "The last refit changed nothing"),
      outcome.reason && h("p", {}, outcome.reason.charAt(0).toUpperCase() + outcome.reason.slice(1) + "."),
      this.measured(outcome),
    );
  }

  measured({ measured, labels }) {
    if (!measured) return null;
    return [
      h("dl", { class: "figures" }, h("dt", {}, "Before"), h("dd", {}, score(measured.before)), h("dt", {}, "After"), h("dd", {}, score(measured.after)), h("dt", {}, "Gain"), h("dd", {}, `${measured.gain.toFixed(3)} nats, standard error ${measured.standard_error.toFixed(3)}`)),
      h(
        "div",
        { class: "split" },
        measured.curve.length > 1 &&
          h("figure", {}, line({ points: measured.curve.map((point) => [point.steps, point.loss]), title: "Loss on samples that were held out", x: "steps", y: "loss", chosen: measured.steps }), h("figcaption", {}, "Loss on samples that were held out; the filled dot is what was taken.")),
        h("div", {}, confusion(labels, measured.before.confusion, "Before"), confusion(labels, measured.after.confusion, "After")),
      ),
      this.crops("Worst crops", measured.worst, labels),
      this.crops("Labels to look at again", measured.suspects, labels),
    ];
  }

  crops(title, list, labels) {
    if (list.length === 0) return null;
    return h(
      "details",
      {},
      h("summary", {}, `${title} (${list.length})`),
      h(
        "ul",
        { class: "strip" },
        list.map((sample) =>
          h(
            "li",
            {},
            h("img", { src: pictureOf(sample.id), alt: `Labelled ${words(labels[sample.label] ?? "?")}`, width: 112, height: 112, loading: "lazy" }),
            h("span", {}, words(labels[sample.label] ?? "?")),
            h("span", { class: "hint" }, `${percent(sample.probability, 0)} sure`),
          ),
        ),
      ),
    );
  }

  /** How the heads did, one after the other. */
  course(heads) {
    const judged = heads.filter((head) => head.outcome?.measured);
    if (judged.length < 2) return null;
    const points = judged.map((head) => [head.number, head.outcome.measured.after.accuracy]);
    return h("figure", { class: "card" }, line({ points, title: "Accuracy of each head", x: "head", y: "accuracy", chosen: heads.find((head) => head.current)?.number, format: (value) => percent(value, 0) }), h("figcaption", {}, "Each on the samples that were held out then; the filled dot is in use."));
  }

  head(head) {
    const measured = head.outcome?.measured;
    const key = `head-${head.number}`;
    return h(
      "details",
      { class: "card head", id: key, open: this.opened.has(key), ontoggle: (event) => (event.target.open ? this.opened.add(key) : this.opened.delete(key)) },
      h(
        "summary",
        {},
        h("strong", {}, `Head ${head.number}`),
        head.current && h("span", { class: "badge" }, "in use"),
        " ",
        head.damage ?? (measured ? `${percent(measured.before.accuracy)} before, ${percent(measured.after.accuracy)} after` : head.recipe),
      ),
      h("p", { class: "hint" }, `Made from ${head.parent === undefined ? "the shipped head" : `head ${head.parent}`}; labels ${head.labels.map(words).join(", ")}.`),
      head.outcome && this.measured(head.outcome),
      !head.damage && h("a", { class: "button quiet", href: fileOfHead(head.number), download: `head-${head.number}.onnx` }, "Export"),
    );
  }

  async refit() {
    toast("A head is being learned…");
    setTimeout(() => this.look(), 200);
    try {
      const record = await api.refit();
      toast(record.head === undefined ? "The head stays as it is." : `Head ${record.head} is in use.`);
    } catch (problem) {
      toast(problem.message);
    }
    this.look();
  }

  async rollback() {
    if (!(await confirmed("Go back to the head before the one in use?", "Roll back"))) return;
    try {
      const { head } = await api.rollback();
      toast(head === undefined ? "The shipped head is in use." : `Head ${head} is in use.`);
    } catch (problem) {
      toast(problem.message);
    }
    this.look();
  }
}

customElements.define("learning-view", LearningView);
