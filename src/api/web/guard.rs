//! Where a request comes from: whether its host is ours, and whether another
//! site's page made it. Pure.

use std::net::IpAddr;

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, Uri};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The one text of a header; `None` if it is there more than once, or no text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a request names a host that is ours: `localhost`, an IP address (to
/// which no name of somebody else's can be made to point), or one of `names`.
/// Without this, a page of another site could have its own name point here and
/// then read everything.
pub(super) fn is_ours(uri: &Uri, headers: &HeaderMap, names: &[String]) -> bool {
    let Some(host) = single(headers, &HOST) else {
        return false;
    };
    let named = |authority: &Authority| {
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        !authority.as_str().contains('@')
            && (bare.parse::<IpAddr>().is_ok()
                || host.eq_ignore_ascii_case("localhost")
                || names.iter().any(|name| host.eq_ignore_ascii_case(name)))
    };
    let of_header = host.parse::<Authority>();
    // `GET http://elsewhere/ HTTP/1.1` names one, too.
    of_header.is_ok_and(|authority| named(&authority)) && uri.authority().is_none_or(named)
}

/// Whether another site's page made a request. Browsers tell: all of them send
/// `Origin` with what changes something, and today's `Sec-Fetch-WebServer` always.
pub(super) fn is_foreign(method: &Method, headers: &HeaderMap) -> bool {
    if headers.contains_key(SEC_FETCH_SITE) {
        let site = single(headers, &SEC_FETCH_SITE);
        // Another port of this machine is the same site, and somebody else's.
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

/// The value of a cookie.
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
    fn hosts_are_ours_or_refused() {
        let names = ["door.lan".to_owned()];
        let ours =
            |host: &str| is_ours(&Uri::from_static("/"), &headers(&[("host", host)]), &names);
        for host in [
            "localhost:8080",
            "127.0.0.1:8080",
            "192.168.1.7",
            "[::1]:8080",
            "[fe80::1]",
            "DOOR.lan",
            "door.lan:8080",
        ] {
            assert!(ours(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "door.lan.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "user@127.0.0.1",
            "",
            "a b",
            "door.lan.",
        ] {
            assert!(!ours(host), "{host}");
        }
        let none = is_ours(&Uri::from_static("/"), &HeaderMap::new(), &names);
        let twice = headers(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(!none && !is_ours(&Uri::from_static("/"), &twice, &names));
        let absolute = Uri::from_static("http://evil.example/api");
        assert!(!is_ours(
            &absolute,
            &headers(&[("host", "localhost")]),
            &names
        ));
    }

    #[test]
    fn requests_of_other_sites_are_foreign() {
        let foreign = |method: Method, more: &[(&'static str, &str)]| {
            let mut all = vec![("host", "door.lan:8080")];
            all.extend(more);
            is_foreign(&method, &headers(&all))
        };
        assert!(!foreign(
            Method::POST,
            &[("origin", "http://door.lan:8080")]
        ));
        assert!(!foreign(
            Method::POST,
            &[("origin", "https://door.lan:8080")]
        ));
        assert!(!foreign(Method::POST, &[]), "a program, not a browser");
        for origin in [
            "null",
            "http://evil.example",
            "http://door.lan",
            "http://door.lan:8081",
            "",
        ] {
            assert!(foreign(Method::POST, &[("origin", origin)]), "{origin}");
            assert!(foreign(Method::DELETE, &[("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(foreign(Method::GET, &[("sec-fetch-site", site)]), "{site}");
        }
        assert!(!foreign(Method::GET, &[("sec-fetch-site", "same-origin")]));
        let typed = [("sec-fetch-site", "none")];
        assert!(!foreign(Method::GET, &typed), "typed by the user");
    }

    #[test]
    fn cookies_are_found_among_others() {
        let all = headers(&[("cookie", "a=1; session=xyz;b=2"), ("cookie", "c=3")]);
        assert_eq!(cookie(&all, "session"), Some("xyz"));
        assert_eq!(cookie(&all, "c"), Some("3"));
        assert_eq!(cookie(&all, "sess"), None);
    }

    proptest! {
        #[test]
        fn any_header_is_taken(value in "\\PC{0,80}") {
            if let Ok(value) = axum::http::HeaderValue::from_str(&value) {
                let mut all = HeaderMap::new();
                for name in ["host", "origin", "cookie", "sec-fetch-site"] {
                    all.insert(name, value.clone());
                }
                let _ = is_ours(&Uri::from_static("/"), &all, &[]);
                let _ = is_foreign(&Method::POST, &all);
                let _ = cookie(&all, "x");
            }
        }
    }
}
