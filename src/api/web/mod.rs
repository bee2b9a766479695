//! The web page: the daemon's API over TCP, access control, and the live view.
//!
//! This module owns the listener, passwords, tokens, sessions, the checks of a request's
//! origin, the assets of the page, and the pictures for the live view. The module
//! `api::socket` defines the API itself. The page does not offer the operations of this
//! API that name a path on the device.
//!
//! | additional paths under `/api/v1` | request | response |
//! |---|---|---|
//! | GET `/session` | | [`SessionRecord`] |
//! | POST `/session` | [`LogIn`] | [`SessionRecord`], and a cookie |
//! | DELETE `/session` | | [`SessionRecord`] |
//! | GET `/live` | | [`LiveRecord`] |
//! | GET `/live/picture`, `/live/picture?after=N` | | a JPEG |
//! | GET `/live/stream` | | JPEGs as `multipart/x-mixed-replace` |
//! | GET `/openapi.json` | | a machine-readable description of the API |
//!
//! For each frame, the inference thread passes on only two pointers, and it never waits.
//! A low-priority thread draws and encodes the newest frame once for all viewers, and
//! only while there are viewers. `docs/SECURITY.md` describes the attacks that were
//! considered.

mod auth;
mod examples;
mod guard;
mod live_view;
mod page;
mod server;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::platform::network;

pub use auth::{Access, Token, hash_password, new_token};
pub use live_view::{AnnotatedFrame, LiveView, draw};
pub use server::{LiveFrame, LiveRecord, LogIn, SessionRecord, WebServer, description, serve};

/// Why the page cannot be served. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The config would let anyone on the network use the page.
    #[error(
        "web.listen is {0}, which other machines can reach: set web.password-hash to what \"maskd passwd\" \
         prints, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// A systemd credential cannot be used.
    #[error("the credential {name} {problem}")]
    Credential {
        /// Name of the credential.
        name: &'static str,
        /// The end of the sentence, such as "cannot be read".
        problem: String,
    },
    /// The certificate chain or its key cannot be used.
    #[error("web.{key} {}: {problem}", path.display())]
    Tls {
        /// The config key that names the file.
        key: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        problem: String,
    },
    /// A certificate is configured without its key.
    #[error("web.tls-key is missing: name the file, or give the credential web-tls-key")]
    NoKey,
    /// The system provides no random numbers.
    #[error("cannot get random numbers from the system: {0}")]
    Random(getrandom::Error),
    /// A password cannot be hashed.
    #[error("this password cannot be used: {0}")]
    Password(String),
    /// The port cannot be opened, for example because another program uses it.
    #[error("cannot listen on {listen}: {}", why_not_open(*listen, source))]
    Listen {
        /// Address and port.
        listen: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

impl WebError {
    /// Whether another process may have opened the port: it is in use, or only others may open it.
    pub(crate) fn may_be_open(&self) -> bool {
        use io::ErrorKind::{AddrInUse, PermissionDenied};
        matches!(self, WebError::Listen { source, .. } if matches!(source.kind(), AddrInUse | PermissionDenied))
    }
}

/// Says why the port of the page cannot be opened, and what to do.
fn why_not_open(listen: SocketAddr, error: &io::Error) -> String {
    let own = || match network::addresses().as_slice() {
        [] => String::new(),
        some => format!(
            ", or to an address of this device ({})",
            some.iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => format!(
            "this device does not have this address; set web.listen to 0.0.0.0:{}{}",
            listen.port(),
            own()
        ),
        io::ErrorKind::AddrInUse => {
            "another program uses this port; stop it, or set web.listen to another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => "this user may not open this port; set web.listen to a \
                                            port from 1024 up, such as 8080"
            .to_owned(),
        _ => error.to_string(),
    }
}

/// Opens the port of the page for a moment, to see whether this is possible.
///
/// # Errors
/// Returns [`WebError::Listen`] if the port cannot be opened.
pub(crate) fn test_port(listen: SocketAddr) -> Result<(), WebError> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(source) => Err(WebError::Listen { listen, source }),
    }
}

/// The options for serving the page. They are checked before the daemon starts.
#[derive(Clone)]
pub struct WebOptions {
    listen: SocketAddr,
    allowed_hosts: Arc<[String]>,
    access: Access,
    tls: Option<TlsAcceptor>,
    frame_interval: Duration,
}

impl WebOptions {
    /// The address on which the page is served.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// What a visitor needs to get access.
    pub(crate) fn needs(&self) -> &'static str {
        match (self.access.has_password(), self.access.is_open()) {
            (true, _) => "a password",
            (false, false) => "a token",
            (false, true) => "access to this device",
        }
    }

    /// Returns the options from a config, or `None` if the config turns the page off.
    /// `credentials` is systemd's credentials directory.
    ///
    /// # Errors
    /// Returns [`WebError::Open`] if anyone on the network could use the page, and
    /// [`WebError::Credential`], [`WebError::Tls`], or [`WebError::NoKey`] if a
    /// credential or a certificate cannot be used.
    pub fn from_config(
        web: &config::Web,
        credentials: Option<&Path>,
    ) -> Result<Option<WebOptions>, WebError> {
        let Some(listen) = web.listen else {
            return Ok(None);
        };
        let access = Access::from_config(web, credentials)?;
        if !listen.ip().is_loopback() && access.is_open() {
            return Err(WebError::Open(listen));
        }
        Ok(Some(WebOptions {
            listen,
            allowed_hosts: web.allowed_hosts.clone().into(),
            access,
            tls: tls::acceptor(web, credentials)?,
            frame_interval: Duration::from_secs_f32(1.0 / web.live_fps),
        }))
    }

    /// Returns the options from a changed config. The frame rate stays the same, because
    /// it cannot change while the page is served. If the config has a different address
    /// or turns the page off, returns the current options, which then apply until the
    /// daemon restarts.
    ///
    /// # Errors
    /// Returns the same errors as [`from_config`](WebOptions::from_config).
    pub fn reloaded(
        &self,
        web: &config::Web,
        credentials: Option<&Path>,
    ) -> Result<WebOptions, WebError> {
        let options = WebOptions::from_config(web, credentials)?;
        let options = options.filter(|options| options.listen == self.listen);
        Ok(WebOptions {
            frame_interval: self.frame_interval,
            ..options.unwrap_or_else(|| self.clone())
        })
    }

    /// Whether passwords cross the network unencrypted.
    #[must_use]
    pub fn exposes_password(&self) -> bool {
        self.tls.is_none() && !self.listen.ip().is_loopback()
    }

    /// The minimum time between two pictures of the live view.
    #[must_use]
    pub fn frame_interval(&self) -> Duration {
        self.frame_interval
    }
}
