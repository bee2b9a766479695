// The form for the settings that can be changed while the daemon runs.

import { api } from "./api.js";
import { fill, h, redraw, toast } from "./dom.js";

const FIELDS = [
  { name: "masked_threshold", label: "Masked threshold", hint: "A face is masked if its probability of a mask is at least this value.", min: 0.05, max: 1, step: 0.01 },
  { name: "unmasked_threshold", label: "Unmasked threshold", hint: "A face is unmasked if its probability of a mask is at most this value. Between the two thresholds, the verdict is unsure.", min: 0, max: 1, step: 0.01 },
  { name: "confirm_ms", label: "Confirmation time, in ms", hint: "Frames must contradict the decision for this long before it changes.", min: 0, max: 60000, step: 1 },
  { name: "confirm_frames", label: "Confirmation frames", hint: "At least this many frames in a row must say mask before the decision becomes mask.", min: 2, max: 100, step: 1 },
  { name: "hold_ms", label: "Hold time, in ms", hint: "The decision is kept for this long after the last face has left.", min: 0, max: 600000, step: 1 },
];

class SettingsForm extends HTMLElement {
  async connectedCallback() {
    fill(this, h("p", {}, "Loading…"));
    try {
      this.render(await api.settings());
    } catch (problem) {
      fill(this, h("p", { class: "error", role: "alert" }, problem.message));
    }
  }

  render({ now, not_saved: notSaved }) {
    this.now = now;
    this.error = h("p", { class: "error", role: "alert" });
    this.note = h("p", { class: "hint" }, notSaved ? `Not saved in the config file: ${notSaved}. The changes will be lost at the next restart.` : "");
    this.errors = Object.fromEntries(FIELDS.map(({ name }) => [name, h("p", { class: "error", id: `${name}-error` })]));
    this.inputs = Object.fromEntries(
      FIELDS.map(({ name, min, max, step }) => [name, h("input", { id: name, name, type: "number", inputmode: "decimal", min, max, step, required: true, value: String(Math.round(now[name] * 1e4) / 1e4), "aria-describedby": `${name}-error ${name}-hint` })]),
    );
    this.capture = h("input", { id: "capture", name: "capture", type: "checkbox", checked: now.capture, "aria-describedby": "capture-hint" });
    redraw(
      this,
      h("h2", {}, "Settings"),
      h(
        "form",
        // The page says what is wrong beside each field, which the browser does not.
        { class: "card settings", novalidate: true, onsubmit: (event) => this.save(event) },
        FIELDS.map(({ name, label, hint }) => h("div", { class: "field" }, h("label", { for: name }, label), this.inputs[name], this.errors[name], h("p", { class: "hint", id: `${name}-hint` }, hint))),
        h("div", { class: "field" }, h("label", { for: "capture" }, "Keep face pictures"), this.capture, h("p", { class: "hint", id: "capture-hint" }, "Faces are personal data: inform the people who pass by.")),
        this.error,
        this.note,
        h("button", { id: "save" }, "Save"),
      ),
    );
  }

  /** Says what is wrong with each field, and moves to the first one. Returns whether there is a problem. */
  showErrors(problems) {
    for (const [name, error] of Object.entries(this.errors)) {
      const input = this.inputs[name];
      error.replaceChildren(problems[name] ?? "");
      if (problems[name]) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
    const first = Object.values(this.inputs).find((input) => problems[input.name]);
    first?.focus();
    return first !== undefined;
  }

  /** Returns what is wrong with the values that do not depend on each other. */
  check() {
    const problems = {};
    for (const { name, label, min, max, step } of FIELDS) {
      const { value, validity } = this.inputs[name];
      if (value === "" || validity.badInput) problems[name] = `${label} must be a number.`;
      else if (validity.rangeUnderflow || validity.rangeOverflow) problems[name] = `${label} is ${value}, allowed is ${min} to ${max}.`;
      else if (step === 1 && !Number.isInteger(Number(value))) problems[name] = `${label} is ${value}, but must be a whole number.`;
    }
    return problems;
  }

  async save(event) {
    event.preventDefault();
    this.error.replaceChildren();
    if (this.showErrors(this.check())) return;
    const change = {};
    for (const [name, input] of Object.entries(this.inputs)) {
      const value = Number(input.value);
      if (Math.abs(value - this.now[name]) > 1e-6) change[name] = value;
    }
    if (this.capture.checked !== this.now.capture) change.capture = this.capture.checked;
    try {
      const record = await api.changeSettings(change);
      this.render(record);
      toast(record.not_saved ? "Changed until the daemon restarts." : "Saved.");
    } catch (problem) {
      const refused = FIELDS.filter(({ name }) => problem.fields?.[name]);
      const problems = Object.fromEntries(refused.map(({ name, label }) => [name, `${label} ${problem.fields[name]}.`]));
      if (!this.showErrors(problems)) this.error.replaceChildren(problem.message);
    }
  }
}

customElements.define("settings-form", SettingsForm);
