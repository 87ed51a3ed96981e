//! Which file stands at which path, and the headers it travels with.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};

use crate::http::answer::{self, Response};

/// Nothing from elsewhere, nothing inline; `connect-src` covers the page's own WebSocket.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file in the program.
#[derive(Debug)]
pub(crate) struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("index.html") },
    Asset {
        path: "/live.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("live.css"),
    },
    Asset {
        path: "/live.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("live.js"),
    },
    Asset {
        path: "/weir.js",
        content_type: "text/javascript; charset=utf-8",
        text: include_str!("weir.js"),
    },
];

/// The file at `path`.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    /// The answer that carries it.
    pub(crate) fn answer(&self) -> Response {
        let mut answer = answer::bytes(Bytes::from_static(self.text.as_bytes()), self.content_type);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }
}
