//! Request bodies: whole, within a size and within a time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::{Request, StatusCode, header};

use crate::http::answer::Refusal;

/// How long a whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the body's type is `wanted`, parameters aside.
pub(crate) fn is_of(request: &Request<Incoming>, wanted: &str) -> bool {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(wanted)
}

/// Reads the whole body.
///
/// # Errors
///
/// 413 beyond `limit` bytes, 408 when it takes too long, 400 when it breaks off.
pub(crate) async fn read(request: Request<Incoming>, limit: usize) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::too_large(format!("the body is larger than {limit} bytes"));
    let body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::bad("the body broke off")),
        Err(_) => {
            let message = "the body took too long";
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}
