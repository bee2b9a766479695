// The texts of the page in the language of the person who reads it.
//
// Each file in the folder `texts` is the catalog of a language. Every text that the page shows
// comes from there, except for names, numbers, and those sentences from the device whose code the
// catalog lacks. These are in English.

/** The languages, by their own names. */
export const LANGUAGES = { en: "English", de: "Deutsch", es: "Español" };

const REMEMBERED = "language";

function remembered() {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    // The browser may refuse to store anything.
    return null;
  }
}

/** Returns the first language of the browser that the page has, unless the person has chosen one. */
function preferred() {
  const wanted = [remembered(), ...navigator.languages].filter(Boolean);
  return wanted.map((tag) => tag.split("-")[0]).find((language) => Object.hasOwn(LANGUAGES, language)) ?? "en";
}

export const language = preferred();

/** The language with the region of the browser, which decides how times and numbers are written. */
const locale = navigator.languages.find((tag) => tag.split("-")[0] === language) ?? language;

document.documentElement.lang = language;

const { default: catalog } = await import(`/texts/${language}.js`);

const plural = new Intl.PluralRules(locale);
const decimal = new Intl.NumberFormat(locale);

/** Chooses a language, and remembers it. */
export function choose(wanted) {
  try {
    localStorage.setItem(REMEMBERED, wanted);
  } catch {
    // Then the choice is lost, and the page stays in the language of the browser.
  }
  location.reload();
}

const written = (value) => (typeof value === "number" ? decimal.format(value) : value);

/**
 * Returns a text from the catalog as a list of strings and elements. A value takes the place of
 * the name in braces, and can be an element. If a text has several forms, the value `number`
 * chooses one.
 */
export function rich(key, values = {}) {
  const entry = catalog[key];
  const text = typeof entry === "string" ? entry : entry[plural.select(values.number)] ?? entry.other;
  return text.split(/\{(\w+)\}/).map((part, at) => (at % 2 === 0 ? part : written(values[part])));
}

/** Returns a text from the catalog as a string. */
export const t = (key, values) => rich(key, values).join("");

/** Returns a text from the catalog, or `otherwise` if the catalog lacks it. */
export const known = (key, otherwise) => (Object.hasOwn(catalog, key) ? t(key) : otherwise);

/** Returns the name of a label or a verdict. For example, with_mask becomes "with mask". */
export const words = (name) => known(`label.${name}`, known(`verdict.${name}`, name.replaceAll("_", " ")));

export const number = (value, digits = 0) => value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Writes a time in milliseconds. A short one keeps a digit, because 0 ms would look like a fault. */
export const milliseconds = (time) => t("live.ms", { number: number(time, time < 10 ? 1 : 0) });

export const percent = (share, digits = 1) => share.toLocaleString(locale, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });

export const list = (parts) => new Intl.ListFormat(locale, { type: "unit", style: "short" }).format(parts);

const TIME = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
const SHORT_TIME = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeZone: "UTC" });
const SHORT_DAY = new Intl.DateTimeFormat(locale, { month: "numeric", day: "numeric", timeZone: "UTC" });

/** Formats a UTC time from the device in the time zone of the browser. */
export const time = (utc, short = false) => (short ? SHORT_TIME : TIME).format(new Date(utc));

/** Formats a date such as 2026-11-30. */
export const day = (date, short = false) => (short ? SHORT_DAY : DAY).format(new Date(`${date}T00:00:00Z`));
