// The live view: what the camera currently sees.

import { api } from "./api.js";
import { count, fill, h, percent, whileVisible, words } from "./dom.js";

const DECISIONS = {
  idle: "Nobody there",
  mask: "Everybody wears a mask",
  no_mask: "Somebody without a mask",
  unsure: "Unsure",
  fault: "No new frames from the camera",
};

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

class LiveView extends HTMLElement {
  connectedCallback() {
    this.decision = h("p", { class: "decision", role: "status", "aria-live": "polite" });
    this.picture = h("img", { class: "camera", alt: "The newest frame, with a box around each face" });
    this.moving = !reducedMotion.matches;
    this.pause = h("button", { type: "button", class: "quiet", onclick: () => this.toggle() });
    this.note = h("p", { class: "hint" });
    this.faces = h("ul", { class: "faces", "aria-label": "Faces" });
    this.figures = h("dl", { class: "figures" });
    fill(this, 
      h(
        "div",
        { class: "split" },
        h("section", { "aria-label": "Camera" }, this.decision, this.picture, h("div", { class: "row" }, this.pause, this.note)),
        h("section", { "aria-label": "Details" }, h("h2", {}, "Faces"), this.faces, h("h2", {}, "Device"), this.figures),
      ),
    );
    this.updateButton();
    this.end = whileVisible(() => this.look(), 500);
    this.aborter = new AbortController();
    this.watch();
  }

  disconnectedCallback() {
    this.end();
    this.aborter.abort();
    URL.revokeObjectURL(this.picture.src);
  }

  updateButton() {
    this.pause.replaceChildren(this.moving ? "Pause the picture" : "Resume the picture");
  }

  toggle() {
    this.moving = !this.moving;
    this.updateButton();
  }

  // Shows each picture as soon as it arrives. While the view is paused, or if the user
  // prefers reduced motion, it shows a single still picture.
  async watch() {
    const { signal } = this.aborter;
    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    let number = 0;
    let shown = false;
    while (!signal.aborted) {
      if (document.hidden || (shown && !this.moving)) {
        await wait(300);
        continue;
      }
      try {
        const next = await api.picture(number, signal);
        if (!next) {
          // A restarted daemon numbers its pictures from the beginning.
          number = 0;
          continue;
        }
        const old = this.picture.src;
        number = next.number;
        this.picture.src = URL.createObjectURL(next.blob);
        await this.picture.decode().catch(() => {});
        if (old) URL.revokeObjectURL(old);
        shown = true;
        this.note.replaceChildren();
      } catch (problem) {
        if (signal.aborted) return;
        this.note.replaceChildren(problem.message);
        await wait(1000);
      }
    }
  }

  async look() {
    try {
      this.show(await api.live());
    } catch (problem) {
      this.showDecision("fault", problem.message);
    }
  }

  showDecision(decision, text) {
    this.decision.className = `decision ${decision}`;
    // Screen readers announce every assignment, so assign only changes.
    if (this.decision.textContent !== text) this.decision.textContent = text;
  }

  show(live) {
    this.showDecision(live.decision, DECISIONS[live.decision] ?? words(live.decision));
    const faces = live.frame?.faces ?? [];
    this.faces.replaceChildren(...faces.map((face) => this.face(face)));
    if (faces.length === 0) this.faces.append(h("li", { class: "hint" }, "No face in the newest frame."));
    const board = live.board ?? {};
    const figures = [
      ["Camera", live.camera_lost ? `lost; reconnecting (${count(live.camera_losses, "time")} so far)` : live.frame ? "running" : "starting"],
      ["Frames per second", live.frames_per_second.toFixed(1)],
      ["Latency", `${live.latency_ms.toFixed(0)} ms`],
      ["Temperature", board.temperature_c === undefined ? "unknown" : `${board.temperature_c.toFixed(0)} °C`],
      ["Model", live.head === undefined ? "built-in" : `number ${live.head}`],
      ["Face pictures", live.capture.off_because ? `not kept: ${live.capture.off_because}` : live.capture.on ? "kept" : "not kept"],
    ];
    const retention = live.retention;
    if (retention?.labeled_ending) {
      figures.push(["Deletion", `${count(retention.labeled_ending, "labeled face picture")} will reach the age limit (capture.keep-days); the first is deleted in ${retention.first_ends_in_hours} h`]);
    }
    if (retention?.not_counted) figures.push(["Large files", `${retention.not_counted} over 1 MiB do not count toward capture.max-mib`]);
    if (retention && !retention.clock_synchronized) figures.push(["Clock", "not synchronized, or it jumped within the last day; the age of face pictures counts only the time that the daemon runs"]);
    if (live.head_note) figures.push(["Note", live.head_note]);
    if (live.learning_off) figures.push(["Learning", `off: the state directory cannot be used: ${live.learning_off}`]);
    if (live.refitting) figures.push(["Training", "in progress"]);
    if (live.learning_waits) figures.push(["Training", `paused: ${live.learning_waits}`]);
    if (board.throttling?.under_voltage) figures.push(["Power supply", "voltage too low"]);
    for (const problem of Object.values(live.problems ?? {})) figures.push(["Problem", problem]);
    this.figures.replaceChildren(...figures.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  face(face) {
    const all = Object.entries(face.probabilities ?? {});
    return h(
      "li",
      { class: `face ${face.verdict}` },
      h("strong", {}, words(face.verdict)),
      all.length === 0
        ? h("span", { class: "hint" }, "too small or too unclear")
        : all.map(([label, share]) =>
            h("label", { class: "share" }, h("span", {}, words(label)), h("meter", { min: 0, max: 1, value: share }), h("span", { class: "number" }, percent(share, 0))),
          ),
    );
  }
}

customElements.define("live-view", LiveView);
