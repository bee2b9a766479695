// Small helpers to build elements and words.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...there(children));
  return element;
}

/** Children in one list; what is null or false is left out. */
const there = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Gives an element other children. */
export const fill = (element, ...children) => element.replaceChildren(...there(children));

/** An element with attributes (on… are listeners) and children. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** The same of SVG. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Words for a label or a decision: with_mask is "with mask". */
export const words = (name) => name.replaceAll("_", " ");

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

let hide;

/** Says something at the edge of the page, with a button if there is something to do about it. */
export function toast(text, action) {
  const place = document.getElementById("toast");
  clearTimeout(hide);
  place.replaceChildren(text);
  if (action) place.append(" ", h("button", { type: "button", class: "quiet", onclick: action.run }, action.name));
  hide = setTimeout(() => place.replaceChildren(), 8000);
}

/** Asks before something that cannot be taken back at once; whether it is wanted. */
export function confirmed(question, yes) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-label": question, onclose: () => { resolve(dialog.returnValue === "yes"); dialog.remove(); } },
      h("p", {}, question),
      h(
        "form",
        { method: "dialog", class: "row" },
        h("button", { value: "no", class: "quiet" }, "Cancel"),
        h("button", { value: "yes" }, yes),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Runs a task now and every so many milliseconds while the page is seen; gives what ends it. */
export function whileSeen(task, every) {
  let timer;
  let ended = false;
  const turn = async () => {
    clearTimeout(timer);
    if (ended) return;
    if (!document.hidden) await task();
    if (!ended) timer = setTimeout(turn, every);
  };
  const seen = () => document.hidden || turn();
  document.addEventListener("visibilitychange", seen);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}
