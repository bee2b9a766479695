//! Logs in to a camera with Basic authentication (RFC 7617) or Digest authentication (RFC
//! 7616, or RFC 2069 for old cameras).
//!
//! Owns the syntax of challenges and of the responses to them. Performs no I/O; random
//! numbers are passed in as an argument. Knows nothing about connections.
//!
//! Basic authentication reveals the password to everyone on the network, so it is used
//! only for a camera that does not offer Digest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::super::address::Login;
use crate::platform::hex;

/// The authentication method of the camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Method {
    Basic,
    Digest(DigestChallenge),
}

/// A challenge for Digest authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DigestChallenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// The algorithm as the camera wrote it. `None` means MD5. In this case, the response
    /// does not name an algorithm either.
    algorithm_name: Option<String>,
    algorithm: Algorithm,
    quality: Quality,
    /// Whether the camera rejected the nonce only because the nonce was too old. In that
    /// case, the login may still be correct.
    pub(super) stale: bool,
    /// Number of requests that have used this nonce.
    uses: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5 { session: bool },
    Sha256 { session: bool },
}

/// The quality of protection (`qop`), which determines what the response covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    /// The response is computed as in RFC 2069.
    Unspecified,
    Auth,
    /// The response also covers the request's body, which is always empty.
    AuthInt,
}

/// Chooses the method for the given `WWW-Authenticate` headers. If the camera offers
/// Digest, this is Digest with the strongest supported algorithm. If the camera offers
/// Basic but not Digest, or names no method, this is Basic. Returns `None` if the camera
/// offers only methods that are not supported.
pub(super) fn choose(challenges: &[String]) -> Option<Method> {
    let all: Vec<Challenge> = challenges.iter().flat_map(|text| parse(text)).collect();
    let is = |challenge: &&Challenge, name: &str| challenge.scheme.eq_ignore_ascii_case(name);
    let digests = all.iter().filter(|challenge| is(challenge, "digest"));
    if digests.clone().next().is_some() {
        let usable = digests.filter_map(DigestChallenge::new);
        return usable
            .max_by_key(|digest| digest.algorithm)
            .map(Method::Digest);
    }
    let offers_basic = all.iter().any(|challenge| is(&challenge, "basic"));
    (offers_basic || all.is_empty()).then_some(Method::Basic)
}

/// An authentication method with its parameters.
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .parameters
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Splits a header into its challenges. Commas separate both the challenges and their
/// parameters.
fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
        let end = rest.find(|letter: char| letter.is_whitespace() || ",=".contains(letter));
        let (word, later) = rest.split_at(end.unwrap_or(rest.len()));
        let after = later.trim_start();
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = take_value(value.trim_start());
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word.to_owned(), value));
            }
            rest = after;
        } else if word.is_empty() {
            return challenges;
        } else {
            challenges.push(Challenge {
                scheme: word.to_owned(),
                parameters: Vec::new(),
            });
            rest = later;
        }
    }
}

/// Splits a string into a quoted or plain value and the rest.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|letter: char| letter.is_whitespace() || letter == ',');
        let (value, rest) = text.split_at(end.unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[index + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

impl DigestChallenge {
    /// Returns `None` if the challenge has no nonce or requires an unsupported feature.
    fn new(challenge: &Challenge) -> Option<DigestChallenge> {
        let algorithm_name = challenge.get("algorithm").map(str::to_owned);
        let algorithm = match &algorithm_name {
            None => Algorithm::Md5 { session: false },
            Some(name) => Algorithm::named(name)?,
        };
        let quality = match challenge.get("qop").map(str::trim) {
            None | Some("") => Quality::Unspecified,
            Some(list) => {
                let has = |name: &str| {
                    list.split(|letter: char| letter == ',' || letter.is_whitespace())
                        .any(|offered| offered.eq_ignore_ascii_case(name))
                };
                match (has("auth"), has("auth-int")) {
                    (true, _) => Quality::Auth,
                    (false, true) => Quality::AuthInt,
                    (false, false) => return None,
                }
            }
        };
        let stale = challenge.get("stale");
        Some(DigestChallenge {
            realm: challenge.get("realm").unwrap_or_default().to_owned(),
            nonce: challenge.get("nonce")?.to_owned(),
            opaque: challenge.get("opaque").map(str::to_owned),
            algorithm_name,
            algorithm,
            quality,
            stale: stale.is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            uses: 0,
        })
    }
}

impl Algorithm {
    fn named(name: &str) -> Option<Algorithm> {
        Some(match name.to_ascii_uppercase().as_str() {
            "MD5" => Algorithm::Md5 { session: false },
            "MD5-SESS" => Algorithm::Md5 { session: true },
            "SHA-256" => Algorithm::Sha256 { session: false },
            "SHA-256-SESS" => Algorithm::Sha256 { session: true },
            _ => return None,
        })
    }

    fn hash(self, bytes: &[u8]) -> String {
        match self {
            Algorithm::Md5 { .. } => hex::encode(&Md5::digest(bytes)),
            Algorithm::Sha256 { .. } => hex::encode(&Sha256::digest(bytes)),
        }
    }

    fn is_session(self) -> bool {
        match self {
            Algorithm::Md5 { session } | Algorithm::Sha256 { session } => session,
        }
    }
}

impl Method {
    /// Returns the value of the `Authorization` header for a GET request. `target` is the
    /// path and the query, and `random` is the client's nonce.
    pub(super) fn authorization(&mut self, login: &Login, target: &str, random: &str) -> Vec<u8> {
        match self {
            Method::Basic => {
                let login = [&login.user, &b":"[..], &login.password].concat();
                format!("Basic {}", STANDARD.encode(login)).into_bytes()
            }
            Method::Digest(challenge) => challenge.answer(login, target, random),
        }
    }
}

impl DigestChallenge {
    fn answer(&mut self, login: &Login, target: &str, random: &str) -> Vec<u8> {
        self.uses = self.uses.saturating_add(1);
        let count = format!("{:08x}", self.uses);
        let hash = |bytes: &[u8]| self.algorithm.hash(bytes);
        let realm = self.realm.as_bytes();
        let mut secret = hash(&[&login.user, &b":"[..], realm, b":", &login.password].concat());
        if self.algorithm.is_session() {
            secret = hash(format!("{secret}:{}:{random}", self.nonce).as_bytes());
        }
        let (quality, covered) = match self.quality {
            Quality::Unspecified => (None, format!("GET:{target}")),
            Quality::Auth => (Some("auth"), format!("GET:{target}")),
            Quality::AuthInt => (Some("auth-int"), format!("GET:{target}:{}", hash(b""))),
        };
        let covered = hash(covered.as_bytes());
        let response = match quality {
            None => hash(format!("{secret}:{}:{covered}", self.nonce).as_bytes()),
            Some(quality) => {
                let nonces = format!("{}:{count}:{random}", self.nonce);
                hash(format!("{secret}:{nonces}:{quality}:{covered}").as_bytes())
            }
        };
        let mut header = b"Digest username=".to_vec();
        header.extend(quoted(&login.user));
        let mut add = |name: &str, value: &[u8]| {
            header.extend(format!(", {name}=").as_bytes());
            header.extend(value);
        };
        add("realm", &quoted(realm));
        add("nonce", &quoted(self.nonce.as_bytes()));
        add("uri", &quoted(target.as_bytes()));
        add("response", &quoted(response.as_bytes()));
        if let Some(name) = &self.algorithm_name {
            add("algorithm", name.as_bytes());
        }
        if let Some(opaque) = &self.opaque {
            add("opaque", &quoted(opaque.as_bytes()));
        }
        if let Some(quality) = quality {
            add("qop", quality.as_bytes());
            add("nc", count.as_bytes());
        }
        if quality.is_some() || self.algorithm.is_session() {
            add("cnonce", &quoted(random.as_bytes()));
        }
        header
    }
}

/// Returns `bytes` as a quoted string. Leaves out the characters that would end the
/// header line.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in bytes {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'\r' | b'\n' | 0 => {}
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login(user: &str, password: &str) -> Login {
        Login {
            user: user.into(),
            password: password.into(),
        }
    }

    fn chosen(headers: &[&str]) -> Option<Method> {
        let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
        choose(&headers)
    }

    fn answer(header: &str, login: &Login, target: &str, random: &str) -> String {
        let mut method = chosen(&[header]).unwrap();
        String::from_utf8(method.authorization(login, target, random)).unwrap()
    }

    #[test]
    fn examples_of_the_standards_are_answered() {
        // This is the example in RFC 7616, section 3.9.1.
        let mufasa = login("Mufasa", "Circle of Life");
        let random = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let challenge = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", \
            algorithm=ALGORITHM, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
            opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let challenge = challenge.replace("ALGORITHM", algorithm);
            let header = answer(&challenge, &mufasa, "/dir/index.html", random);
            for part in [
                format!("response=\"{response}\""),
                format!("algorithm={algorithm}"),
                "Digest username=\"Mufasa\", realm=\"http-auth@example.org\"".to_owned(),
                "uri=\"/dir/index.html\"".to_owned(),
                "qop=auth, nc=00000001".to_owned(),
                "opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"".to_owned(),
                format!("cnonce=\"{random}\""),
            ] {
                assert!(header.contains(&part), "{part}: {header}");
            }
        }
        // This is the example in RFC 2069, section 2.4, with the corrected response from
        // its erratum.
        let header = answer(
            "digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"",
            &login("Mufasa", "CircleOfLife"),
            "/dir/index.html",
            random,
        );
        assert!(
            header.contains("response=\"1949323746fe6a43ef61f9606e7febea\""),
            "{header}"
        );
        for absent in ["qop", "nc=", "cnonce", "algorithm"] {
            assert!(!header.contains(absent), "{header}");
        }
    }

    #[test]
    fn digest_is_preferred_and_never_answered_with_basic() {
        let basic = "Basic realm=\"cam\"";
        let md5 = "Digest realm=\"a, Basic\", nonce=\"n\"";
        let sha = "Digest realm=\"a\", nonce=\"n\", algorithm=\"SHA-256\", qop=auth";
        let unknown = "Digest realm=\"a\", nonce=\"n\", algorithm=SHA-512-256";
        let algorithm = |headers: &[&str]| match chosen(headers) {
            Some(Method::Digest(digest)) => Some(digest.algorithm),
            _ => None,
        };
        let plain_md5 = Some(Algorithm::Md5 { session: false });
        let plain_sha = Some(Algorithm::Sha256 { session: false });
        assert_eq!(algorithm(&[basic, md5]), plain_md5);
        assert_eq!(algorithm(&[&format!("{basic}, {md5}")]), plain_md5);
        assert_eq!(algorithm(&[&format!("{md5}, {sha}, {basic}")]), plain_sha);
        assert_eq!(algorithm(&[&format!("{unknown},{md5}")]), plain_md5);
        assert_eq!(chosen(&[basic]), Some(Method::Basic));
        assert_eq!(chosen(&["BASIC"]), Some(Method::Basic));
        assert_eq!(chosen(&[]), Some(Method::Basic), "it names no method");
        for headers in [
            &[unknown, basic][..],
            &["Digest realm=\"a\"", basic],
            &["Digest realm=\"a\", nonce=\"n\", qop=other", basic],
            &["Bearer realm=\"a\""],
            &["NTLM", "Negotiate"],
        ] {
            assert_eq!(chosen(headers), None, "{headers:?}");
        }
    }

    #[test]
    fn challenges_are_read_as_cameras_write_them() {
        let sloppy =
            "DIGEST realm = \"a \\\"b\\\"\" ,nonce=abc== , QOP=\"AUTH\",opaque=\"\", stale=TRUE,";
        let Some(Method::Digest(digest)) = chosen(&[sloppy]) else {
            panic!("no digest");
        };
        assert_eq!(digest.realm, "a \"b\"");
        assert_eq!(digest.nonce, "abc==");
        assert_eq!(digest.quality, Quality::Auth);
        assert!(digest.stale);
        let header = answer(sloppy, &login("m\"e", "x"), "/", "r");
        assert!(
            header.contains("username=\"m\\\"e\", realm=\"a \\\"b\\\"\""),
            "{header}"
        );
        assert!(header.contains("opaque=\"\""), "{header}");
        for nonsense in [
            "",
            ",",
            "=",
            "=,=",
            "Digest",
            "Digest =",
            "Digest nonce",
            "Digest nonce=\"",
            "\"",
            "Digest nonce=\"\\",
        ] {
            chosen(&[nonsense]);
        }
    }

    #[test]
    fn uses_of_a_nonce_are_counted_and_sessions_have_a_key_of_their_own() {
        let challenge = "Digest realm=\"a\", nonce=\"n\", qop=\"auth-int\", algorithm=MD5-sess";
        let mut method = chosen(&[challenge]).unwrap();
        let login = login("me", "secret");
        method.authorization(&login, "/", "r");
        let second = String::from_utf8(method.authorization(&login, "/", "r")).unwrap();
        assert!(
            second.contains("qop=auth-int, nc=00000002, cnonce=\"r\""),
            "{second}"
        );
        let hash = |text: &str| hex::encode(&Md5::digest(text.as_bytes()));
        let secret = hash(&format!("{}:n:r", hash("me:a:secret")));
        let covered = hash(&format!("GET:/:{}", hash("")));
        let response = hash(&format!("{secret}:n:00000002:r:auth-int:{covered}"));
        assert!(second.contains(&response), "{second}");
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_without_a_panic(
            text in "(Digest |Basic |)([a-z\\\\\",= ]|nonce=|qop=|\\PC){0,30}",
        ) {
            if let Some(mut method) = choose(&[text]) {
                let header = method.authorization(&login("me", "secret"), "/", "r");
                prop_assert!(!header.contains(&b'\n') && !header.contains(&b'\r'));
            }
        }
    }

    #[test]
    fn header_cannot_be_split() {
        let mut basic = Method::Basic;
        let odd = login("a\r\nb", "c\r\n");
        assert_eq!(basic.authorization(&odd, "/", "r"), b"Basic YQ0KYjpjDQo=");
        let header = answer("Digest nonce=\"x\"", &odd, "/", "r");
        assert!(!header.contains(['\r', '\n']), "{header}");
    }
}
