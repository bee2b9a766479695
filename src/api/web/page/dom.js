// Helpers that build elements, show messages, and repeat requests.

import { known, number, rich, t, words } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...present(children));
  return element;
}

/** Returns the children as a flat list without null, undefined, and false. */
const present = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Replaces the children of an element. */
export const fill = (element, ...children) => element.replaceChildren(...present(children));

/** Replaces the children of an element. An element with an id that had the focus keeps it. */
export function redraw(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const selection = focused?.matches("input[type=text]") ? [focused.selectionStart, focused.selectionEnd] : null;
  fill(element, ...children);
  if (!focused || focused === document.activeElement) return;
  const again = focused.id ? document.getElementById(focused.id) : null;
  (again ?? document.getElementById("main")).focus({ preventScroll: true });
  if (again && selection) again.setSelectionRange(...selection);
}

/** Creates a list of facts from pairs of a name and a value. */
export const figures = (pairs) => h("dl", { class: "figures" }, facts(pairs));

/** Creates the names and values of a list of facts. */
export const facts = (pairs) => pairs.filter(Boolean).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);

/** Creates a region that scrolls sideways if it does not fit, also with the keyboard. */
export const scrollable = (name, ...children) => h("div", { class: "scroll", role: "region", "aria-label": name, tabindex: 0 }, children);

/** Creates an HTML element; attributes that start with "on" are event listeners. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** Same as `h`, but creates an SVG element. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Marks a text from the device as English, so that screen readers pronounce it right. */
export const device = (text) => h("span", { lang: "en" }, text);

/** The commands that sentences name, by the codes of the sentences. */
const COMMANDS = { "no-replay": "maskd train --replay", "pictures-unreadable": "maskd check" };

/** Returns a value of a sentence from the device. A text such as an error message is English. */
const valueOf = ([name, value]) => [name, typeof value !== "string" ? value : name === "label" ? words(value) : device(value)];

/** Returns a clause from the device in the language of the page, or in English if the catalog lacks its code. */
export function clause(text, code, key = `reason.${code?.code}`) {
  if (known(key) === undefined) return device(text);
  const { people, milliseconds, ...values } = code.values ?? {};
  const seconds = milliseconds === undefined ? undefined : number(milliseconds / 1000, 1);
  return h("span", {}, rich(key, { ...Object.fromEntries(Object.entries(values).map(valueOf)), number: people, seconds, command: h("code", {}, COMMANDS[code.code] ?? "") }));
}

/** Makes a clause a sentence. */
export function sentence(clause) {
  const [first] = clause.childNodes;
  if (first instanceof Text) first.data = first.data.charAt(0).toUpperCase() + first.data.slice(1);
  clause.append(".");
  return clause;
}

let hide;

/** Shows a message at the bottom of the page, with a button if `action` is given. The message is
    a text, an element, or a list of these. */
export function toast(text, action) {
  const place = document.getElementById("toast");
  clearTimeout(hide);
  fill(place, h("span", {}, text));
  if (action) place.append(" ", h("button", { type: "button", class: "quiet", onclick: action.run }, action.name));
  hide = setTimeout(() => place.replaceChildren(), 8000);
}

/** Asks the user to confirm. The returned promise resolves to true if the user confirms, and to false otherwise. */
export function confirmed(question, yes) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-label": question, onclose: () => { resolve(dialog.returnValue === "yes"); dialog.remove(); } },
      h("p", {}, question),
      h(
        "form",
        { method: "dialog", class: "row" },
        h("button", { value: "no", class: "quiet" }, t("common.cancel")),
        h("button", { value: "yes" }, yes),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Runs a task immediately, then every `interval` ms while the page is visible. Returns a function that stops the repetition. */
export function whileVisible(task, interval) {
  let timer;
  let ended = false;
  const turn = async () => {
    clearTimeout(timer);
    if (ended) return;
    if (!document.hidden) await task();
    if (!ended) timer = setTimeout(turn, interval);
  };
  const onVisibility = () => document.hidden || turn();
  document.addEventListener("visibilitychange", onVisibility);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onVisibility);
  };
}
