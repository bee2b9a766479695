//! Text that several commands print.

use std::path::Path;

use crate::platform::text::printable;

/// Returns a path as a single line of text.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

/// Returns the place of a document, such as `CAMERAS.md`: where the package installs it, or else in
/// the repository.
pub(super) fn document(name: &str) -> String {
    let installed = format!("/usr/share/doc/maskd/docs/{name}");
    if Path::new(&installed).exists() {
        installed
    } else {
        format!("docs/{name}")
    }
}

/// Formats counts by label, such as "with_mask 3, without_mask 4".
pub(super) fn counts<'a>(counts: impl Iterator<Item = (&'a String, usize)>) -> String {
    let counts: Vec<String> = counts
        .map(|(label, count)| format!("{} {count}", printable(label)))
        .collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

/// Returns the name that messages to owners use for the head with this number. `None`
/// stands for the built-in head.
pub(super) fn model_name(number: Option<u32>) -> String {
    number.map_or("the built-in model".to_owned(), |n| format!("model {n}"))
}

pub(super) fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
