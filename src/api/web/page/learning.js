// Training on this device: shows the models, how they compare, and what to do next.

import { api, fileOfHead, pictureOf } from "./api.js";
import { confusion, line, score } from "./charts.js";
import { confirmed, count, fill, h, percent, toast, whileVisible, words } from "./dom.js";

/** Returns a sentence that says what to capture and label next. */
function advice(entry) {
  const [kind, about] = Object.entries(entry)[0];
  const label = about.label && words(about.label);
  switch (kind) {
    case "more-tracks":
      return `Label pictures of more people ${label}: there are ${about.groups} so far, and ${about.wanted} would give a clearer result.`;
    case "another-day":
      return `All pictures labeled ${label} are from one day: add some from another day or in other light.`;
    case "more-of":
      return `Pictures labeled ${label} are misclassified most often (${about.wrong} of ${about.samples}): label more of them.`;
    case "check-labels":
      return `Check the ${count(about.suspects, "picture")} below whose label may be wrong.`;
    default:
      return kind;
  }
}

class LearningView extends HTMLElement {
  connectedCallback() {
    this.opened = new Set();
    fill(this, h("p", {}, "Loading…"));
    this.end = whileVisible(() => this.look(), 2000);
  }

  disconnectedCallback() {
    this.end();
  }

  async look() {
    try {
      const [status, heads] = await Promise.all([api.status(), api.heads()]);
      const state = JSON.stringify([status.samples, status.new_labels, status.last_refit, status.live.refitting, status.live.learning_waits, status.live.head, heads]);
      // The page redraws only after a change, so that nothing moves under the user's finger.
      if (state !== this.shownState) {
        this.shownState = state;
        this.render(status, heads);
      }
    } catch (problem) {
      this.shownState = null;
      fill(this, h("p", { class: "error", role: "alert" }, problem.message));
    }
  }

  render(status, heads) {
    const focused = document.activeElement?.id;
    const { live, last_refit: last } = status;
    const samples = Object.entries(status.samples);
    const outcome = last?.outcome;
    fill(this, 
      h("h2", {}, "Training on this device"),
      h(
        "section",
        { class: "card", "aria-label": "Now" },
        h(
          "p",
          {},
          samples.length === 0 ? "There are no face pictures yet. " : samples.map(([label, counted]) => `${counted.samples} ${words(label)}`).join(", ") + ". ",
          `${count(status.new_labels, "new label")} since the last training.`,
        ),
        h("p", { role: "status" }, live.refitting ? "Training…" : live.learning_waits ? `Training is paused: ${live.learning_waits}.` : ""),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", id: "refit", disabled: live.refitting, onclick: () => this.refit() }, "Train now"),
          h("button", { type: "button", id: "rollback", class: "quiet", disabled: live.head === undefined, onclick: () => this.rollback() }, "Roll back"),
        ),
      ),
      outcome && this.result(last),
      outcome?.advice.length > 0 &&
        h("section", { class: "card", "aria-label": "What to do next" }, h("h3", {}, "What to do next"), h("ul", {}, outcome.advice.map((entry) => h("li", {}, advice(entry))))),
      h("h2", {}, "Models"),
      heads.length === 0
        ? h("p", { class: "hint" }, "The built-in model is in use. To train one for this camera, label some face pictures of each kind, then choose Train now.")
        : [this.accuracyPlot(heads), ...[...heads].reverse().map((head) => this.head(head))],
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  result(last) {
    const { outcome } = last;
    const accepted = outcome.ruling === "accepted";
    return h(
      "section",
      { class: `card ${accepted ? "good" : "bad"}`, "aria-label": "The last training" },
      h("h3", {}, accepted ? `The last training produced model ${last.head}` : "The last training changed nothing"),
      outcome.reason && h("p", {}, outcome.reason.charAt(0).toUpperCase() + outcome.reason.slice(1) + "."),
      outcome.warning && h("p", { class: "hint" }, outcome.warning.charAt(0).toUpperCase() + outcome.warning.slice(1) + "."),
      this.measured(outcome),
    );
  }

  measured({ measured, labels }) {
    if (!measured) return null;
    return [
      h("dl", { class: "figures" }, h("dt", {}, "Before"), h("dd", {}, score(measured.before)), h("dt", {}, "After"), h("dd", {}, score(measured.after)), h("dt", {}, "Loss"), h("dd", {}, `${Math.abs(measured.gain).toFixed(3)} ${measured.gain < 0 ? "higher" : "lower"}, standard error ${measured.standard_error.toFixed(3)}`)),
      h(
        "div",
        { class: "split" },
        measured.curve.length > 1 &&
          h("figure", {}, line({ points: measured.curve.map((point) => [point.steps, point.loss]), title: "Loss on held-out pictures", x: "steps", y: "loss", chosen: measured.steps }), h("figcaption", {}, "Loss on held-out pictures. The filled dot marks the chosen number of steps.")),
        h("div", {}, confusion(labels, measured.before.confusion, "Before"), confusion(labels, measured.after.confusion, "After")),
      ),
      this.facePictures("Worst mistakes", measured.worst, labels),
      this.facePictures("Labels to check", measured.suspects, labels),
    ];
  }

  facePictures(title, list, labels) {
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
            h("img", { src: pictureOf(sample.id), alt: `Labeled ${words(labels[sample.label] ?? "?")}`, width: 112, height: 112, loading: "lazy" }),
            h("span", {}, words(labels[sample.label] ?? "?")),
            h("span", { class: "hint" }, `probability ${percent(sample.probability, 0)}`),
          ),
        ),
      ),
    );
  }

  /** Plots the accuracy of the models over time. */
  accuracyPlot(heads) {
    const measured = heads.filter((head) => head.outcome?.measured);
    if (measured.length < 2) return null;
    const points = measured.map((head) => [head.number, head.outcome.measured.after.accuracy]);
    return h("figure", { class: "card" }, line({ points, title: "Accuracy of each model", x: "model", y: "accuracy", chosen: heads.find((head) => head.current)?.number, format: (value) => percent(value, 0) }), h("figcaption", {}, "Each measured on the pictures held out at the time. The filled dot marks the model in use."));
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
        h("strong", {}, `Model ${head.number}`),
        head.current && h("span", { class: "badge" }, "in use"),
        " ",
        head.damage ?? (measured ? `${percent(measured.before.accuracy)} before, ${percent(measured.after.accuracy)} after` : head.recipe),
      ),
      h("p", { class: "hint" }, `Trained from ${head.parent === undefined ? "the built-in model" : `model ${head.parent}`}; labels: ${head.labels.map(words).join(", ")}.`),
      head.outcome && this.measured(head.outcome),
      !head.damage && h("a", { class: "button quiet", href: fileOfHead(head.number), download: `model-${head.number}.onnx` }, "Export"),
    );
  }

  async refit() {
    toast("Training…");
    setTimeout(() => this.look(), 200);
    try {
      const record = await api.refit();
      toast(record.head === undefined ? "The model stays as it is." : `Model ${record.head} is in use.`);
    } catch (problem) {
      toast(problem.message);
    }
    this.look();
  }

  async rollback() {
    if (!(await confirmed("Go back to the previous model?", "Roll back"))) return;
    try {
      const { head } = await api.rollback();
      toast(head === undefined ? "The built-in model is in use." : `Model ${head} is in use.`);
    } catch (problem) {
      toast(problem.message);
    }
    this.look();
  }
}

customElements.define("learning-view", LearningView);
