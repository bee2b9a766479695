//! The address at which a browser opens the page.

use std::net::IpAddr;

use crate::config::Web;
use crate::platform::network;

/// The address of the page, as far as the config tells it.
#[derive(Debug, Clone)]
pub(crate) struct PageUrl {
    scheme: &'static str,
    /// The configured name or address, or `None` for the address of this machine.
    host: Option<String>,
    port: u16,
    local: bool,
}

impl PageUrl {
    /// Returns the address of the page, or `None` if there is no page.
    pub(crate) fn new(web: &Web) -> Option<PageUrl> {
        let listen = web.listen?;
        // An IPv6 socket for all addresses usually accepts IPv4 too.
        let own = (!listen.ip().is_unspecified()).then(|| host_of(listen.ip()));
        Some(PageUrl {
            scheme: if web.tls_certificate.is_some() {
                "https"
            } else {
                "http"
            },
            host: web.allowed_hosts.first().cloned().or(own),
            port: listen.port(),
            local: listen.ip().is_loopback(),
        })
    }

    /// Whether only this machine can open the page.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// Returns the URL, or `None` if this machine has no address that others can reach.
    pub(crate) fn url(&self) -> Option<String> {
        let own = || network::addresses().first().copied().map(host_of);
        Some(self.with_host(&self.host.clone().or_else(own)?))
    }

    /// Returns the URL with another host.
    pub(crate) fn with_host(&self, host: &str) -> String {
        format!("{}://{host}:{}/", self.scheme, self.port)
    }
}

/// Writes an address as the host of a URL.
fn host_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn page(listen: &str) -> Web {
        Web {
            listen: Some(listen.parse().unwrap()),
            ..Web::default()
        }
    }

    fn url(web: &Web) -> Option<String> {
        PageUrl::new(web).unwrap().url()
    }

    #[test]
    fn the_url_has_the_configured_address() {
        assert!(PageUrl::new(&Web::default()).is_none());
        let mut web = page("127.0.0.1:8080");
        assert_eq!(url(&web).unwrap(), "http://127.0.0.1:8080/");
        assert!(PageUrl::new(&web).unwrap().is_local());
        web = page("[::1]:8443");
        web.tls_certificate = Some(PathBuf::from("page.pem"));
        assert_eq!(url(&web).unwrap(), "https://[::1]:8443/");
    }

    #[test]
    fn a_page_on_all_addresses_has_a_url_that_others_can_open() {
        let mut web = page("0.0.0.0:8080");
        let url_of_page = PageUrl::new(&web).unwrap();
        assert!(!url_of_page.is_local());
        assert_eq!(url_of_page.with_host("ADDRESS"), "http://ADDRESS:8080/");
        if let Some(own) = url_of_page.url() {
            assert!(
                own.starts_with("http://") && own.ends_with(":8080/"),
                "{own}"
            );
            assert!(!own.contains("0.0.0.0"), "{own}");
        }
        web.allowed_hosts = vec!["door.example".to_owned()];
        assert_eq!(url(&web).unwrap(), "http://door.example:8080/");
    }
}
