// The device: what is connected to it, how it is doing, and a test of the LEDs.

import { api } from "./api.js";
import { clause, device as english, figures, fill, h, redraw, whileVisible } from "./dom.js";
import { known, list, milliseconds, number, rich, t } from "./texts.js";

const INTERVAL = 3000;

const MIB_PER_GIB = 1024;

const OUTPUTS = ["green", "red", "buzzer", "relay"];

const space = (mib) => (mib >= MIB_PER_GIB ? t("device.gib", { number: number(mib / MIB_PER_GIB, 1) }) : t("device.mib", { number: Math.round(mib) }));

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const days = Math.floor(hours / 24);
  if (days > 0) return list([t("device.days", { number: days }), t("device.hours", { number: hours % 24 })]);
  if (hours > 0) return list([t("device.hours", { number: hours }), t("device.minutes", { number: minutes % 60 })]);
  if (minutes === 0) return t("device.underMinute");
  return t("device.minutes", { number: minutes });
}

const yesNo = (is) => t(is ? "common.yes" : "common.no");

/** Returns what was checked: a name, whether it is good, and what was found. */
function checks({ live }, device) {
  const found = [];
  const check = (name, isGood, text) => found.push({ name: t(`check.${name}`), isGood, text });
  const because = live.camera_lost_because;
  if (live.camera_lost) check("camera", false, because ? rich("check.cameraLostBecause", { reason: clause(because, live.camera_lost_code) }) : t("check.cameraLost"));
  else if (live.decision === "fault") check("camera", false, t("decision.fault"));
  else check("camera", true, t("check.cameraGood", { fps: number(live.frames_per_second, 1) }));
  if (live.learning_off) check("learning", false, english(live.learning_off));
  else if (live.head_note) check("learning", false, english(live.head_note));
  else check("learning", true, live.head ? t("training.inUse", { model: live.head }) : t("training.builtInInUse"));
  if (device.disk) {
    const { free_mib: free, min_free_mib: needed } = device.disk;
    check("disk", free >= needed && !live.capture.off_because, live.capture.off_because ? clause(live.capture.off_because, live.capture.off_code) : t("check.free", { space: space(free) }));
  }
  const jumped = live.retention && !live.retention.clock_synchronized;
  const isClockGood = device.clock_synchronized && !jumped;
  check("clock", isClockGood, [t(!device.clock_synchronized ? "check.clockBad" : jumped ? "check.clockJumped" : "check.clockGood"), jumped && h("span", { class: "hint" }, ". ", t("check.clockAges"))].filter(Boolean));
  const { throttling } = live.board;
  if (throttling) check("power", !throttling.under_voltage && !throttling.under_voltage_since_boot, t(throttling.under_voltage ? "check.voltageLow" : throttling.under_voltage_since_boot ? "check.voltageWasLow" : "check.voltageGood"));
  if (device.broker) check("broker", device.broker.connected, device.broker.connected ? t("check.connected") : device.broker.problem ? english(device.broker.problem) : t("check.connecting"));
  for (const problem of Object.values(live.problems ?? {})) check("problem", false, english(problem));
  return found;
}

class DeviceView extends HTMLElement {
  connectedCallback() {
    this.error = h("p", { class: "error", role: "alert" });
    this.checks = h("div");
    this.content = h("div", { class: "cards" });
    fill(this, h("h2", {}, t("device.title")), this.error, this.checks, this.content);
    this.end = whileVisible(() => this.look(), INTERVAL);
  }

  disconnectedCallback() {
    this.end();
    clearTimeout(this.testing);
  }

  async look() {
    try {
      const [device, status] = await Promise.all([api.device(), api.status()]);
      if (!this.isConnected) return;
      fill(this.error);
      this.show(device, status);
    } catch (problem) {
      if (this.isConnected && this.error.textContent !== problem.message) fill(this.error, problem.shown);
    }
  }

  show(device, status) {
    const found = checks(status, device);
    const { live } = status;
    const minutes = Math.floor(device.uptime_seconds / 60);
    const speed = [live.frames_per_second.toFixed(1), Math.round(live.latency_ms / 50)];
    const shown = JSON.stringify([{ ...device, uptime_seconds: minutes }, found.map(({ name, isGood }) => [name, isGood]), live.problems, live.board, speed]);
    if (shown === this.shown) return;
    this.shown = shown;
    const bad = found.filter(({ isGood }) => !isGood).length;
    redraw(
      this.checks,
      h(
        "section",
        { class: `card ${bad === 0 ? "good" : "bad"}`, "aria-label": t("device.check") },
        h("h3", {}, bad === 0 ? t("device.allGood") : t("device.someBad", { number: bad })),
        h("ul", { class: "plain checks" }, found.map(({ name, isGood, text }) => h("li", { class: isGood ? "good" : "bad" }, h("span", { class: "mark", role: "img", "aria-label": t(isGood ? "check.good" : "check.bad") }, isGood ? "✓" : "!"), h("strong", {}, name), h("span", {}, text)))),
      ),
    );
    redraw(this.content, this.camera(device, status), this.pins(device), this.network(device), this.board(device, status));
  }

  card(key, pairs, ...more) {
    return h("section", { class: "card", "aria-label": t(`device.${key}`) }, h("h3", {}, t(`device.${key}`)), figures(pairs), ...more);
  }

  camera(device, { live }) {
    const isRunning = !live.camera_lost && live.decision !== "fault";
    return this.card("camera", [
      [t("device.source"), device.camera === "pictures" ? t("device.pictures") : h("span", { translate: "no" }, device.camera)],
      isRunning && [t("live.fps"), number(live.frames_per_second, 1)],
      isRunning && [t("live.latency"), milliseconds(live.latency_ms)],
      [t("device.losses"), number(live.camera_losses)],
    ]);
  }

  pins({ pins }) {
    const hasLeds = pins.lines.some(({ function: name }) => ["green", "red", "buzzer"].includes(name));
    const pin = ({ line, function: name, active_low: isLow }) => [known(`pin.${name}`, name), isLow ? t("pin.activeLow", { line }) : t("pin.line", { line })];
    const isOutput = ({ function: name }) => OUTPUTS.includes(name);
    const sorted = [...pins.lines.filter(isOutput), ...pins.lines.filter((line) => !isOutput(line))];
    return this.card(
      "pins",
      sorted.map(pin),
      sorted.length === 0 && h("p", { class: "hint" }, t("device.noPins")),
      hasLeds && h("div", { class: "row" }, h("button", { type: "button", id: "led-test", class: "quiet", disabled: this.isTesting, onclick: () => this.test() }, t("device.testLeds"))),
      hasLeds && h("p", { role: "status", id: "led-test-status", class: "hint" }, this.ledText ?? t("device.testHint")),
    );
  }

  network(device) {
    const { name, version, addresses, broker, fleet } = device;
    return this.card("network", [
      [t("device.name"), h("span", { translate: "no" }, name)],
      [t("device.addresses"), addresses.length > 0 ? h("span", { translate: "no" }, addresses.join(", ")) : t("device.noAddress")],
      device.page && [t("device.page"), h("a", { href: device.page, translate: "no" }, device.page)],
      [t("device.broker"), broker ? h("span", { translate: "no" }, broker.address) : t("device.notConfigured")],
      broker && [t("device.encrypted"), yesNo(broker.tls)],
      [t("device.fleet"), fleet ? list([t(fleet.shares ? "device.shares" : "device.sharesNot"), t("device.trusts", { number: fleet.trusted_devices })]) : t("device.notConfigured")],
      [t("device.version"), h("span", { translate: "no" }, version)],
    ]);
  }

  board(device, { live }) {
    const { temperature_c: temperature, throttling } = live.board;
    return this.card("board", [
      device.board && [t("device.model"), h("span", { translate: "no" }, device.board)],
      temperature !== undefined && [t("live.temperature"), t("live.celsius", { number: Math.round(temperature) })],
      throttling && [t("device.throttled"), yesNo(throttling.throttled || throttling.frequency_capped)],
      device.disk && [t("device.disk"), t("device.freeOf", { free: space(device.disk.free_mib), total: space(device.disk.total_mib) })],
      [t("device.uptime"), duration(device.uptime_seconds)],
    ]);
  }

  /** Tests the LEDs, and says what to look for. */
  async test() {
    this.say("", true);
    try {
      const { duration_ms: ms, buzzer_silenced: isSilenced } = await api.testLeds();
      this.say(t(isSilenced ? "device.testingSilenced" : "device.testing"), true);
      this.testing = setTimeout(() => this.say(t(isSilenced ? "device.testedSilenced" : "device.tested"), false), ms);
    } catch (problem) {
      this.say(problem.shown, false);
    }
  }

  /** Says how the test of the LEDs goes. The text stays when the view is drawn again. */
  say(text, isTesting) {
    Object.assign(this, { ledText: text, isTesting });
    fill(this.querySelector("#led-test-status"), text);
    this.querySelector("#led-test").disabled = isTesting;
  }
}

customElements.define("device-view", DeviceView);
