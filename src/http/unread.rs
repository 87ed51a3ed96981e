//! Answers to what hyper could not read as a request. Its own are a head without a body; here they
//! get one that says what was wrong, as every other refusal has.

use serde_json::json;

use crate::proto::error::ErrorCode;

/// An answer in place of hyper's own.
pub(super) struct Unread {
    /// The error's code.
    pub(super) code: &'static str,
    /// The whole answer.
    pub(super) answer: Vec<u8>,
}

/// What to write instead of `head`, where that is an answer of hyper's own: all of ours with a
/// status of 4xx have a body.
pub(super) fn instead_of(head: &[u8]) -> Option<Unread> {
    let status = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let (code, message) = match status {
        b"400" => (
            ErrorCode::BadRequest.as_str(),
            "this is not a request of HTTP/1.1: see its first line, the lines of its headers and \
             the length of its body",
        ),
        b"414" => (ErrorCode::TooLarge.as_str(), "the request's path is too long"),
        b"431" => (
            ErrorCode::TooLarge.as_str(),
            "the request has more than 100 headers, or they are larger than http.header_bytes",
        ),
        _ => return None,
    };
    let text = std::str::from_utf8(head).ok()?;
    let (before, after) = text.split_once("\r\ncontent-length: 0\r\n")?;
    if !after.ends_with("\r\n") || text.find("\r\n\r\n")? + 4 != text.len() {
        return None;
    }
    let body = json!({"error": {"code": code, "message": message}});
    let body = format!("{body}\n");
    let kind = "content-type: application/json\r\ncontent-length";
    let answer = format!("{before}\r\n{kind}: {}\r\n{after}{body}", body.len()).into_bytes();
    Some(Unread { code, answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_head_alone_is_replaced() {
        let head = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                    content-length: 0\r\ndate: x\r\n\r\n";
        let unread = instead_of(head.as_bytes()).unwrap();
        assert_eq!(unread.code, "too_large");
        let answer = String::from_utf8(unread.answer).unwrap();
        let (start, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(start.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{answer}");
        assert!(start.ends_with("\r\ndate: x"), "{answer}");
        for other in [
            "",
            "HTTP/1.1 4",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nx",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 1\r\n\r\nx",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 1\r\n\r\n\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert!(instead_of(other.as_bytes()).is_none(), "{other}");
        }
    }
}
