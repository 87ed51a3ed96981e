//! HTTP/1.1 as far as publishing needs it: a POST on a connection that stays, and its answer.

use crate::fault::Fault;

/// An answer's head that is longer is refused.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// An answer's body that is longer is refused.
const BODY_BYTES_MAX: usize = 16 << 20;

/// One whole answer at the front of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// Appends a request with `body`.
pub(crate) fn push_post(
    (host, path): (&str, &str),
    content_type: &str,
    body: &[u8],
    out: &mut Vec<u8>,
) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

/// Reads the answer at the front of `input`, and how many bytes it takes.
///
/// `Ok(None)` means "call again with more bytes". Nothing is consumed.
pub(crate) fn answer(input: &[u8]) -> Result<Option<(Answer<'_>, usize)>, Fault> {
    let start = b"HTTP/1.";
    let seen = input.len().min(start.len());
    if input[..seen] != start[..seen] {
        return Err(Fault::NotHttp);
    }
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        return if input.len() > HEAD_BYTES_MAX { Err(Fault::NotHttp) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&input[..end]).map_err(|_| Fault::NotHttp)?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    if first.starts_with("HTTP/1.0 ") {
        return Err(Fault::OldHttp(first.chars().take(100).collect()));
    }
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3));
    let status = status.and_then(|digits| digits.parse().ok()).ok_or(Fault::NotHttp)?;
    let mut len = 0;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Fault::NotHttp)?;
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse().map_err(|_| Fault::NotHttp)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Fault::Chunked);
        }
    }
    if len > BODY_BYTES_MAX {
        return Err(Fault::NotHttp);
    }
    let whole = end + 4 + len;
    Ok(input.get(end + 4..whole).map(|body| (Answer { status, body }, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_only_when_its_last_byte_is_there() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-type: x\r\nCONTENT-length: 3\r\n\r\n{ }HTTP";
        for cut in 0..text.len() - 4 {
            assert_eq!(answer(&text[..cut]), Ok(None), "cut at {cut}");
        }
        let whole = Answer { status: 200, body: b"{ }" };
        assert_eq!(answer(text), Ok(Some((whole, text.len() - 4))));
    }

    #[test]
    fn what_is_no_answer_is_a_fault() {
        let endless = [b"HTTP/1.1 200 ".as_slice(), &[b'a'; HEAD_BYTES_MAX]].concat();
        for text in [
            b"SSH-2.0".as_slice(),
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 \xFF\r\n\r\n",
            &endless,
        ] {
            assert_eq!(answer(text), Err(Fault::NotHttp), "{}", String::from_utf8_lossy(text));
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(answer(chunked), Err(Fault::Chunked));
        let old = "HTTP/1.0 404 Not Found";
        let answered = answer(b"HTTP/1.0 404 Not Found\r\n\r\nthe body");
        assert_eq!(answered, Err(Fault::OldHttp(old.to_owned())));
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let mut out = Vec::new();
        push_post(("h:1", "/p"), "application/json", b"{}", &mut out);
        let text = "POST /p HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\n\
            Content-Length: 2\r\n\r\n{}";
        assert_eq!(out, text.as_bytes());
    }
}
