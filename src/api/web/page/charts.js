// Plots as SVG. Each says in words what it shows.

import { h, percent, s, words } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 160;
const EDGE = { left: 44, right: 12, top: 12, bottom: 30 };

/**
 * A line through points [x, y], each with a dot.
 * `chosen`: the x that is marked. `format`: how y is written.
 */
export function line({ points, title, x, y, chosen, format = (value) => String(Number(value.toPrecision(2))) }) {
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  const span = (values) => {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    return most > least ? [least, most] : [least - 0.5, most + 0.5];
  };
  const [left, right] = span(xs);
  const [low, high] = span(ys);
  const at = ([px, py]) => [
    EDGE.left + ((px - left) / (right - left)) * (WIDTH - EDGE.left - EDGE.right),
    HEIGHT - EDGE.bottom - ((py - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom),
  ];
  const places = points.map(at);
  const bottom = HEIGHT - EDGE.bottom;
  const [first, last] = [points[0], points[points.length - 1]];
  return s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", "aria-label": `${title}: from ${format(first[1])} at ${x} ${first[0]} to ${format(last[1])} at ${x} ${last[0]}` },
    s("title", {}, title),
    s("path", { class: "axis", d: `M${EDGE.left} ${EDGE.top}V${bottom}H${WIDTH - EDGE.right}` }),
    s("text", { x: EDGE.left - 6, y: EDGE.top + 4, class: "tick end" }, format(high)),
    s("text", { x: EDGE.left - 6, y: bottom, class: "tick end" }, format(low)),
    ...places.map(([px], number) => s("text", { x: px, y: bottom + 14, class: "tick middle" }, String(points[number][0]))),
    s("text", { x: (WIDTH + EDGE.left) / 2, y: HEIGHT - 3, class: "tick middle" }, x),
    s("text", { x: EDGE.left + 8, y: EDGE.top + 4, class: "tick" }, y),
    s("polyline", { class: "line", points: places.map((place) => place.join(",")).join(" ") }),
    ...places.map(([px, py], number) => s("circle", { class: points[number][0] === chosen ? "dot chosen" : "dot", cx: px, cy: py, r: 4 })),
  );
}

/** Rows are the true labels, columns what they were taken for. */
export function confusion(labels, rows, caption) {
  const most = Math.max(1, ...rows.flat());
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "confusion" },
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "is \\ told"), labels.map((label) => h("th", { scope: "col" }, words(label))))),
      h(
        "tbody",
        {},
        rows.map((row, at) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, words(labels[at] ?? "?")),
            row.map((number, column) => {
              const cell = h("td", { class: number === 0 ? "" : at === column ? "right" : "wrong" }, String(number));
              cell.style.setProperty("--share", number / most);
              return cell;
            }),
          ),
        ),
      ),
    ),
  );
}

/** Accuracy with its interval, in words. */
export const score = ({ right, samples, accuracy, interval }) =>
  `${percent(accuracy)} (${right} of ${samples}; 95 % interval ${percent(interval[0], 0)} to ${percent(interval[1], 0)})`;
