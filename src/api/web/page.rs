//! The assets of the page, compiled into the binary.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, content type, and content of each asset.
const ASSETS: [(&str, &str, &str); 25] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page.css", CSS, include_str!("page/page.css")),
    ("/icon.svg", SVG, include_str!("page/icon.svg")),
    ("/main.js", SCRIPT, include_str!("page/main.js")),
    ("/api.js", SCRIPT, include_str!("page/api.js")),
    ("/texts.js", SCRIPT, include_str!("page/texts.js")),
    ("/texts/en.js", SCRIPT, include_str!("page/texts/en.js")),
    ("/texts/de.js", SCRIPT, include_str!("page/texts/de.js")),
    ("/texts/es.js", SCRIPT, include_str!("page/texts/es.js")),
    ("/upload.js", SCRIPT, include_str!("page/upload.js")),
    ("/device.js", SCRIPT, include_str!("page/device.js")),
    ("/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/marking.js", SCRIPT, include_str!("page/marking.js")),
    ("/waiting.js", SCRIPT, include_str!("page/waiting.js")),
    (
        "/sample_panel.js",
        SCRIPT,
        include_str!("page/sample_panel.js"),
    ),
    ("/live.js", SCRIPT, include_str!("page/live.js")),
    ("/door.js", SCRIPT, include_str!("page/door.js")),
    ("/label.js", SCRIPT, include_str!("page/label.js")),
    ("/library.js", SCRIPT, include_str!("page/library.js")),
    ("/teach.js", SCRIPT, include_str!("page/teach.js")),
    ("/learning.js", SCRIPT, include_str!("page/learning.js")),
    ("/events.js", SCRIPT, include_str!("page/events.js")),
    ("/counts.js", SCRIPT, include_str!("page/counts.js")),
    ("/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/settings.js", SCRIPT, include_str!("page/settings.js")),
];

pub(super) fn routes() -> Router {
    ASSETS
        .into_iter()
        .fold(Router::new(), |router, (path, content, text)| {
            router.route(
                path,
                get(move || async move { ([(CONTENT_TYPE, content)], text) }),
            )
        })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A text, or its forms by plural category.
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Text(String),
        Forms(BTreeMap<String, String>),
    }

    impl Entry {
        fn texts(&self) -> Vec<&str> {
            match self {
                Entry::Text(text) => vec![text],
                Entry::Forms(forms) => forms.values().map(String::as_str).collect(),
            }
        }

        /// Names in braces.
        fn placeholders(&self) -> BTreeSet<&str> {
            let parts = self.texts().into_iter().flat_map(|text| text.split('{'));
            parts
                .filter_map(|part| Some(part.split_once('}')?.0))
                .collect()
        }
    }

    type Catalog = BTreeMap<String, Entry>;

    fn asset(path: &str) -> &'static str {
        let found = ASSETS.iter().find(|(known, ..)| *known == path);
        found.map(|(_, _, text)| *text).unwrap()
    }

    fn catalog(language: &str) -> Catalog {
        let text = asset(&format!("/texts/{language}.js")).trim();
        let json = text.strip_prefix("export default ").unwrap();
        serde_json::from_str(json.strip_suffix(';').unwrap()).unwrap()
    }

    /// The scripts, without the catalogs.
    fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
        let scripts = ASSETS
            .into_iter()
            .filter(|(_, content, _)| *content == SCRIPT);
        let own = scripts.filter(|(path, ..)| !path.starts_with("/texts/"));
        own.map(|(path, _, text)| (path, text))
    }

    #[test]
    fn every_language_has_the_texts_of_english() {
        let english = catalog("en");
        for language in ["de", "es"] {
            let other = catalog(language);
            let keys = |catalog: &Catalog| catalog.keys().cloned().collect::<BTreeSet<_>>();
            let differ: Vec<_> = keys(&english)
                .symmetric_difference(&keys(&other))
                .cloned()
                .collect();
            assert!(differ.is_empty(), "{language}: {differ:?}");
            for (key, entry) in &english {
                let translated = &other[key];
                assert_eq!(
                    entry.placeholders(),
                    translated.placeholders(),
                    "{language}: {key}"
                );
                if let (Entry::Forms(forms), Entry::Forms(translated)) = (entry, translated) {
                    assert!(forms.keys().eq(translated.keys()), "{language}: {key}");
                } else {
                    let are_texts = matches!((entry, translated), (Entry::Text(_), Entry::Text(_)));
                    assert!(are_texts, "{language}: {key} has other forms");
                }
                assert!(
                    translated.texts().iter().all(|text| !text.is_empty()),
                    "{key}"
                );
            }
        }
    }

    #[test]
    fn plural_forms_have_a_number() {
        for language in ["en", "de", "es"] {
            for (key, entry) in catalog(language) {
                let Entry::Forms(forms) = &entry else {
                    continue;
                };
                assert!(forms.keys().eq(["one", "other"]), "{language}: {key}");
                assert!(forms["other"].contains("{number}"), "{language}: {key}");
            }
        }
    }

    #[test]
    fn the_page_uses_every_text_and_no_other() {
        let english = catalog("en");
        let sources: String = scripts().map(|(_, text)| text).collect();
        let html = asset("/");
        for key in english.keys() {
            let is_named = sources.contains(&format!("\"{key}\""));
            // A key that is put together, such as `decision.${decision}`.
            let mut starts = key.match_indices('.').map(|(at, _)| &key[..=at]);
            let is_made = starts.any(|start| sources.contains(&format!("`{start}${{")));
            let is_in_html = html.contains(&format!("data-text=\"{key}\""));
            assert!(is_named || is_made || is_in_html, "{key} is not used");
        }
        for call in ["t(\"", "rich(\""] {
            for (at, _) in sources.match_indices(call) {
                let is_call = !sources[..at].ends_with(|before: char| before.is_alphanumeric());
                let key = sources[at + call.len()..].split('"').next().unwrap();
                assert!(!is_call || english.contains_key(key), "{key} is missing");
            }
        }
        for part in html.split("data-text=\"").skip(1) {
            let key = part.split('"').next().unwrap();
            assert!(english.contains_key(key), "{key} is missing");
        }
    }

    /// Returns the string literals of a script, each with the code in front of it.
    fn literals(script: &str) -> Vec<(&str, &str)> {
        let mut found = Vec::new();
        let mut rest = script;
        let mut code = script;
        while let Some(at) = rest.find(['"', '`', '/']) {
            let (before, open) = (&code[..code.len() - rest.len() + at], &rest[at..]);
            if open.starts_with("//") {
                rest = open.find('\n').map_or("", |end| &open[end..]);
            } else if open.starts_with("/*") {
                rest = open.find("*/").map_or("", |end| &open[end..]);
            } else if let Some(after) = open.strip_prefix('/') {
                rest = after;
                continue;
            } else {
                let quote = &open[..1];
                let Some(end) = open[1..].find(quote) else {
                    break;
                };
                found.push((before, &open[1..=end]));
                rest = &open[end + 2..];
            }
            code = rest;
        }
        found
    }

    /// Whether a literal reads like a text for people: two words, or a word that starts with a
    /// capital letter.
    fn is_prose(literal: &str) -> bool {
        let is_word = |word: &&str| word.len() > 1 && word.chars().all(char::is_alphabetic);
        let words: Vec<&str> = literal.split(' ').filter(is_word).collect();
        words.len() > 1
            || words
                .first()
                .is_some_and(|word| word.starts_with(char::is_uppercase))
    }

    #[test]
    fn texts_for_people_are_only_in_the_catalogs() {
        /// Names of keys, events, errors, languages, methods, and commands.
        const NAMES: [&str; 21] = [
            "Enter",
            "Delete",
            "Home",
            "End",
            "ArrowLeft",
            "ArrowRight",
            "ArrowUp",
            "ArrowDown",
            "AbortError",
            "English",
            "Deutsch",
            "Español",
            "GET",
            "POST",
            "PATCH",
            "DELETE",
            "UTC",
            "maskd passwd",
            "maskd check",
            "maskd train --replay",
            "sudo maskd setup",
        ];
        /// Classes of elements that a condition chooses.
        const CLASSES: [&str; 3] = ["crops one", "dot chosen", "quiet danger"];
        let mut bad = Vec::new();
        for (path, script) in scripts() {
            for (before, literal) in literals(script) {
                let is_class = before.ends_with("class: ") || before.ends_with("className = ");
                let is_known = is_class || NAMES.contains(&literal) || CLASSES.contains(&literal);
                if is_prose(literal) && !is_known {
                    bad.push((path, literal));
                }
            }
        }
        assert!(bad.is_empty(), "{bad:?}");
        let html = asset("/");
        let noscript = html.find("<noscript>").unwrap()..html.find("</noscript>").unwrap();
        let visible = [&html[..noscript.start], &html[noscript.end..]].concat();
        let texts = visible
            .split('<')
            .filter_map(|part| Some(part.split_once('>')?.1.trim()));
        let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
        assert_eq!(texts, ["maskd", "maskd"], "the title and the heading");
        assert!(!html.contains("aria-label"), "the script sets labels");
    }

    #[test]
    fn prose_is_found() {
        let script =
            "// It says no.\nh(\"p\", { class: \"a b\" }, \"Save it\", `Wait ${x}`, a / b)";
        let found: Vec<&str> = literals(script).into_iter().map(|(_, text)| text).collect();
        assert_eq!(found, ["p", "a b", "Save it", "Wait ${x}"]);
        assert!(is_prose("Save") && is_prose("two words") && is_prose("Wait ${x}"));
        assert!(!is_prose("card") && !is_prose("panel-close") && !is_prose("live.on"));
    }
}
