//! Protection against DNS rebinding and cross-site requests. This module checks whether a
//! request names one of our hosts, and whether a page of another site sent the request.
//! It performs no I/O.

use std::net::IpAddr;

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, Uri};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Returns the value of a header, or `None` if the header is missing, repeated, or not
/// text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a request names one of our hosts: `localhost`, an IP address, or one of
/// `names`. Without this check, another site could make its own name resolve to this
/// device. The page of that site could then read everything that this server returns (DNS
/// rebinding). IP addresses are safe, because they are not resolved by DNS.
pub(super) fn is_own_host(uri: &Uri, headers: &HeaderMap, names: &[String]) -> bool {
    let Some(host) = single(headers, &HOST) else {
        return false;
    };
    let is_own = |authority: &Authority| {
        let host = authority.host();
        let ip = host.trim_start_matches('[').trim_end_matches(']');
        // Nothing but a port may follow the host. `Authority` alone would also accept a
        // user name, and text between "]" and the port.
        let is_port = |rest: &str| {
            let port = rest.strip_prefix(':').unwrap_or_default();
            rest.is_empty() || !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        };
        let rest = authority.as_str().strip_prefix(host);
        rest.is_some_and(is_port)
            && (ip.parse::<IpAddr>().is_ok()
                || host.eq_ignore_ascii_case("localhost")
                || names.iter().any(|name| host.eq_ignore_ascii_case(name)))
    };
    let host = host.parse::<Authority>();
    // The request line can also name a host, as in `GET http://elsewhere/ HTTP/1.1`.
    host.is_ok_and(|authority| is_own(&authority)) && uri.authority().is_none_or(is_own)
}

/// Whether another site's page sent a request. The headers show this, because all
/// browsers send `Origin` with requests that change something, and current browsers
/// always send `Sec-Fetch-Site`.
pub(super) fn is_cross_site(method: &Method, headers: &HeaderMap) -> bool {
    if headers.contains_key(SEC_FETCH_SITE) {
        let site = single(headers, &SEC_FETCH_SITE);
        // "same-site" is also refused, because another port of this machine counts as the
        // same site and can belong to another user.
        if !matches!(site, Some("same-origin" | "none")) {
            return true;
        }
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && headers.contains_key(ORIGIN) {
        let origin = single(headers, &ORIGIN).and_then(|origin| origin.split_once("://"));
        let (Some((_, origin)), Some(host)) = (origin, single(headers, &HOST)) else {
            return true;
        };
        return !origin.eq_ignore_ascii_case(host);
    }
    false
}

/// Returns the value of a cookie, or `None` if the request has no cookie of this name.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let mut pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| {
            let pairs = line.split(';');
            pairs.filter_map(|pair| pair.trim().split_once('='))
        });
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_own_hosts_are_accepted() {
        let names = ["door.lan".to_owned()];
        let is_own =
            |host: &str| is_own_host(&Uri::from_static("/"), &headers(&[("host", host)]), &names);
        for host in [
            "localhost:8080",
            "127.0.0.1:8080",
            "192.168.1.7",
            "[::1]:8080",
            "[fe80::1]",
            "DOOR.lan",
            "door.lan:8080",
        ] {
            assert!(is_own(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "door.lan.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "user@127.0.0.1",
            "[::1]evil.example",
            "",
            "a b",
            "door.lan.",
        ] {
            assert!(!is_own(host), "{host}");
        }
        let missing = is_own_host(&Uri::from_static("/"), &HeaderMap::new(), &names);
        let twice = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(!missing && !is_own_host(&Uri::from_static("/"), &twice, &names));
        let absolute = Uri::from_static("http://evil.example/api");
        assert!(!is_own_host(
            &absolute,
            &headers(&[("host", "localhost")]),
            &names
        ));
    }

    #[test]
    fn requests_from_other_sites_are_recognized() {
        let is_refused = |method: Method, more: &[(&'static str, &str)]| {
            let mut all = vec![("host", "door.lan:8080")];
            all.extend(more);
            is_cross_site(&method, &headers(&all))
        };
        assert!(!is_refused(
            Method::POST,
            &[("origin", "http://door.lan:8080")]
        ));
        assert!(!is_refused(
            Method::POST,
            &[("origin", "https://door.lan:8080")]
        ));
        assert!(!is_refused(Method::POST, &[]), "a program, not a browser");
        for origin in [
            "null",
            "http://evil.example",
            "http://door.lan",
            "http://door.lan:8081",
            "",
        ] {
            assert!(is_refused(Method::POST, &[("origin", origin)]), "{origin}");
            assert!(
                is_refused(Method::DELETE, &[("origin", origin)]),
                "{origin}"
            );
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(
                is_refused(Method::GET, &[("sec-fetch-site", site)]),
                "{site}"
            );
        }
        assert!(!is_refused(
            Method::GET,
            &[("sec-fetch-site", "same-origin")]
        ));
        let typed = [("sec-fetch-site", "none")];
        assert!(!is_refused(Method::GET, &typed), "typed by the user");
    }

    #[test]
    fn cookies_are_found_among_others() {
        let all = headers(&[("cookie", "a=1; session=xyz;b=2"), ("cookie", "c=3")]);
        assert_eq!(cookie(&all, "session"), Some("xyz"));
        assert_eq!(cookie(&all, "c"), Some("3"));
        assert_eq!(cookie(&all, "sess"), None);
    }

    /// Generates arbitrary strings, and strings that are assembled from parts of hosts
    /// and origins.
    fn headerlike() -> impl Strategy<Value = String> {
        let parts = vec![
            "localhost",
            "127.0.0.1",
            "[::1]",
            "door.lan",
            "evil.example",
            "http",
            "https",
            "://",
            ":8080",
            ":",
            ".",
            "@",
            "/",
            "?",
            "#",
            "null",
            "same-origin",
            "none",
        ];
        let made = prop::collection::vec(prop::sample::select(parts), 0..6);
        prop_oneof![made.prop_map(|parts| parts.concat()), "\\PC{0,80}"]
    }

    proptest! {
        #[test]
        fn no_host_but_ours_is_accepted(host in headerlike()) {
            let mut all = HeaderMap::new();
            if let Ok(value) = axum::http::HeaderValue::from_str(&host) {
                all.insert(HOST, value);
            }
            let names = ["door.lan".to_owned()];
            if is_own_host(&Uri::from_static("/"), &all, &names) {
                let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                let name = match host.rsplit_once(':') {
                    Some((name, port)) if is_port(port) => name,
                    _ => &host,
                };
                let ip = name.trim_start_matches('[').trim_end_matches(']');
                let is_name = ["localhost", "door.lan"].iter().any(|own| name.eq_ignore_ascii_case(own));
                prop_assert!(is_name || ip.parse::<IpAddr>().is_ok(), "{}", host);
            }
        }

        #[test]
        fn no_site_but_ours_is_accepted(site in headerlike()) {
            let mut all = HeaderMap::new();
            if let Ok(value) = axum::http::HeaderValue::from_str(&site) {
                all.insert(SEC_FETCH_SITE, value);
                let is_own = site == "same-origin" || site == "none";
                prop_assert_eq!(is_cross_site(&Method::GET, &all), !is_own);
            }
        }

        #[test]
        fn no_origin_but_ours_may_change_anything(origin in headerlike()) {
            let mut all = headers(&[("host", "door.lan:8080")]);
            if let Ok(value) = axum::http::HeaderValue::from_str(&origin) {
                all.insert(ORIGIN, value);
                let scheme = origin.to_ascii_lowercase();
                let scheme = scheme.strip_suffix("://door.lan:8080");
                let is_own = scheme.is_some_and(|scheme| !scheme.contains("://"));
                prop_assert_eq!(is_cross_site(&Method::POST, &all), !is_own);
            }
        }

        #[test]
        fn a_cookie_is_a_part_of_its_header(line in "[xy=; a]{0,20}") {
            let all = headers(&[("cookie", &line)]);
            let parts: Vec<&str> = line.split(';').map(str::trim).collect();
            let expected = parts.iter().find_map(|part| part.strip_prefix("x="));
            prop_assert_eq!(cookie(&all, "x"), expected);
        }
    }
}
