//! Keeps the passwords of cameras out of logs and messages.
//!
//! There are two ways to do this. [`Secrets`] hides the passwords that are known from the
//! configuration, wherever they appear. [`text_without_secrets`] recognizes URLs by their
//! form, and hides their logins and queries. This module knows nothing about where the
//! messages are shown.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The placeholder for a string that is not shown.
const HIDDEN: &str = "…";

/// Minimum length in bytes of a secret that is hidden wherever it appears. A shorter
/// secret would match parts of ordinary words, so it is hidden only where the form of the
/// text shows that it is a secret.
const MIN_SECRET: usize = 3;

/// If the name of a parameter or an option contains one of these strings, the value of
/// the parameter or option is a secret.
const SECRET_NAMES: [&str; 10] = [
    "pass", "pwd", "psw", "pw", "secret", "token", "key", "auth", "login", "sid",
];

/// The passwords in a camera's address or command, in each form in which messages may
/// contain them.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Secrets(Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Returns the secrets in a URL.
    pub(super) fn of_url(text: &str) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add_url(text);
        secrets.sorted()
    }

    /// Returns the secrets in the words of a command. A word may itself be a command
    /// line.
    pub(super) fn of_command(words: &[String]) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add_words(words);
        for word in words
            .iter()
            .filter(|word| word.contains(char::is_whitespace))
        {
            secrets.add_words(&shlex::split(word).unwrap_or_default());
            let parts =
                word.split(|letter: char| letter.is_whitespace() || "'\"`".contains(letter));
            secrets.add_words(&parts.map(str::to_owned).collect::<Vec<_>>());
        }
        secrets.sorted()
    }

    /// Replaces each known secret in `text` with an ellipsis. Also hides the logins and
    /// queries of all URLs.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        text_without_secrets(&text)
    }

    fn add_words(&mut self, words: &[String]) {
        let mut names_secret = false;
        for word in words {
            if names_secret {
                self.add_login(word);
            }
            names_secret = is_secret_option(word);
            self.add_url(word);
            if let Some((name, value)) = word.split_once('=')
                && is_secret_name(name)
            {
                self.add_login(value);
            }
            if let Some((name, value)) = word.split_once(':')
                && name.trim().to_ascii_lowercase().ends_with("authorization")
            {
                self.add(value.trim());
                self.add(value.split_whitespace().next_back().unwrap_or_default());
            }
        }
    }

    /// Adds the login and the secrets in the query of each URL in `text`.
    fn add_url(&mut self, text: &str) {
        let mut rest = text;
        while let Some((_, later)) = rest.split_once("://") {
            rest = later;
            // A password may contain characters that normally end a URL, and may even
            // contain "://".
            let end = later.find(char::is_whitespace).unwrap_or(later.len());
            for part in [later, &later[..end]] {
                if let Some((login, _)) = part.rsplit_once('@') {
                    self.add_login(login);
                }
            }
            if let Some((_, query)) = later[..end].split_once('?') {
                for pair in query.split('&') {
                    if let Some((name, value)) = pair.split_once('=')
                        && is_secret_name(name)
                    {
                        self.add(value);
                    }
                }
            }
        }
    }

    /// Adds a password, or a user name and a password that are separated by a colon.
    fn add_login(&mut self, login: &str) {
        self.add(login);
        let decoded = decode(login);
        self.add(&STANDARD.encode(&decoded));
        if let Some((user, password)) = login.split_once(':') {
            self.add(password);
            let plain = [decode(user), b":".to_vec(), decode(password)].concat();
            self.add(&STANDARD.encode(plain));
        }
    }

    fn add(&mut self, secret: &str) {
        let decoded = String::from_utf8_lossy(&decode(secret)).into_owned();
        for form in [secret.to_owned(), decoded] {
            if form.len() >= MIN_SECRET && !self.0.contains(&form) {
                self.0.push(form);
            }
        }
    }

    /// Sorts the secrets by length, longest first, because a secret may contain another
    /// one.
    fn sorted(mut self) -> Secrets {
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self
    }
}

/// Whether the value of the option or parameter with this name is a secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// Whether `word` is an option of a command that is followed by a login or a password.
fn is_secret_option(word: &str) -> bool {
    let name = word.trim_start_matches('-');
    let is_user = matches!(word, "-u" | "-U" | "--user" | "--proxy-user" | "-user");
    is_user || (name.len() < word.len() && !word.contains('=') && is_secret_name(name))
}

/// Returns a sentence or a log line without the logins and queries of its URLs.
#[must_use]
pub fn text_without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, later) = rest.split_at(at + 3);
        shown += before;
        rest = &later[login_len(later)..];
        let url = &rest[..word_len(rest)];
        if let Some(query) = url.find('?').filter(|_| !url.contains("://")) {
            shown += &url[..query];
            shown += "?…";
            // The punctuation after the URL is kept.
            let end = url.trim_end_matches([':', ',', ';', '.', ')', ']']).len();
            rest = &rest[end.max(query + 1)..];
        }
    }
    shown + rest
}

/// Whether a character is a blank, a control character, or an invisible character.
/// Copying an address from a web page may add such characters.
pub(super) fn is_blank(letter: char) -> bool {
    letter.is_whitespace()
        || letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Decodes percent-encoded bytes such as `%41`. A percent sign that is not followed by
/// two hexadecimal digits is kept.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, later @ ..] = rest {
        rest = later;
        let code = (digit(rest.first()), digit(rest.get(1)));
        if let (b'%', (Some(high), Some(low))) = (*first, code) {
            bytes.push((high * 16 + low) as u8);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    bytes
}

/// Returns the length of the login at the start of `text`, including the `@`, or 0 if
/// there is no login. `text` is the text after `://`.
fn login_len(text: &str) -> usize {
    let next = text.find("://").unwrap_or(text.len());
    let word = word_len(text).min(next);
    let at = match text[..word].rfind('@') {
        None if is_cut(&text[..word]) => text[..next].rfind('@'),
        found => found,
    };
    match at {
        // Error messages contain this placeholder to show what the user must write.
        Some(at) if &text[..at] == "USER:PASSWORD" => 0,
        Some(at) => at + 1,
        None => 0,
    }
}

/// Returns the length of the first word in `text`. A quotation mark also ends the word.
fn word_len(text: &str) -> usize {
    let ends = |letter: char| is_blank(letter) || "'\"<>`".contains(letter);
    text.find(ends).unwrap_or(text.len())
}

/// Whether `word`, which looks like a host, ends in the middle of a password. This is the
/// case if the part that looks like a port is not a number.
fn is_cut(word: &str) -> bool {
    let host = &word[..word.find(['/', '?', '#', '\\']).unwrap_or(word.len())];
    host.rsplit_once(':').is_some_and(|(_, port)| {
        !port.ends_with(']') && port.bytes().any(|byte| !byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_in_a_text_lose_login_and_query() {
        for (text, shown) in [
            (
                "[x]  http://me:sec/ret@cam/1: no; \"rtsp://a:b@c\" too",
                "[x]  http://cam/1: no; \"rtsp://c\" too",
            ),
            (
                "http://cam/v?user=me&pwd=secret: refused",
                "http://cam/v?…: refused",
            ),
            ("http://me:sec ret'@cam/1 failed", "http://cam/1 failed"),
            ("see http://cam:81/a and a@b", "see http://cam:81/a and a@b"),
            ("http://[::1]:81/a b@c", "http://[::1]:81/a b@c"),
            (
                "as in http://USER:PASSWORD@HOST/PATH",
                "as in http://USER:PASSWORD@HOST/PATH",
            ),
            ("no address", "no address"),
            ("http://", "http://"),
        ] {
            assert_eq!(text_without_secrets(text), shown);
        }
    }

    #[test]
    fn secrets_of_a_command_are_found_in_any_form() {
        for (command, line) in [
            (
                "ffmpeg -i rtsp://me:se%40cret@cam/1",
                "bad login me:se@cret or se%40cret",
            ),
            (
                "curl -u me:se@cret http://cam/",
                "Authorization: Basic bWU6c2VAY3JldA==",
            ),
            ("curl --user me:se@cret http://cam/", "se@cret"),
            ("wget --http-password=se@cret http://cam/", "se@cret"),
            ("wget --password se@cret http://cam/", "se@cret"),
            ("gst-launch-1.0 rtspsrc user-pw=se@cret", "se@cret"),
            ("sh -c 'curl -u me:se@cret http://cam/ | cat'", "se@cret"),
            ("sh -c 'ffmpeg -i \"rtsp://me:se@cret@cam/1\"'", "se@cret"),
            ("ffmpeg -i http://cam/v?pwd=se@cret", "se@cret"),
            ("ffmpeg -i 'rtsp://me:x y://se@cret@cam/1'", "x y://se@cret"),
            (
                "curl -H 'Authorization: Bearer se@cret' http://cam/",
                "Bearer se@cret",
            ),
        ] {
            let words = shlex::split(command).unwrap();
            let shown = Secrets::of_command(&words).redact(line);
            for leak in ["se@cret", "se%40cret", "bWU6c2VAY3JldA"] {
                assert!(!shown.contains(leak), "{command}: {shown}");
            }
        }
    }

    #[test]
    fn ordinary_words_of_a_command_are_shown() {
        let words = shlex::split("ffmpeg -f v4l2 -i /dev/video0 -f mjpeg -").unwrap();
        let line = "/dev/video0: No such device (mjpeg)";
        assert_eq!(Secrets::of_command(&words).redact(line), line);
    }

    proptest! {
        #[test]
        fn password_of_a_command_is_not_shown(
            password in "[ -~äß]{0,6}Qx7Z9[ -~äß]{0,6}",
            before in "[ -~]{0,8}",
            after in "[ -~]{0,8}",
        ) {
            let url = format!("rtsp://me:{password}@camera.lan/1");
            let words = ["ffmpeg", "-i", &url].map(str::to_owned);
            let secrets = Secrets::of_command(&words);
            for line in [
                format!("{before}{url}{after}"),
                format!("{before}{password}{after}"),
                format!("{before}{}{after}", String::from_utf8_lossy(&decode(&password))),
            ] {
                let shown = secrets.redact(&line);
                prop_assert!(!shown.contains("Qx7Z9"), "{}: {}", line, shown);
            }
        }

        #[test]
        fn any_text_is_redacted_without_a_panic(text in "\\PC{0,40}(://)?\\PC{0,40}") {
            prop_assert!(text_without_secrets(&text).len() <= text.len() + 8);
        }
    }
}
