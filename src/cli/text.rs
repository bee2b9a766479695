//! Words that several commands print.

/// "with_mask 3, without_mask 4".
pub(super) fn counts<'a>(counts: impl Iterator<Item = (&'a String, usize)>) -> String {
    let counts: Vec<String> = counts
        .map(|(label, count)| format!("{label} {count}"))
        .collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

/// A head by its number, as owners know it; `None` is the built-in one.
pub(super) fn model_name(number: Option<u32>) -> String {
    number.map_or("the built-in model".to_owned(), |n| format!("model {n}"))
}

pub(super) fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
