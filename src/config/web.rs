//! `[web]`: the web page, and who may use it.

use std::net::SocketAddr;
use std::path::PathBuf;

use argon2::password_hash::phc::PasswordHash;
use serde::{Deserialize, Serialize};

use super::Check;

/// `[web]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Web {
    /// Address and port of the page and the API. If absent, there is no page.
    pub listen: Option<SocketAddr>,
    /// Host names under which browsers may open the page, in addition to `localhost` and
    /// IP addresses.
    pub allowed_hosts: Vec<String>,
    /// Password hash, as printed by `maskd passwd`.
    pub password_hash: Option<String>,
    /// Hashes of tokens for programs, as printed by `maskd passwd --token`.
    pub token_hashes: Vec<String>,
    /// PEM file with the certificate chain. If present, the page uses HTTPS.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key.
    pub tls_key: Option<PathBuf>,
    /// Maximum frame rate of the live view, in frames per second; 0.2 to 30.
    pub live_fps: f32,
}

impl Default for Web {
    fn default() -> Web {
        Web {
            listen: None,
            allowed_hosts: Vec::new(),
            password_hash: None,
            token_hashes: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            live_fps: 5.0,
        }
    }
}

impl Web {
    pub(super) fn check(&self, check: &mut Check) {
        for host in &self.allowed_hosts {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if host.is_empty() || !host.chars().all(is_name) {
                let problem =
                    format!("contains {host:?}: use plain host names, such as \"door.lan\"");
                check.fail("web.allowed-hosts", problem);
            }
        }
        let hash = self.password_hash.as_deref();
        if hash.is_some_and(|hash| !is_password_hash(hash)) {
            let problem = "is not a password hash: create one with \"maskd passwd\"";
            check.fail("web.password-hash", problem.to_owned());
        }
        if !self.token_hashes.iter().all(|hash| is_token_hash(hash)) {
            let problem = "contains something other than token hashes: create them with \"maskd passwd --token\"";
            check.fail("web.token-hashes", problem.to_owned());
        }
        if self.tls_key.is_some() && self.tls_certificate.is_none() {
            check.fail("web.tls-certificate", "is missing".to_owned());
        }
        check.within("web.live-fps", self.live_fps, 0.2, 30.0);
    }
}

/// Whether the text is an argon2 hash in the PHC string format.
#[must_use]
pub fn is_password_hash(text: &str) -> bool {
    PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm.as_str().starts_with("argon2") && hash.hash.is_some() && hash.salt.is_some()
    })
}

/// Whether the text is a SHA-256 digest in lowercase hexadecimal digits.
#[must_use]
pub fn is_token_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
