//! The assets of the page, compiled into the binary.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, content type, and content of each asset.
const ASSETS: [(&str, &str, &str); 19] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page.css", CSS, include_str!("page/page.css")),
    ("/icon.svg", SVG, include_str!("page/icon.svg")),
    ("/main.js", SCRIPT, include_str!("page/main.js")),
    ("/api.js", SCRIPT, include_str!("page/api.js")),
    ("/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/marking.js", SCRIPT, include_str!("page/marking.js")),
    ("/waiting.js", SCRIPT, include_str!("page/waiting.js")),
    (
        "/sample_panel.js",
        SCRIPT,
        include_str!("page/sample_panel.js"),
    ),
    ("/live.js", SCRIPT, include_str!("page/live.js")),
    ("/door.js", SCRIPT, include_str!("page/door.js")),
    ("/label.js", SCRIPT, include_str!("page/label.js")),
    ("/library.js", SCRIPT, include_str!("page/library.js")),
    ("/teach.js", SCRIPT, include_str!("page/teach.js")),
    ("/learning.js", SCRIPT, include_str!("page/learning.js")),
    ("/events.js", SCRIPT, include_str!("page/events.js")),
    ("/counts.js", SCRIPT, include_str!("page/counts.js")),
    ("/charts.js", SCRIPT, include_str!("page/charts.js")),
    ("/settings.js", SCRIPT, include_str!("page/settings.js")),
];

pub(super) fn routes() -> Router {
    ASSETS
        .into_iter()
        .fold(Router::new(), |router, (path, content, text)| {
            router.route(
                path,
                get(move || async move { ([(CONTENT_TYPE, content)], text) }),
            )
        })
}
