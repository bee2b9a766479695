//! Who may use the page: passwords, tokens, sessions. Pure, but for random
//! numbers and the credentials that are read at the start.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use sha2::{Digest, Sha256};

use super::WebError;
use crate::config::{self, is_password_hash, is_token_hash};
use crate::platform::files;

/// Longest password that is looked at, in bytes.
const MAX_PASSWORD: usize = 1024;
/// Largest credential that is read, in bytes.
const MAX_CREDENTIAL: u64 = 64 * 1024;

/// What lets somebody in. Nothing of it can be turned back into a secret.
#[derive(Clone)]
pub struct Access {
    password: Option<String>,
    tokens: Vec<[u8; 32]>,
}

impl Access {
    /// That of a config and of systemd's credentials.
    ///
    /// # Errors
    /// [`WebError::Credential`].
    pub fn of(web: &config::Web, credentials: Option<&Path>) -> Result<Access, WebError> {
        let mut password = web.password_hash.clone();
        if let Some(hash) = credential(credentials, "web-password-hash")? {
            if !is_password_hash(&hash) {
                return Err(WebError::Credential {
                    name: "web-password-hash",
                    problem: "is no hash of a password: let \"maskd passwd\" make one".to_owned(),
                });
            }
            password = Some(hash);
        }
        let more = credential(credentials, "web-token-hashes")?.unwrap_or_default();
        if !more.lines().all(is_token_hash) {
            return Err(WebError::Credential {
                name: "web-token-hashes",
                problem: "must have one hash of a token a line: let \"maskd passwd --token\" \
                          make them"
                    .to_owned(),
            });
        }
        let tokens = web.token_hashes.iter().map(String::as_str);
        let tokens = tokens.chain(more.lines()).filter_map(from_hex);
        Ok(Access {
            password,
            tokens: tokens.collect(),
        })
    }

    /// Whether nobody has to show anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.password.is_none() && self.tokens.is_empty()
    }

    /// Whether somebody can log in.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Whether this is the password. Takes as long as its hash was made to take.
    #[must_use]
    pub fn is_password(&self, password: &str) -> bool {
        let Some(hash) = self.password.as_deref() else {
            return false;
        };
        let Ok(hash) = PasswordHash::new(hash) else {
            return false;
        };
        password.len() <= MAX_PASSWORD
            && Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok()
    }

    /// Whether this is a token. Their hashes are compared, so how long it takes
    /// says nothing of them.
    #[must_use]
    pub fn is_token(&self, token: &str) -> bool {
        self.tokens.contains(&digest(token))
    }
}

/// A file of the folder where systemd puts secrets, without the space around.
fn credential(folder: Option<&Path>, name: &'static str) -> Result<Option<String>, WebError> {
    let Some(folder) = folder else {
        return Ok(None);
    };
    let bytes = match files::read(&folder.join(name), MAX_CREDENTIAL) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(WebError::Credential {
                name,
                problem: format!("cannot be read: {error}"),
            });
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) => Err(WebError::Credential {
            name,
            problem: "is no text".to_owned(),
        }),
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let (digits, _) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = digits
        .iter()
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

fn random() -> Result<String, WebError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(WebError::Random)?;
    Ok(to_hex(&bytes))
}

/// The PHC string of a password, for the config: argon2id with a salt of its
/// own.
///
/// # Errors
/// [`WebError::Password`] if it is empty or longer than 1024 bytes.
pub fn hash_password(password: &str) -> Result<String, WebError> {
    if password.is_empty() || password.len() > MAX_PASSWORD {
        let problem = format!("it must have 1 to {MAX_PASSWORD} bytes");
        return Err(WebError::Password(problem));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string())
        .map_err(|error| WebError::Password(error.to_string()))
}

/// A token for a machine, and its hash for the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What the machine sends.
    pub token: String,
    /// What the config says.
    pub hash: String,
}

/// Makes a token of 256 random bits.
///
/// # Errors
/// [`WebError::Random`].
pub fn new_token() -> Result<Token, WebError> {
    let token = format!("maskd_{}", random()?);
    let hash = to_hex(&digest(&token));
    Ok(Token { token, hash })
}

/// Sessions end when nobody used them for so long,
const UNUSED: Duration = Duration::from_hours(12);
/// and so long after the log-in.
const LONGEST: Duration = Duration::from_hours(24 * 7);
/// More than these are not remembered: the one that is unused longest ends.
const MOST_SESSIONS: usize = 64;

/// What a session is known by here: its cookie cannot be made from it.
pub type SessionKey = [u8; 32];

/// Who has logged in.
#[derive(Debug, Default)]
pub struct Sessions {
    known: HashMap<SessionKey, Session>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    begun: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) > UNUSED
            || now.saturating_duration_since(self.begun) > LONGEST
    }
}

impl Sessions {
    /// Begins one, and gives the value of its cookie.
    ///
    /// # Errors
    /// [`WebError::Random`].
    pub fn begin(&mut self, now: Instant) -> Result<String, WebError> {
        self.known.retain(|_, session| !session.is_over(now));
        while self.known.len() >= MOST_SESSIONS {
            let oldest = self.known.iter().min_by_key(|(_, session)| session.used);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.known.remove(&key);
        }
        let cookie = random()?;
        let session = Session {
            begun: now,
            used: now,
        };
        self.known.insert(digest(&cookie), session);
        Ok(cookie)
    }

    /// The session of a cookie, which is in use now.
    pub fn use_cookie(&mut self, now: Instant, cookie: &str) -> Option<SessionKey> {
        let key = digest(cookie);
        let session = self.known.get_mut(&key)?;
        if session.is_over(now) {
            self.known.remove(&key);
            return None;
        }
        session.used = now;
        Some(key)
    }

    /// Whether a session goes on.
    #[must_use]
    pub fn goes_on(&self, now: Instant, key: &SessionKey) -> bool {
        let session = self.known.get(key);
        session.is_some_and(|session| !session.is_over(now))
    }

    /// Forgets one: its cookie opens nothing any more.
    pub fn end(&mut self, key: &SessionKey) {
        self.known.remove(key);
    }
}

/// Tries that are free, for one address and for all,
const FREE: (f32, f32) = (5.0, 20.0);
/// and how long it takes until one more is.
const REFILL: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(2));
/// Addresses that are remembered.
const MOST_PEERS: usize = 1024;

/// How often somebody may try to log in.
#[derive(Debug, Default)]
pub struct Limiter {
    peers: HashMap<IpAddr, Bucket>,
    all: Option<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tries that are left.
    left: f32,
    at: Instant,
}

impl Bucket {
    /// As it is now; or how long it takes until there is a try left.
    fn at(self, now: Instant, free: f32, refill: Duration) -> Result<Bucket, Duration> {
        let waited = now.saturating_duration_since(self.at);
        let left = (self.left + waited.as_secs_f32() / refill.as_secs_f32()).min(free);
        if left >= 1.0 {
            Ok(Bucket { left, at: now })
        } else {
            Err(refill.mul_f32(1.0 - left))
        }
    }
}

impl Limiter {
    /// Takes a try; or says how long to wait for one.
    ///
    /// # Errors
    /// The time until there is a try.
    pub fn take(&mut self, now: Instant, peer: IpAddr) -> Result<(), Duration> {
        let peer = network(peer);
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            let full = |bucket: &Bucket| bucket.at(now, FREE.0, REFILL.0).map(|bucket| bucket.left);
            self.peers
                .retain(|_, bucket| full(bucket).is_ok_and(|left| left < FREE.0));
            if self.peers.len() >= MOST_PEERS {
                self.peers.clear();
            }
        }
        let fresh = |left| Bucket { left, at: now };
        let all = self.all.unwrap_or(fresh(FREE.1));
        let one = self.peers.get(&peer).copied().unwrap_or(fresh(FREE.0));
        let mut one = one.at(now, FREE.0, REFILL.0)?;
        let mut all = all.at(now, FREE.1, REFILL.1)?;
        one.left -= 1.0;
        all.left -= 1.0;
        self.peers.insert(peer, one);
        self.all = Some(all);
        Ok(())
    }

    /// The password was right: the tries of this address are free again.
    pub fn forgive(&mut self, peer: IpAddr) {
        self.peers.remove(&network(peer));
    }
}

/// Of IPv6 the network: whoever has an address there has billions.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash_alone() {
        let hash = hash_password("correct horse").unwrap();
        assert!(is_password_hash(&hash), "{hash}");
        assert_ne!(hash, hash_password("correct horse").unwrap(), "salted");
        let web = config::Web {
            password_hash: Some(hash),
            ..config::Web::default()
        };
        let access = Access::of(&web, None).unwrap();
        assert!(access.is_password("correct horse"));
        for wrong in ["", "correct horse ", "Correct horse", &"x".repeat(100_000)] {
            assert!(!access.is_password(wrong));
        }
        assert!(!access.is_open());
        assert!(hash_password("").is_err());
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let Token { token, hash } = new_token().unwrap();
        let web = config::Web {
            token_hashes: vec![hash.clone()],
            ..config::Web::default()
        };
        let access = Access::of(&web, None).unwrap();
        assert!(access.is_token(&token));
        assert!(!access.is_token(&hash) && !access.is_token(""));
        assert!(!access.has_password() && !access.is_open());
        assert!(!access.is_password(""));
    }

    #[test]
    fn credentials_go_before_the_config() {
        let folder = tempfile::tempdir().unwrap();
        let hash = hash_password("theirs").unwrap();
        std::fs::write(folder.path().join("web-password-hash"), hash + "\n").unwrap();
        let token = new_token().unwrap();
        let tokens = format!("{}\n{}\n", token.hash, new_token().unwrap().hash);
        std::fs::write(folder.path().join("web-token-hashes"), tokens).unwrap();
        let web = config::Web {
            password_hash: Some(hash_password("ours").unwrap()),
            ..config::Web::default()
        };
        let access = Access::of(&web, Some(folder.path())).unwrap();
        assert!(access.is_password("theirs") && !access.is_password("ours"));
        assert!(access.is_token(&token.token));
        std::fs::write(folder.path().join("web-password-hash"), "plain").unwrap();
        let error = Access::of(&web, Some(folder.path())).err().unwrap();
        assert!(!error.to_string().contains("plain"), "{error}");
    }

    #[test]
    fn sessions_end_by_log_out_disuse_and_age() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        let cookie = sessions.begin(start).unwrap();
        let key = sessions.use_cookie(start, &cookie).unwrap();
        assert!(sessions.goes_on(start, &key));
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
        assert_eq!(sessions.use_cookie(now, &used), None, "a week is over");
        for _ in 0..200 {
            sessions.begin(now).unwrap();
        }
        assert_eq!(sessions.known.len(), MOST_SESSIONS);
    }

    #[test]
    fn guessing_becomes_slow_for_one_and_for_many() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        for _ in 0..5 {
            assert_eq!(limiter.take(start, peer(1)), Ok(()));
        }
        let wait = limiter.take(start, peer(1)).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= REFILL.0, "{wait:?}");
        assert_eq!(limiter.take(start, peer(2)), Ok(()), "others may");
        assert_eq!(limiter.take(start + REFILL.0, peer(1)), Ok(()));
        limiter.forgive(peer(1));
        assert_eq!(limiter.take(start + REFILL.0, peer(1)), Ok(()));

        let tried = (0..100_000).filter(|number| limiter.take(start, peer(*number)).is_ok());
        assert!(tried.count() < 30, "many addresses are no way around it");
        assert!(limiter.peers.len() <= MOST_PEERS);
        let six = |text: &str| network(text.parse().unwrap());
        assert_eq!(six("2001:db8::1"), six("2001:db8::2:3"));
        assert_eq!(six("::ffff:10.0.0.1"), peer(0x0a00_0001));
    }
}
