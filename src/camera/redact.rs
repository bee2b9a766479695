//! Credentials out of URLs, for logs and messages.

/// `url` without its user and password, and with an ellipsis for its query:
/// some cameras take the password there.
pub(super) fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // An unescaped slash in a password ends the host early: what looks like the
    // port is then no number.
    let host_is_cut = host.rsplit_once(':').is_some_and(|(_, port)| {
        !port.ends_with(']') && port.bytes().any(|byte| !byte.is_ascii_digit())
    });
    let at = host
        .rfind('@')
        .or_else(|| if host_is_cut { rest.rfind('@') } else { None });
    let rest = at.map_or(rest, |at| &rest[at + 1..]);
    match rest.split_once('?') {
        Some((path, _)) => format!("{scheme}://{path}?…"),
        None => format!("{scheme}://{rest}"),
    }
}

/// Returns a sentence or a command in which every word that contains a URL has
/// been passed through [`without_secrets`].
pub(super) fn text_without_secrets(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(|word| {
            let shown = without_secrets(word.trim_end());
            shown + &word[word.trim_end().len()..]
        })
        .collect()
}
