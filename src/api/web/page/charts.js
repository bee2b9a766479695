// SVG plots, each with a text description for screen readers.

import { h, s, scrollable } from "./dom.js";
import { number as written, percent, t, words } from "./texts.js";

const WIDTH = 320;
const HEIGHT = 160;
const MARGIN = { left: 44, right: 12, top: 12, bottom: 30 };

/**
 * Draws a line through points [x, y], with a dot at each point.
 * `chosen` is the x value of the filled dot. `format` converts a y value to text.
 * Without it, y values have two digits, or more if the ends of the axis would look the same.
 */
export function line({ points, title, x, y, chosen, format }) {
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  const span = (values) => {
    const [min, max] = [Math.min(...values), Math.max(...values)];
    return max > min ? [min, max] : [min - 0.5, max + 0.5];
  };
  const [left, right] = span(xs);
  const [low, high] = span(ys);
  const digits = [2, 3, 4].find((count) => written(low, count) !== written(high, count)) ?? 5;
  const text = format ?? ((value) => written(value, digits));
  const at = ([px, py]) => [
    MARGIN.left + ((px - left) / (right - left)) * (WIDTH - MARGIN.left - MARGIN.right),
    HEIGHT - MARGIN.bottom - ((py - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom),
  ];
  const places = points.map(at);
  const bottom = HEIGHT - MARGIN.bottom;
  const [first, last] = [points[0], points[points.length - 1]];
  return s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", "aria-label": t("chart.line", { title, axis: x, from: text(first[1]), first: first[0], to: text(last[1]), last: last[0] }) },
    s("title", {}, title),
    s("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${WIDTH - MARGIN.right}` }),
    s("text", { x: MARGIN.left - 6, y: MARGIN.top + 4, class: "tick end" }, text(high)),
    s("text", { x: MARGIN.left - 6, y: bottom, class: "tick end" }, text(low)),
    ...places.map(([px], number) => s("text", { x: px, y: bottom + 14, class: "tick middle" }, written(points[number][0]))),
    s("text", { x: (WIDTH + MARGIN.left) / 2, y: HEIGHT - 3, class: "tick middle" }, x),
    s("text", { x: MARGIN.left + 8, y: MARGIN.top + 4, class: "tick" }, y),
    s("polyline", { class: "line", points: places.map((place) => place.join(",")).join(" ") }),
    ...places.map(([px, py], number) => s("circle", { class: points[number][0] === chosen ? "dot chosen" : "dot", cx: px, cy: py, r: 4 })),
  );
}

/**
 * Draws a confusion matrix. Rows are the true labels, and columns are the predicted labels. A
 * screen reader calls it `name`, which no other matrix on the page may have. `address` returns the
 * address of the face pictures of a cell.
 */
export function confusion(labels, rows, { caption, name, address }) {
  const max = Math.max(1, ...rows.flat());
  return scrollable(
    name,
    h(
      "table",
      { class: "confusion" },
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("chart.corner")), labels.map((label) => h("th", { scope: "col" }, words(label))))),
      h(
        "tbody",
        {},
        rows.map((row, at) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, words(labels[at] ?? "?")),
            row.map((number, column) => {
              const text = written(number);
              const filter = { label: labels[at], predicted: labels[column] };
              const content = address && number > 0 ? h("a", { href: address(filter), "aria-label": t("chart.cell", { number, label: words(labels[at]), predicted: words(labels[column]) }) }, text) : text;
              const cell = h("td", { class: number === 0 ? "" : at === column ? "right" : "wrong" }, content);
              cell.style.setProperty("--share", number / max);
              return cell;
            }),
          ),
        ),
      ),
    ),
  );
}

/** Formats an accuracy and its confidence interval as text. */
export const score = ({ right, samples, accuracy, interval }) =>
  t("chart.score", { accuracy: percent(accuracy), right, samples, low: percent(interval[0], 0), high: percent(interval[1], 0) });
