//! The page: the daemon's API over TCP, who may use it, and the live view.
//!
//! Owns the listener, passwords, tokens, sessions, the checks of where a request
//! comes from, the assets of the page, and the pictures of the live view. What
//! the API does is `control`'s; of that, everything that names a path of the
//! device is left out here.
//!
//! | under `/api/v1`, besides | takes | gives |
//! |---|---|---|
//! | GET `/session` | | [`SessionRecord`] |
//! | POST `/session` | [`LogIn`] | [`SessionRecord`], and a cookie |
//! | DELETE `/session` | | [`SessionRecord`] |
//! | GET `/live` | | [`LiveRecord`] |
//! | GET `/live/picture`, `/live/picture?after=N` | | a JPEG |
//! | GET `/live/stream` | | JPEGs as `multipart/x-mixed-replace` |
//! | GET `/openapi.json` | | all of this, for programs |
//!
//! The camera path gives away two pointers a frame, and waits for nobody:
//! pictures are drawn and encoded by a thread of low priority, from the
//! newest frame, only while somebody looks, and once for all who look.
//! `docs/SECURITY.md` has what was tried against it.

mod auth;
mod guard;
mod live_view;
mod page;
mod server;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use crate::config;

pub use auth::{Access, Limiter, Sessions, Token, hash_password, new_token};
pub use live_view::{AnnotatedFrame, LiveView, draw};
pub use server::{LiveFrame, LiveRecord, LogIn, SessionRecord, WebServer, description, serve};

/// Why there can be no page. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Everybody could use it.
    #[error(
        "web.listen is {0}, which others can reach: set web.password-hash to what \"maskd passwd\" \
         prints, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// A secret that is no secret's hash.
    #[error("the credential {name} {problem}")]
    Credential {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Certificates or key cannot be used.
    #[error("web.{key} {}: {problem}", path.display())]
    Tls {
        /// The key of the config.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is a certificate and no key.
    #[error("web.tls-key is missing: name the file, or give the credential web-tls-key")]
    NoKey,
    /// The system has no random numbers.
    #[error("there are no random numbers: {0}")]
    Random(getrandom::Error),
    /// A password cannot be hashed.
    #[error("this password cannot be used: {0}")]
    Password(String),
    /// The port cannot be had.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// What the page is served with, checked before anything starts.
#[derive(Clone)]
pub struct Plan {
    listen: SocketAddr,
    allowed_hosts: Arc<[String]>,
    access: Access,
    tls: Option<TlsAcceptor>,
    pause: Duration,
}

/// Where, and what it takes to get in.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let needs = match (self.access.has_password(), self.access.is_open()) {
            (true, _) => "a password",
            (false, false) => "a token",
            (false, true) => "nothing, on this device",
        };
        write!(f, "{scheme}://{}, for whoever has {needs}", self.listen)
    }
}

impl Plan {
    /// That of a config; `None` if it wants no page. `credentials` is the folder
    /// where systemd puts them.
    ///
    /// # Errors
    /// [`WebError::Open`] if everybody could use it; whatever is wrong with a
    /// credential, a certificate or a key.
    pub fn of(web: &config::Web, credentials: Option<&Path>) -> Result<Option<Plan>, WebError> {
        let Some(listen) = web.listen else {
            return Ok(None);
        };
        let access = Access::of(web, credentials)?;
        if !listen.ip().is_loopback() && access.is_open() {
            return Err(WebError::Open(listen));
        }
        Ok(Some(Plan {
            listen,
            allowed_hosts: web.allowed_hosts.clone().into(),
            access,
            tls: tls::acceptor(web, credentials)?,
            pause: Duration::from_secs_f32(1.0 / web.live_fps),
        }))
    }

    /// Whether passwords could be read on their way.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        self.tls.is_none() && !self.listen.ip().is_loopback()
    }

    /// The least time between two pictures of the live view.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }
}
