//! Holds each module to the table in `src/lib.rs`: what it may use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// `| [`name`] | owns | may use |`
fn table() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let lib = fs::read_to_string(source("lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.map(|row| {
        let (name, rest) = row.split_once("`]").unwrap();
        let uses = rest.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let uses = if uses.starts_with("all") {
            None
        } else {
            Some(
                uses.split(", ")
                    .filter(|name| *name != "-")
                    .map(String::from)
                    .collect(),
            )
        };
        (name.to_owned(), uses)
    })
    .collect()
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}

/// The text of a module, without its tests.
fn text(module: &str) -> String {
    let single = source(&format!("{module}.rs"));
    if single.exists() {
        return without_tests(&fs::read_to_string(single).unwrap());
    }
    sources(&source(module))
        .iter()
        .map(|file| without_tests(&fs::read_to_string(file).unwrap()))
        .collect()
}

/// The Rust files of a folder and of those in it.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn modules_use_what_the_table_allows() {
    let table = table();
    let lib = fs::read_to_string(source("lib.rs")).unwrap();
    let modules: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let listed: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    assert_eq!(modules, listed, "every module has its row");

    let mut wrong = Vec::new();
    for (module, allowed) in &table {
        let Some(allowed) = allowed else { continue };
        for line in text(module)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for used in line.split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if used != *module && !allowed.contains(&used) {
                    wrong.push(format!("{module} uses {used}: {}", line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_onnx_knows_tract_and_only_cli_and_indicate_know_the_terminal() {
    for entry in fs::read_dir(source("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let text = text(module);
        let knows = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if module != "onnx" {
            assert!(!knows(&["tract_onnx", "prost::"]), "{module} knows tract");
        }
        if !["cli", "indicate"].contains(&module) {
            assert!(
                !knows(&["println!", "print!", "indicatif"]),
                "{module} knows the terminal"
            );
        }
    }
}
