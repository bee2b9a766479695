//! Access control for the page: passwords, tokens, sessions, and the limit on login
//! attempts. This module performs no I/O, except to get random numbers and to read the
//! credentials.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use sha2::{Digest, Sha256};

use super::WebError;
use crate::api::connections::network;
use crate::config::{self, is_password_hash, is_token_hash};
use crate::platform::{files, hex};

/// Longest accepted password, in bytes.
const MAX_PASSWORD_BYTES: usize = 1024;
/// Minimum number of characters of a new password.
const MIN_PASSWORD_CHARACTERS: usize = 8;
/// Largest accepted credential file, in bytes.
const MAX_CREDENTIAL_BYTES: u64 = 64 * 1024;

/// The hashes of the password and the tokens. The password and the tokens cannot be
/// recovered from their hashes.
#[derive(Clone)]
pub struct Access {
    password: Option<String>,
    tokens: Vec<[u8; 32]>,
}

impl Access {
    /// Reads the hashes from a config and from systemd's credentials. A password hash
    /// from a credential takes precedence over one from the config. Token hashes from
    /// both are accepted.
    ///
    /// # Errors
    /// Returns [`WebError::Credential`] if a credential cannot be used.
    pub fn from_config(web: &config::Web, credentials: Option<&Path>) -> Result<Access, WebError> {
        let mut password = web.password_hash.clone();
        if let Some(hash) = credential(credentials, "web-password-hash")? {
            if !is_password_hash(&hash) {
                return Err(WebError::Credential {
                    name: "web-password-hash",
                    problem: "is not a password hash: create one with \"maskd passwd\"".to_owned(),
                });
            }
            password = Some(hash);
        }
        let more = credential(credentials, "web-token-hashes")?.unwrap_or_default();
        if !more.lines().all(is_token_hash) {
            return Err(WebError::Credential {
                name: "web-token-hashes",
                problem: "must have one token hash per line: create them with \"maskd passwd \
                          --token\""
                    .to_owned(),
            });
        }
        let tokens = web.token_hashes.iter().map(String::as_str);
        let tokens = tokens.chain(more.lines()).filter_map(hex::decode);
        Ok(Access {
            password,
            tokens: tokens.collect(),
        })
    }

    /// Whether everyone who can connect has access.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.password.is_none() && self.tokens.is_empty()
    }

    /// Whether there is a password to log in with.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Whether `self` and `other` have the same password, or neither of them has a
    /// password.
    pub(super) fn has_same_password(&self, other: &Access) -> bool {
        self.password == other.password
    }

    /// Whether `password` is correct. The check is slow on purpose: argon2 makes guessing
    /// passwords expensive.
    #[must_use]
    pub fn is_password(&self, password: &str) -> bool {
        let Some(hash) = self.password.as_deref() else {
            return false;
        };
        let Ok(hash) = PasswordHash::new(hash) else {
            return false;
        };
        password.len() <= MAX_PASSWORD_BYTES
            && Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok()
    }

    /// Whether `token` is valid. This function compares hashes rather than tokens, so the
    /// duration of the comparison reveals nothing about the tokens.
    #[must_use]
    pub fn is_token(&self, token: &str) -> bool {
        self.tokens.contains(&digest(token))
    }
}

/// Returns the trimmed content of a file in systemd's credentials directory, or `None` if
/// there is no such file.
fn credential(folder: Option<&Path>, name: &'static str) -> Result<Option<String>, WebError> {
    let Some(folder) = folder else {
        return Ok(None);
    };
    let bytes = match files::read_bounded(&folder.join(name), MAX_CREDENTIAL_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => {
            return Err(WebError::Credential {
                name,
                problem: format!("cannot be read: {}", error.source),
            });
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) => Err(WebError::Credential {
            name,
            problem: "is not UTF-8 text".to_owned(),
        }),
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn random() -> Result<String, WebError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(WebError::Random)?;
    Ok(hex::encode(&bytes))
}

/// Hashes a password with argon2id and a random salt. Returns the hash as a PHC string
/// for the config.
///
/// # Errors
/// Returns [`WebError::Password`] if the password is shorter than 8 characters, longer than
/// 1024 bytes, or easy to guess.
pub fn hash_password(password: &str) -> Result<String, WebError> {
    if let Some(problem) = problem_of(password) {
        return Err(WebError::Password(problem));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string())
        .map_err(|error| WebError::Password(error.to_string()))
}

/// Passwords and names that are tried first. A password that consists of such words and of
/// digits is easy to guess. The words are from the lists of the most frequent passwords of
/// several years, and from this project.
const GUESSABLE: [&str; 25] = [
    "password",
    "passwort",
    "pass",
    "admin",
    "administrator",
    "root",
    "user",
    "guest",
    "login",
    "letmein",
    "welcome",
    "qwerty",
    "qwertz",
    "qwertyuiop",
    "asdfghjkl",
    "iloveyou",
    "dragon",
    "monkey",
    "sunshine",
    "secret",
    "raspberry",
    "raspberrypi",
    "maskd",
    "mask",
    "camera",
];

/// Returns why a password is too weak or too long, or `None` if it can be used. The rules follow
/// NIST SP 800-63B, section 5.1.1.2: a minimum length, and no password that is commonly used.
fn problem_of(password: &str) -> Option<String> {
    let characters: Vec<char> = password.to_lowercase().chars().collect();
    if characters.len() < MIN_PASSWORD_CHARACTERS || password.len() > MAX_PASSWORD_BYTES {
        return Some(format!(
            "it must have at least {MIN_PASSWORD_CHARACTERS} characters and at most \
             {MAX_PASSWORD_BYTES} bytes"
        ));
    }
    // "12345678", "aaaaaaaa", and "hgfedcba" have a constant distance between characters.
    let distances = characters
        .windows(2)
        .map(|pair| i64::from(u32::from(pair[1])) - i64::from(u32::from(pair[0])));
    let distances: BTreeSet<i64> = distances.collect();
    let is_sequence = distances.len() == 1 && distances.iter().all(|step| (-1..=1).contains(step));
    let letters = characters
        .iter()
        .filter(|character| character.is_alphabetic());
    let letters: String = letters.collect();
    let is_number = characters.iter().all(char::is_ascii_digit);
    let is_guessable = is_number || GUESSABLE.contains(&letters.as_str());
    (is_sequence || is_guessable)
        .then(|| "it is easy to guess; use several words that do not belong together".to_owned())
}

/// A token for a program, and its hash for the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token that the program sends.
    pub token: String,
    /// The hash that goes into the config.
    pub hash: String,
}

/// Creates a token from 256 random bits.
///
/// # Errors
/// Returns [`WebError::Random`] if the system provides no random numbers.
pub fn new_token() -> Result<Token, WebError> {
    let token = format!("maskd_{}", random()?);
    let hash = hex::encode(&digest(&token));
    Ok(Token { token, hash })
}

/// A session ends after this long without a request.
const IDLE_TIMEOUT: Duration = Duration::from_hours(12);
/// A session ends this long after the login, even if it is in use.
const MAX_SESSION_AGE: Duration = Duration::from_hours(24 * 7);
/// Maximum number of sessions. If this number is reached, a new session replaces the
/// session that has been idle the longest.
const MAX_SESSIONS: usize = 64;

/// The hash of a session's cookie. The cookie cannot be recovered from this hash.
pub(super) type SessionKey = [u8; 32];

/// The sessions of all logged-in visitors.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_key: HashMap<SessionKey, Session>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    began_at: Instant,
    used_at: Instant,
}

impl Session {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used_at) > IDLE_TIMEOUT
            || now.saturating_duration_since(self.began_at) > MAX_SESSION_AGE
    }
}

impl Sessions {
    /// Begins a session and returns the value of its cookie.
    pub(super) fn begin(&mut self, now: Instant) -> Result<String, WebError> {
        self.by_key.retain(|_, session| !session.is_expired(now));
        while self.by_key.len() >= MAX_SESSIONS {
            let oldest = self
                .by_key
                .iter()
                .min_by_key(|(_, session)| session.used_at);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.by_key.remove(&key);
        }
        let cookie = random()?;
        let session = Session {
            began_at: now,
            used_at: now,
        };
        self.by_key.insert(digest(&cookie), session);
        Ok(cookie)
    }

    /// Returns the session of a cookie if it is valid. This counts as a use of the session.
    pub(super) fn use_cookie(&mut self, now: Instant, cookie: &str) -> Option<SessionKey> {
        let key = digest(cookie);
        let session = self.by_key.get_mut(&key)?;
        if session.is_expired(now) {
            self.by_key.remove(&key);
            return None;
        }
        session.used_at = now;
        Some(key)
    }

    /// Whether a session is still valid. This does not count as a use of the session.
    pub(super) fn is_valid(&self, now: Instant, key: &SessionKey) -> bool {
        let session = self.by_key.get(key);
        session.is_some_and(|session| !session.is_expired(now))
    }

    /// Ends a session. Its cookie is no longer accepted.
    pub(super) fn end(&mut self, key: &SessionKey) {
        self.by_key.remove(key);
    }

    /// Ends all sessions.
    pub(super) fn end_all(&mut self) {
        self.by_key.clear();
    }
}

/// The rate limit for each address: 5 attempts, then one every 20 s.
const PER_PEER: Rate = Rate {
    burst: 5.0,
    refill: Duration::from_secs(20),
};
/// The shared rate limit for the first attempts from all addresses: 64 attempts, then one
/// every second. An attempt is a first attempt if its address has not used up any of its
/// own attempts. Repeated guesses are not first attempts, so they cannot use up this
/// limit and lock out an owner who logs in for the first time.
const FIRST: Rate = Rate {
    burst: 64.0,
    refill: Duration::from_secs(1),
};
/// The shared rate limit for the later attempts from all addresses: 20 attempts, then one
/// every 2 s.
const FURTHER: Rate = Rate {
    burst: 20.0,
    refill: Duration::from_secs(2),
};
/// Maximum number of addresses that have their own bucket.
const MAX_PEERS: usize = 1024;
/// Maximum number of addresses that are remembered after a successful login.
const MAX_KNOWN: usize = 64;

/// The size of a token bucket, and the time it takes to gain one token.
struct Rate {
    burst: f32,
    refill: Duration,
}

/// Limits login attempts per address and overall, using token buckets.
///
/// The overall limits do not apply to addresses from which a user has logged in before, so
/// that strangers cannot lock out the owner.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    peers: HashMap<IpAddr, Bucket>,
    first: Option<Bucket>,
    further: Option<Bucket>,
    /// Addresses from which a user has logged in, with the most recent one at the end.
    known: VecDeque<IpAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Number of attempts left.
    left: f32,
    updated_at: Instant,
}

impl Bucket {
    /// Returns the bucket with all attempts that it has regained by the time `now`. If
    /// less than one attempt is left, fails with the time until the next attempt is
    /// allowed.
    fn refilled(self, now: Instant, rate: &Rate) -> Result<Bucket, Duration> {
        let waited = now.saturating_duration_since(self.updated_at);
        let gained = waited.as_secs_f32() / rate.refill.as_secs_f32();
        let left = (self.left + gained).min(rate.burst);
        if left >= 1.0 {
            Ok(Bucket {
                left,
                updated_at: now,
            })
        } else {
            Err(rate.refill.mul_f32(1.0 - left))
        }
    }
}

impl Limiter {
    /// Uses up one of the attempts of `peer`. If no attempt is left, fails with the time
    /// until the next attempt is allowed.
    pub(super) fn take(&mut self, now: Instant, peer: IpAddr) -> Result<(), Duration> {
        let peer = network(peer);
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            // Only full buckets are dropped, because dropping any other bucket would give
            // its address new attempts.
            let is_full = |bucket: &Bucket| {
                let refilled = bucket.refilled(now, &PER_PEER);
                refilled.is_ok_and(|bucket| bucket.left >= PER_PEER.burst)
            };
            self.peers.retain(|_, bucket| !is_full(bucket));
            if self.peers.len() >= MAX_PEERS {
                // This gives all addresses new attempts, but the overall limits still
                // apply.
                self.peers.clear();
            }
        }
        let full = |rate: &Rate| Bucket {
            left: rate.burst,
            updated_at: now,
        };
        let own = self.peers.get(&peer).copied().unwrap_or(full(&PER_PEER));
        let mut own = own.refilled(now, &PER_PEER)?;
        let (overall, rate) = if own.left >= PER_PEER.burst {
            (&mut self.first, &FIRST)
        } else {
            (&mut self.further, &FURTHER)
        };
        if !self.known.contains(&peer) {
            let mut left = overall.unwrap_or(full(rate)).refilled(now, rate)?;
            left.left -= 1.0;
            *overall = Some(left);
        }
        own.left -= 1.0;
        self.peers.insert(peer, own);
        Ok(())
    }

    /// Restores all attempts of an address after a login with the right password, and
    /// remembers the address.
    pub(super) fn succeeded(&mut self, peer: IpAddr) {
        let peer = network(peer);
        self.peers.remove(&peer);
        self.known.retain(|known| *known != peer);
        self.known.push_back(peer);
        if self.known.len() > MAX_KNOWN {
            self.known.pop_front();
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_checked_against_its_hash() {
        let hash = hash_password("correct horse").unwrap();
        assert!(is_password_hash(&hash), "{hash}");
        assert_ne!(hash, hash_password("correct horse").unwrap(), "salted");
        let web = config::Web {
            password_hash: Some(hash),
            ..config::Web::default()
        };
        let access = Access::from_config(&web, None).unwrap();
        assert!(access.is_password("correct horse"));
        for wrong in ["", "correct horse ", "Correct horse", &"x".repeat(100_000)] {
            assert!(!access.is_password(wrong));
        }
        assert!(!access.is_open());
        assert!(hash_password(&"word ".repeat(300)).is_err(), "too long");
        for weak in [
            "",
            "seven77",
            "password",
            "Password123!",
            "raspberry-2026",
            "12345678",
            "87654321",
            "aaaaaaaa",
            "abcdefgh",
            "19840312",
            "MASKD123",
        ] {
            assert!(hash_password(weak).is_err(), "{weak}");
        }
        for good in ["maskd at the gate", "tr0ub4dor", "žluťoučký", "12 34 ab 78"] {
            assert!(hash_password(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_token_is_checked_against_its_hash() {
        let Token { token, hash } = new_token().unwrap();
        let web = config::Web {
            token_hashes: vec![hash.clone()],
            ..config::Web::default()
        };
        let access = Access::from_config(&web, None).unwrap();
        assert!(access.is_token(&token));
        assert!(!access.is_token(&hash) && !access.is_token(""));
        assert!(!access.has_password() && !access.is_open());
        assert!(!access.is_password(""));
    }

    #[test]
    fn credentials_take_precedence_over_the_config() {
        let folder = tempfile::tempdir().unwrap();
        let hash = hash_password("their password").unwrap();
        std::fs::write(folder.path().join("web-password-hash"), hash + "\n").unwrap();
        let token = new_token().unwrap();
        let tokens = format!("{}\n{}\n", token.hash, new_token().unwrap().hash);
        std::fs::write(folder.path().join("web-token-hashes"), tokens).unwrap();
        let web = config::Web {
            password_hash: Some(hash_password("our own words").unwrap()),
            ..config::Web::default()
        };
        let access = Access::from_config(&web, Some(folder.path())).unwrap();
        assert!(access.is_password("their password") && !access.is_password("our own words"));
        assert!(access.is_token(&token.token));
        std::fs::write(folder.path().join("web-password-hash"), "plain").unwrap();
        let error = Access::from_config(&web, Some(folder.path()))
            .err()
            .unwrap();
        assert!(!error.to_string().contains("plain"), "{error}");
    }

    #[test]
    fn sessions_end_by_log_out_idleness_and_age() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        let cookie = sessions.begin(start).unwrap();
        let key = sessions.use_cookie(start, &cookie).unwrap();
        assert!(sessions.is_valid(start, &key));
        assert_eq!(sessions.use_cookie(start, "guessed"), None);
        sessions.end(&key);
        assert_eq!(sessions.use_cookie(start, &cookie), None);

        let unused = sessions.begin(start).unwrap();
        let used = sessions.begin(start).unwrap();
        let mut now = start;
        for _ in 0..16 {
            now += Duration::from_hours(10);
            assert!(sessions.use_cookie(now, &used).is_some());
        }
        assert_eq!(sessions.use_cookie(now, &unused), None);
        now += Duration::from_hours(9);
        assert_eq!(sessions.use_cookie(now, &used), None, "older than a week");
        for _ in 0..200 {
            sessions.begin(now).unwrap();
        }
        assert_eq!(sessions.by_key.len(), MAX_SESSIONS);
    }

    #[test]
    fn attempts_are_limited_by_address_and_overall() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        for _ in 0..5 {
            assert_eq!(limiter.take(start, peer(1)), Ok(()));
        }
        let wait = limiter.take(start, peer(1)).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= PER_PEER.refill, "{wait:?}");
        assert_eq!(
            limiter.take(start, peer(2)),
            Ok(()),
            "other addresses are not limited"
        );
        assert_eq!(limiter.take(start + PER_PEER.refill, peer(1)), Ok(()));
        limiter.succeeded(peer(1));
        assert_eq!(limiter.take(start + PER_PEER.refill, peer(1)), Ok(()));

        let accepted = (0..100_000).filter(|number| limiter.take(start, peer(*number)).is_ok());
        assert!(accepted.count() < 100, "many addresses do not help");
        assert!(limiter.peers.len() <= MAX_PEERS);
    }

    #[test]
    fn the_attempts_of_strangers_are_not_those_of_the_owner() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        for stranger in 2..60 {
            while limiter.take(start, peer(stranger)).is_ok() {}
        }
        assert_eq!(limiter.take(start, peer(1)), Ok(()), "a first attempt");
        limiter.succeeded(peer(1));
        for stranger in 60..10_000 {
            while limiter.take(start, peer(stranger)).is_ok() {}
        }
        for _ in 0..5 {
            assert_eq!(limiter.take(start, peer(1)), Ok(()), "a known address");
        }
        assert!(
            limiter.take(start, peer(1)).is_err(),
            "it has its own limit"
        );
        for owner in 0..1000 {
            limiter.succeeded(peer(owner));
        }
        assert_eq!(limiter.known.len(), MAX_KNOWN);
    }
}
