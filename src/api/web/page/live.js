// The live view: what the camera currently sees.

import { api } from "./api.js";
import "./teach.js";
import { doorElement, showDoor } from "./door.js";
import { clause, device, facts, fill, h, whileVisible } from "./dom.js";
import { known, milliseconds, number, percent, rich, t, time, words } from "./texts.js";

/** How often the view asks for the state of the device, in ms. */
const INTERVAL = 500;

/** The waits between attempts to reach a device that does not respond, in seconds. */
const RETRIES = [1, 2, 4, 8];

const CURRENT = t("live.current");

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

class LiveView extends HTMLElement {
  connectedCallback() {
    this.decision = h("p", { class: "decision", role: "status", "aria-live": "polite" });
    this.picture = h("img", { class: "camera", alt: CURRENT });
    this.moving = !reducedMotion.matches;
    this.pause = h("button", { type: "button", class: "quiet", onclick: () => this.toggle() });
    this.reason = h("p", { class: "error", role: "alert" });
    this.door = doorElement();
    this.faces = h("ul", { class: "faces", "aria-label": t("live.faces") });
    this.figures = h("dl", { class: "figures" });
    fill(this, 
      h(
        "div",
        { class: "split" },
        h("section", { "aria-label": t("live.camera") }, this.decision, this.door, this.reason, this.picture, h("div", { class: "row" }, this.pause)),
        // The picture and the buttons for teaching must be visible together.
        h("section", { "aria-label": t("live.details") }, h("teach-panel"), h("h2", {}, t("live.faces")), this.faces, h("h2", {}, t("live.device")), this.figures, h("a", { href: "#device" }, t("live.more"))),
      ),
    );
    this.updateButton();
    this.failures = 0;
    this.end = whileVisible(() => this.look(), INTERVAL);
    this.aborter = new AbortController();
    this.watch();
  }

  disconnectedCallback() {
    this.end();
    this.aborter.abort();
    URL.revokeObjectURL(this.picture.src);
  }

  updateButton() {
    this.pause.replaceChildren(this.moving ? t("live.pause") : t("live.resume"));
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
      } catch {
        // The other request of this view says why.
        if (signal.aborted) return;
        await wait(1000);
      }
    }
  }

  async look() {
    try {
      const live = await api.live();
      if (!this.isConnected) return;
      this.failures = 0;
      this.show(live);
    } catch (problem) {
      if (this.isConnected) await this.waitForDevice(problem);
    }
  }

  /** Says why the device cannot be reached, and counts down to the next attempt. */
  async waitForDevice(problem) {
    this.showDecision("fault", t("decision.unreachable"));
    showDoor(this.door, null);
    const seconds = RETRIES[Math.min(this.failures, RETRIES.length - 1)];
    this.failures += 1;
    // Every number would be announced, so the alert contains only the reason.
    const next = h("span", { "aria-hidden": "true" });
    this.clear([problem.shown, next]);
    for (let left = seconds; left > 0 && this.isConnected; left -= 1) {
      next.textContent = t("live.nextTry", { number: left });
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    next.textContent = t("live.tryingAgain");
  }

  /** Removes everything that is no longer true, and says why. */
  clear(reason) {
    this.picture.classList.add("stale");
    this.picture.alt = t("live.stale");
    fill(this.reason, reason);
    fill(this.faces, h("li", { class: "hint" }, t("common.unknown")));
    fill(this.figures);
  }

  showDecision(decision, text) {
    this.decision.className = `decision ${decision}`;
    // Screen readers announce every assignment, so assign only changes.
    if (this.decision.textContent !== text) this.decision.textContent = text;
  }

  /** Returns why the newest frame is not what the camera sees now, or null if it is. */
  staleness(live) {
    if (live.camera_lost) {
      const because = live.camera_lost_because;
      return because ? rich("live.lostBecause", { reason: clause(because, live.camera_lost_code) }) : rich("live.lost");
    }
    if (live.decision === "fault") return rich("live.waits");
    return null;
  }

  show(live) {
    if (live.statistics_mode) {
      this.aborter.abort();
      this.picture.hidden = this.pause.hidden = true;
      this.showDecision("idle", t("decision.statistics"));
      fill(this.faces, h("li", { class: "hint" }, t("live.notShown")));
      fill(this.reason, this.staleness(live));
      return;
    }
    this.showDecision(live.decision, known(`decision.${live.decision}`, words(live.decision)));
    showDoor(this.door, live.door);
    const stale = this.staleness(live);
    if (stale) {
      // An alert is announced again whenever it is assigned.
      const text = stale.map((part) => part.textContent ?? part).join("");
      if (this.reason.textContent !== text) this.clear(stale);
    } else {
      this.picture.classList.remove("stale");
      this.picture.alt = CURRENT;
      fill(this.reason);
      const faces = live.frame?.faces ?? [];
      this.faces.replaceChildren(...faces.map((face) => this.face(face)));
      if (faces.length === 0) this.faces.append(h("li", { class: "hint" }, t("live.noFace")));
    }
    const board = live.board ?? {};
    const figures = [
      [t("live.camera"), live.camera_lost ? t("live.cameraLost", { number: live.camera_losses }) : stale ? t("live.cameraSilent") : live.frame ? t("live.cameraRuns") : t("live.cameraStarts")],
      ...(stale
        ? []
        : [
            [t("live.fps"), number(live.frames_per_second, 1)],
            [t("live.latency"), milliseconds(live.latency_ms)],
          ]),
      [t("live.model"), live.head === undefined ? t("live.builtIn") : t("live.modelNumber", { model: live.head })],
      [t("live.facePictures"), live.capture.off_because ? rich("live.notKeptBecause", { reason: clause(live.capture.off_because, live.capture.off_code) }) : live.capture.on ? t("live.kept") : t("live.notKept")],
    ];
    if (live.times) {
      const names = [["indicate", t("live.leds")], ["lock", t("live.lock")], ["capture", t("live.capturing")], ["sound", t("live.sound")]];
      for (const [key, name] of names) {
        const { on, next_change: next } = live.times[key];
        if (!on || next) figures.push([name, next ? t(on ? "live.onUntil" : "live.offUntil", { time: time(next, true) }) : t(on ? "live.on" : "live.off")]);
      }
      if (!live.times.time_zone_known) figures.push([t("live.times"), t("live.timesWithoutZone")]);
      else if (!live.times.clock_synchronized) figures.push([t("live.times"), t("live.timesDoNotApply")]);
    }
    const retention = live.retention;
    if (retention?.labeled_ending) {
      figures.push([t("live.deletion"), t("live.ending", { number: retention.labeled_ending, hours: retention.first_ends_in_hours })]);
    }
    if (retention?.not_counted) figures.push([t("live.largeFiles"), t("live.notCounted", { number: retention.not_counted })]);
    if (live.head_note) figures.push([t("live.note"), device(live.head_note)]);
    if (live.learning_off) figures.push([t("live.learning"), rich("live.learningOff", { reason: device(live.learning_off) })]);
    if (live.refitting) figures.push([t("live.training"), t("live.inProgress")]);
    if (live.learning_waits) figures.push([t("live.training"), rich("live.paused", { reason: clause(live.learning_waits, live.learning_waits_code) })]);
    if (board.throttling?.under_voltage) figures.push([t("live.power"), t("live.voltage")]);
    for (const problem of Object.values(live.problems ?? {})) figures.push([t("live.problem"), device(problem)]);
    fill(this.figures, facts(figures));
  }

  face(face) {
    const all = Object.entries(face.probabilities ?? {});
    return h(
      "li",
      { class: `face ${face.verdict}` },
      h("strong", {}, words(face.verdict)),
      face.unsure_reason === "unfamiliar" ? h("span", { class: "hint" }, t("live.unfamiliar")) : "",
      all.length === 0
        ? h("span", { class: "hint" }, t("live.unclear"))
        : all.map(([label, share]) =>
            h("label", { class: "share" }, h("span", {}, words(label)), h("meter", { min: 0, max: 1, value: share }), h("span", { class: "number" }, percent(share, 0))),
          ),
    );
  }
}

customElements.define("live-view", LiveView);
