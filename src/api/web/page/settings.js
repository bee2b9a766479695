// The form for the settings that can be changed while the daemon runs.

import { api } from "./api.js";
import { device, fill, h, redraw, toast } from "./dom.js";
import { rich, t } from "./texts.js";

/** The fields with a number. The catalog has a name and a hint for each. */
const FIELDS = [
  { name: "masked_threshold", min: 0.05, max: 1, step: 0.01 },
  { name: "unmasked_threshold", min: 0, max: 1, step: 0.01 },
  { name: "confirm_ms", min: 0, max: 60000, step: 1 },
  { name: "confirm_frames", min: 2, max: 100, step: 1 },
  { name: "hold_ms", min: 0, max: 600000, step: 1 },
];

const nameOf = (field) => t(`settings.${field}`);

class SettingsForm extends HTMLElement {
  async connectedCallback() {
    fill(this, h("p", {}, t("page.loading")));
    try {
      this.render(await api.settings());
    } catch (problem) {
      fill(this, h("p", { class: "error", role: "alert" }, problem.shown));
    }
  }

  render({ now, not_saved: notSaved }) {
    this.now = now;
    this.error = h("p", { class: "error", role: "alert" });
    this.note = h("p", { class: "hint" }, notSaved ? rich("settings.notSaved", { reason: device(notSaved) }) : "");
    this.errors = Object.fromEntries(FIELDS.map(({ name }) => [name, h("p", { class: "error", id: `${name}-error` })]));
    this.inputs = Object.fromEntries(
      FIELDS.map(({ name, min, max, step }) => [name, h("input", { id: name, name, type: "number", inputmode: "decimal", min, max, step, required: true, value: String(Math.round(now[name] * 1e4) / 1e4), "aria-describedby": `${name}-error ${name}-hint` })]),
    );
    this.capture = h("input", { id: "capture", name: "capture", type: "checkbox", checked: now.capture, "aria-describedby": "capture-hint" });
    redraw(
      this,
      h("h2", {}, t("settings.title")),
      h(
        "form",
        // The page says what is wrong beside each field, which the browser does not.
        { class: "card settings", novalidate: true, onsubmit: (event) => this.save(event) },
        FIELDS.map(({ name }) => h("div", { class: "field" }, h("label", { for: name }, nameOf(name)), this.inputs[name], this.errors[name], h("p", { class: "hint", id: `${name}-hint` }, t(`settings.${name}.hint`)))),
        h("div", { class: "field" }, h("label", { class: "row" }, this.capture, t("settings.capture")), h("p", { class: "hint", id: "capture-hint" }, t("settings.capture.hint"))),
        this.error,
        this.note,
        h("button", { id: "save" }, t("settings.save")),
      ),
      h("p", { class: "hint" }, rich("settings.more", { command: h("code", {}, "sudo maskd setup") })),
    );
  }

  /** Says what is wrong with each field, and moves to the first one. Returns whether there is a problem. */
  showErrors(problems) {
    for (const [name, error] of Object.entries(this.errors)) {
      const input = this.inputs[name];
      fill(error, problems[name]);
      if (problems[name]) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
    const first = Object.values(this.inputs).find((input) => problems[input.name]);
    first?.focus();
    return first !== undefined;
  }

  /** Returns what is wrong with each value. */
  check() {
    const problems = {};
    const outside = (field, value, min, max) => t("settings.outside", { name: nameOf(field), value: Number(value), min, max });
    for (const { name, min, max, step } of FIELDS) {
      const { value, validity } = this.inputs[name];
      if (value === "" || validity.badInput) problems[name] = t("settings.notANumber", { name: nameOf(name) });
      else if (validity.rangeUnderflow || validity.rangeOverflow) problems[name] = outside(name, value, min, max);
      else if (step === 1 && !Number.isInteger(Number(value))) problems[name] = t("settings.notWhole", { name: nameOf(name), value: Number(value) });
    }
    const [masked, unmasked] = [this.inputs.masked_threshold.value, this.inputs.unmasked_threshold.value];
    const areNumbers = !problems.masked_threshold && !problems.unmasked_threshold;
    if (areNumbers && Number(unmasked) > Number(masked)) problems.unmasked_threshold = outside("unmasked_threshold", unmasked, 0, Number(masked));
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
      toast(t(record.not_saved ? "settings.untilRestart" : "settings.saved"));
    } catch (problem) {
      const refused = FIELDS.filter(({ name }) => problem.fields?.[name]);
      const problems = Object.fromEntries(refused.map(({ name }) => [name, rich("settings.refused", { name: nameOf(name), reason: device(problem.fields[name]) })]));
      if (!this.showErrors(problems)) fill(this.error, problem.shown);
    }
  }
}

customElements.define("settings-form", SettingsForm);
