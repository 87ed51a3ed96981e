//! The opening handshake from the client's side.

use crate::fault::Fault;

/// The example of RFC 6455, section 1.3: one key for all, so that no hash is computed here.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An answer's head that is longer is refused.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;

/// The request for an upgrade, to one subprotocol if there is one.
pub(crate) fn request(host: &str, path: &str, subprotocol: Option<&str>) -> Vec<u8> {
    let subprotocol =
        subprotocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{subprotocol}\r\n"
    )
    .into_bytes()
}

/// How many bytes of `input` the server's consent takes, which must name the subprotocol that was
/// `asked` for.
///
/// `Ok(None)` means "call again with more bytes".
pub(crate) fn answer(input: &[u8], asked: Option<&'static str>) -> Result<Option<usize>, Fault> {
    let start = b"HTTP/1.";
    let seen = input.len().min(start.len());
    if input[..seen] != start[..seen] {
        return Err(Fault::NotHttp);
    }
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        return if input.len() > HEAD_BYTES_MAX { Err(Fault::NotHttp) } else { Ok(None) };
    };
    let head = &input[..end];
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(Fault::Refused(first_line(head)));
    }
    let has = |name, value| head.split(|byte| *byte == b'\n').any(|line| is(line, name, value));
    if !has("Sec-WebSocket-Accept", ACCEPT) {
        return Err(Fault::WrongAccept);
    }
    if let Some(asked) = asked
        && !has("Sec-WebSocket-Protocol", asked.as_bytes())
    {
        return Err(Fault::OtherFormat { asked });
    }
    Ok(Some(end + 4))
}

/// Whether a line is this header.
fn is(line: &[u8], name: &str, value: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    let (found, rest) = (&line[..colon], &line[colon + 1..]);
    found.eq_ignore_ascii_case(name.as_bytes()) && rest.trim_ascii() == value
}

/// The status line without the usual version, readable whatever it holds.
fn first_line(head: &[u8]) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(head);
    let line = line.strip_prefix(b"HTTP/1.1 ").unwrap_or(line);
    String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn consent_is_read_however_it_is_cut() {
        for cut in 0..GOOD.len() {
            assert_eq!(answer(&GOOD.as_bytes()[..cut], None), Ok(None), "cut at {cut}");
        }
        let with_frame = format!("{GOOD}\u{1}");
        assert_eq!(answer(with_frame.as_bytes(), None), Ok(Some(GOOD.len())));
    }

    #[test]
    fn every_other_answer_is_a_fault() {
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n";
        assert_eq!(answer(refused, None), Err(Fault::Refused("503 Service Unavailable".into())));
        assert_eq!(answer(b"SSH-2.0-OpenSSH", None), Err(Fault::NotHttp));
        let old = b"HTTP/1.0 404 Not Found\r\n\r\n";
        assert_eq!(answer(old, None), Err(Fault::Refused("HTTP/1.0 404 Not Found".into())));
        let elsewhere = GOOD.replace("Sec-WebSocket-Accept", "X-Echo");
        assert_eq!(answer(elsewhere.as_bytes(), None), Err(Fault::WrongAccept));
        let quiet = GOOD.replace("Sec-WebSocket-Accept: ", "sec-websocket-accept:");
        assert_eq!(answer(quiet.as_bytes(), None), Ok(Some(quiet.len())));
        let wrong = GOOD.replace("s3p", "xxx");
        assert_eq!(answer(wrong.as_bytes(), None), Err(Fault::WrongAccept));
        let endless = [b"HTTP/1.1 101 ".as_slice(), &[b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(answer(&endless, None), Err(Fault::NotHttp));
    }

    #[test]
    fn the_subprotocol_that_was_asked_for_must_be_agreed_on() {
        let asked = Some("weir.v1.bin");
        let request = String::from_utf8(request("h", "/ws", asked)).expect("UTF-8");
        assert!(request.contains("\r\nSec-WebSocket-Protocol: weir.v1.bin\r\n\r\n"), "{request}");
        let fault = Err(Fault::OtherFormat { asked: "weir.v1.bin" });
        assert_eq!(answer(GOOD.as_bytes(), asked), fault, "an answer that names none");
        for (named, agrees) in [("weir.v1.bin", true), ("weir.v1.json", false)] {
            let header = format!("Upgrade: websocket\r\nSec-WebSocket-Protocol: {named}");
            let text = GOOD.replace("Upgrade: websocket", &header);
            assert_eq!(answer(text.as_bytes(), asked).is_ok(), agrees, "{named}");
        }
    }
}
