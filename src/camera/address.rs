//! The addresses of network cameras.
//!
//! Owns the syntax of these addresses. Keeps the user name and password apart from the
//! rest of the address, so that no message or log can show them. Knows nothing about
//! connections.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use super::redact::{Secrets, decode, is_blank};

/// The `http://` or `https://` address of a camera, with its login.
///
/// `Display` and `Debug` show neither the login nor the query, because some cameras
/// expect the password in the query.
///
/// ```
/// use maskd::camera::CameraUrl;
/// let url: CameraUrl = "http://me:secret@10.0.0.7/video?key=secret".parse()?;
/// assert_eq!(url.to_string(), "http://10.0.0.7/video?…");
/// # Ok::<(), maskd::camera::AddressError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CameraUrl {
    /// The address without the user name and the password.
    url: Url,
    login: Option<Login>,
    secrets: Secrets,
}

/// A user name and its password. Both are bytes, because cameras differ in how they
/// encode non-ASCII characters.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Vec<u8>,
    pub(super) password: Vec<u8>,
}

/// The reason a string is not a camera address. No message repeats any part of the
/// string, because any part could belong to a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The string contains a blank or a control character.
    #[error(
        "the camera address contains a blank or a control character; remove it, or write a blank in a password as %20"
    )]
    Blank,
    /// The string contains `#`, which ends an address.
    #[error("the camera address contains a #; write a # in a password as %23")]
    Fragment,
    /// The string contains an `@` after the host.
    #[error(
        "the camera address has an @ behind a slash or question mark; in a user name or password write / as %2F, \\ as %5C, ? as %3F, : as %3A, @ as %40, and % as %25, and behind the host write @ as %40"
    )]
    LateAt,
    /// The URL parser rejects the string.
    #[error(
        "the camera address is not valid ({0}); write it as http://HOST:PORT/PATH, or http://USER:PASSWORD@HOST:PORT/PATH, with / in a password as %2F, : as %3A, @ as %40, and % as %25"
    )]
    Invalid(&'static str),
}

impl FromStr for CameraUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<CameraUrl, AddressError> {
        if text.chars().any(is_blank) {
            return Err(AddressError::Blank);
        }
        if text.contains('#') {
            return Err(AddressError::Fragment);
        }
        let invalid = AddressError::Invalid;
        let (scheme, rest) = text.split_once("://").ok_or(invalid("it has no http://"))?;
        if !["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return Err(invalid("it does not begin with http:// or https://"));
        }
        // The parser treats a backslash as a slash.
        let authority = rest.find(['/', '?', '\\']).unwrap_or(rest.len());
        if rest[authority..].contains('@') {
            return Err(AddressError::LateAt);
        }
        if authority == 0 {
            return Err(invalid("it has no host"));
        }
        let mut url = Url::parse(text).map_err(|error| invalid(reason(&error.to_string())))?;
        if !url.has_host() || url.port() == Some(0) {
            return Err(invalid("it has no host, or the port 0"));
        }
        let secrets = Secrets::of_url(text);
        let login = Login {
            user: decode(url.username()),
            password: decode(url.password().unwrap_or_default()),
        };
        let has_login = !url.username().is_empty() || url.password().is_some();
        let removed = url.set_username("").and_then(|()| url.set_password(None));
        removed.map_err(|()| invalid("it cannot have a user name"))?;
        Ok(CameraUrl {
            url,
            login: has_login.then_some(login),
            secrets,
        })
    }
}

/// Returns a description of the parser's error. The description is a fixed string, so it
/// cannot contain any part of the address.
fn reason(error: &str) -> &'static str {
    match error {
        "empty host" => "it has no host",
        "invalid port number" => "what follows the host's colon is not a port number",
        "invalid IPv4 address" => "the IPv4 address is wrong",
        "invalid IPv6 address" => "the IPv6 address is wrong",
        _ => "its host is not valid",
    }
}

impl CameraUrl {
    /// Returns the address without the login.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Returns the secrets that must not appear in a message about this camera.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }
}

impl fmt::Display for CameraUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.secrets.redact(&shown(&self.url)))
    }
}

impl fmt::Debug for CameraUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CameraUrl({self})")
    }
}

/// Returns the scheme, host, port, and path of a URL. The query is replaced with an
/// ellipsis, because some cameras expect the password there. Each part of the path that
/// could also contain a password is replaced as well.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let hides = |part: &&str| part.contains(['=', '&', ';', '@', ':', '%']);
    let path: Vec<&str> = url
        .path()
        .split('/')
        .map(|part| if hides(&part) { "…" } else { part })
        .collect();
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{}://{host}{port}{}{query}", url.scheme(), path.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<CameraUrl, AddressError> {
        text.parse()
    }

    #[test]
    fn login_is_taken_out_of_the_address() {
        for (text, user, password) in [
            ("http://me:secret@cam/video", "me", "secret"),
            ("http://me:se%2Fcr%40t@cam/video", "me", "se/cr@t"),
            ("http://me:p@ss@cam/video", "me", "p@ss"),
            ("http://me:50%off%@cam/video", "me", "50%off%"),
            ("http://me@cam/video", "me", ""),
            ("http://:secret@cam/video", "", "secret"),
            ("http://m%C3%A4:ä@cam/video", "mä", "ä"),
            ("http://me:a:b[]|^\"<>`{}@cam/video", "me", "a:b[]|^\"<>`{}"),
        ] {
            let url = parse(text).unwrap();
            let login = url.login().unwrap();
            assert_eq!(login.user, user.as_bytes(), "{text}");
            assert_eq!(login.password, password.as_bytes(), "{text}");
            assert_eq!(url.to_string(), "http://cam/video");
            assert_eq!(format!("{url:?}"), "CameraUrl(http://cam/video)");
        }
        assert_eq!(
            parse("http://me:%E4@cam/")
                .unwrap()
                .login()
                .unwrap()
                .password,
            [0xe4]
        );
        assert!(parse("http://cam/video").unwrap().login().is_none());
    }

    #[test]
    fn only_what_is_no_secret_is_shown() {
        for (text, expected) in [
            ("HTTP://cam", "http://cam/"),
            ("https://cam:8443/a/b", "https://cam:8443/a/b"),
            ("http://[::1]:81/a", "http://[::1]:81/a"),
            ("http://cam/v?user=me&pwd=secret", "http://cam/v?…"),
            (
                "http://cam/user=me_password=secret_channel=1.cgi",
                "http://cam/…",
            ),
            ("http://cam/login;pwd=secret/video", "http://cam/…/video"),
            ("http://me:secret@cam/secret/video", "http://cam/…/video"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn errors_say_what_to_write_and_repeat_nothing() {
        for (text, part) in [
            (
                "http://me:sec ret@cam/",
                "write a blank in a password as %20",
            ),
            ("http://me:sec\u{a0}ret@cam/", "%20"),
            ("http://me:sec\tret@cam/", "%20"),
            ("http://me:secret@cam/\u{200b}", "%20"),
            ("http://me:sec#ret@cam/", "as %23"),
            ("http://cam/v?pwd=sec#ret", "as %23"),
            ("http://me:12/34@cam/", "write / as %2F"),
            ("http://me:sec/ret@cam/", "write / as %2F"),
            ("http://me:sec\\ret@cam/", "\\ as %5C"),
            ("http://me:12?34@cam/", "? as %3F"),
            ("http://me:se@c/ret@cam/", "write / as %2F"),
            ("http://me:secret@cam/a@b", "behind the host write @ as %40"),
            ("http://me:secret", "not a port number"),
            ("http://me:secret@", "it has no host"),
            ("http://me:secret@cam:x/", "not a port number"),
            ("http://me:secret@cam:0/", "the port 0"),
            ("http://", "it has no host"),
            ("http:///secret", "it has no host"),
            ("http://cam:99999/", "not a port number"),
            ("file:///secret", "does not begin with http://"),
            ("secret", "it has no http://"),
            ("http://[::secret]/", "the IPv6 address is wrong"),
            ("http://a b/", "%20"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            for leak in ["sec", "12", "34"] {
                assert!(!error.contains(leak), "{text}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_password_is_shown(
            user in "[a-z]{0,3}",
            left in "[!-~äß\u{20ac}]{0,6}",
            right in "[ -~äß\t]{0,6}",
            at in "[!-~]{0,2}",
            path in "[a-z/?=@]{0,8}",
        ) {
            // The password contains two markers, so that the test notices a leak of
            // either half of the password.
            let password = format!("{left}Qx7Z9{at}Z9Qx7{right}");
            let text = format!("http://{user}:{password}@camera.lan/{path}");
            let output = match parse(&text) {
                Ok(url) => format!("{url} {url:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!output.contains("Qx7Z9"), "{}: {}", text, output);
            prop_assert!(!output.contains("Z9Qx7"), "{}: {}", text, output);
        }
    }
}
