//! Answers: the shape of a success, and the one shape of every error.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Serialize;

use super::address::Serves;
use crate::proto::error::ErrorCode;
use crate::shard::PublishError;

/// What every route gives.
pub(super) type Response = hyper::Response<Full<Bytes>>;

/// When a client turned away by load should come back.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Why a request was not done: a status, a stable code, and a sentence.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: Cow<'static, str>,
    /// Sent as `Retry-After` and `retry_after_ms`.
    pub(super) retry: Option<Duration>,
    pub(super) headers: &'static [(HeaderName, &'static str)],
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, message: message.into(), retry: None, headers: &[] }
    }

    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), message)
    }

    pub(super) fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found(serves: Serves) -> Self {
        let message = match serves {
            Serves::Admin => "nothing is here: see /api/v1/, /metrics, /healthz and /",
            Serves::All => "nothing is here: see /ws, /api/v1/, /metrics, /healthz and /",
            Serves::Clients => "nothing is here: see /ws and /healthz",
        };
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge.as_str(), message)
    }

    /// The method is not one of `allowed`, a list with commas.
    pub(super) fn method(allowed: &'static [(HeaderName, &'static str)]) -> Self {
        let message = "the Allow header names the methods of this path";
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        refusal.with(allowed)
    }

    pub(super) fn unavailable(code: ErrorCode, message: &'static str) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, code.as_str(), message);
        Self { retry: Some(RETRY), ..refusal }
    }

    /// 401, and how to bear a credential.
    pub(super) fn unauthorized(code: &'static str, message: &'static str) -> Self {
        let how = &[(header::WWW_AUTHENTICATE, "Bearer")];
        Self::new(StatusCode::UNAUTHORIZED, code, message).with(how)
    }

    pub(super) fn with(self, headers: &'static [(HeaderName, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    /// The answer that says so.
    pub(super) fn answer(&self) -> Response {
        let retry_after_ms = self.retry.map(millis);
        let error = ErrorBody { code: self.code, message: &self.message, retry_after_ms };
        let mut answer = json(self.status, &Envelope { error });
        for (name, value) in self.headers {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if let Some(retry) = self.retry {
            answer.headers_mut().insert(header::RETRY_AFTER, millis(retry).div_ceil(1_000).into());
        }
        answer
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Overloaded => {
                Self::unavailable(ErrorCode::Overloaded, "no room for the event in time")
            }
            PublishError::Unavailable => {
                Self::unavailable(ErrorCode::Unavailable, "the store is away")
            }
            PublishError::ChannelFaulty => Self::unavailable(
                ErrorCode::Unavailable,
                "the channel cannot be read or written on disk now; the gateway's log says why",
            ),
            PublishError::ChannelsFull => Self::unavailable(
                ErrorCode::LimitExceeded,
                "the node has as many channels as it holds: publish on one that is there",
            ),
            PublishError::Data(why) => Self::bad(why),
            PublishError::Key => Self::bad(error.to_string()),
            PublishError::UnknownChannel => Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::UnknownChannel.as_str(),
                "the channel's namespace is not configured, and only configured ones exist",
            ),
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// A time to wait in whole milliseconds, and never none.
fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

/// An answer that carries `value` as JSON.
pub(super) fn text(mut text: Vec<u8>) -> Response {
    text.push(b'\n');
    bytes(text.into(), "application/json")
}

/// As [`text`], of a value.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            let mut answer = bytes(text.into(), "application/json");
            *answer.status_mut() = status;
            answer
        }
        Err(error) => {
            tracing::error!(%error, "failed to write an answer as JSON");
            let mut answer = bytes(Bytes::new(), "application/json");
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}

/// An answer of 200 with `body`, never kept by caches.
pub(super) fn bytes(body: Bytes, content_type: &'static str) -> Response {
    let mut answer = Response::new(Full::new(body));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overloaded_node_says_when_to_come_back() {
        let refusal = Refusal::from(PublishError::Overloaded);
        let answer = refusal.answer();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        let body = serde_json::to_value(ErrorBody {
            code: refusal.code,
            message: "",
            retry_after_ms: refusal.retry.map(millis),
        });
        let wanted = r#"{"code":"overloaded","message":"","retry_after_ms":1000}"#;
        assert_eq!(body.unwrap(), serde_json::from_str::<serde_json::Value>(wanted).unwrap());
        // Never sooner than it pays.
        let late = Refusal { retry: Some(Duration::from_nanos(1_200_000_001)), ..refusal };
        assert_eq!(late.answer().headers()[header::RETRY_AFTER], "2");
        assert_eq!(late.retry.map(millis), Some(1_201));
    }
}
