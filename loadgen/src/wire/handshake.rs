//! The opening handshake from the client's side.

use crate::fault::Fault;
use crate::wire::tls::TlsFault;

/// The example of RFC 6455, section 1.3: one key for all, so that no hash is computed here.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How a server that expects TLS answers to a request without: an alert of version 3.
const TLS_ALERT: &[u8] = b"\x15\x03";

/// An answer's head that is longer is refused.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;

/// What is offered with the upgrade, to which the server must agree.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offer {
    pub(crate) subprotocol: Option<&'static str>,
    /// permessage-deflate, with nothing kept from one message to the next.
    pub(crate) deflate: bool,
}

const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
const DEFLATE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The request for an upgrade, by whoever bears this token.
pub(crate) fn request(host: &str, path: &str, offer: Offer, token: Option<&str>) -> Vec<u8> {
    let mut offered = String::new();
    if let Some(token) = token {
        offered.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(name) = offer.subprotocol {
        offered.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
    }
    if offer.deflate {
        offered.push_str(&format!("{EXTENSIONS}: {DEFLATE}\r\n"));
    }
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{offered}\r\n"
    )
    .into_bytes()
}

/// How many bytes of `input` the server's consent takes, which must be to all of the offer.
///
/// `Ok(None)` means "call again with more bytes".
pub(crate) fn answer(input: &[u8], offer: Offer) -> Result<Option<usize>, Fault> {
    let start = b"HTTP/1.";
    let seen = input.len().min(start.len());
    if input[..seen] != start[..seen] {
        let speaks_tls = input.starts_with(TLS_ALERT);
        return Err(if speaks_tls { Fault::Tls(TlsFault::Spoken) } else { Fault::NotHttp });
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
    if let Some(asked) = offer.subprotocol
        && !has("Sec-WebSocket-Protocol", asked.as_bytes())
    {
        return Err(Fault::OtherFormat { asked });
    }
    let mut lines = head.split(|byte| *byte == b'\n');
    if offer.deflate && !lines.any(|line| value(line, EXTENSIONS).is_some_and(deflates)) {
        return Err(Fault::NoDeflate);
    }
    Ok(Some(end + 4))
}

/// Whether extensions are permessage-deflate in which each message stands for itself.
fn deflates(extensions: &[u8]) -> bool {
    let mut parts = extensions.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    parts.next() == Some(b"permessage-deflate")
        && parts.any(|part| part == b"server_no_context_takeover")
}

/// Whether a line is this header.
fn is(line: &[u8], name: &str, wanted: &[u8]) -> bool {
    value(line, name) == Some(wanted)
}

/// What a line says, if it is the header of this name.
fn value<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let colon = memchr::memchr(b':', line)?;
    let (found, rest) = (&line[..colon], &line[colon + 1..]);
    found.eq_ignore_ascii_case(name.as_bytes()).then(|| rest.trim_ascii())
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
            assert_eq!(answer(&GOOD.as_bytes()[..cut], Offer::default()), Ok(None), "cut at {cut}");
        }
        let with_frame = format!("{GOOD}\u{1}");
        assert_eq!(answer(with_frame.as_bytes(), Offer::default()), Ok(Some(GOOD.len())));
    }

    #[test]
    fn every_other_answer_is_a_fault() {
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n";
        assert_eq!(
            answer(refused, Offer::default()),
            Err(Fault::Refused("503 Service Unavailable".into()))
        );
        assert_eq!(answer(b"SSH-2.0-OpenSSH", Offer::default()), Err(Fault::NotHttp));
        assert_eq!(
            answer(b"\x15\x03\x03\0\x02\x02\x32", Offer::default()),
            Err(Fault::Tls(TlsFault::Spoken))
        );
        let old = b"HTTP/1.0 404 Not Found\r\n\r\n";
        assert_eq!(
            answer(old, Offer::default()),
            Err(Fault::Refused("HTTP/1.0 404 Not Found".into()))
        );
        let elsewhere = GOOD.replace("Sec-WebSocket-Accept", "X-Echo");
        assert_eq!(answer(elsewhere.as_bytes(), Offer::default()), Err(Fault::WrongAccept));
        let quiet = GOOD.replace("Sec-WebSocket-Accept: ", "sec-websocket-accept:");
        assert_eq!(answer(quiet.as_bytes(), Offer::default()), Ok(Some(quiet.len())));
        let wrong = GOOD.replace("s3p", "xxx");
        assert_eq!(answer(wrong.as_bytes(), Offer::default()), Err(Fault::WrongAccept));
        let endless = [b"HTTP/1.1 101 ".as_slice(), &[b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(answer(&endless, Offer::default()), Err(Fault::NotHttp));
    }

    #[test]
    fn the_subprotocol_that_was_asked_for_must_be_agreed_on() {
        let asked = Offer { subprotocol: Some("weir.v1.bin"), deflate: false };
        let request = String::from_utf8(request("h", "/ws", asked, None)).expect("UTF-8");
        assert!(request.contains("\r\nSec-WebSocket-Protocol: weir.v1.bin\r\n\r\n"), "{request}");
        let fault = Err(Fault::OtherFormat { asked: "weir.v1.bin" });
        assert_eq!(answer(GOOD.as_bytes(), asked), fault, "an answer that names none");
        for (named, agrees) in [("weir.v1.bin", true), ("weir.v1.json", false)] {
            let header = format!("Upgrade: websocket\r\nSec-WebSocket-Protocol: {named}");
            let text = GOOD.replace("Upgrade: websocket", &header);
            assert_eq!(answer(text.as_bytes(), asked).is_ok(), agrees, "{named}");
        }
    }

    #[test]
    fn compression_must_be_agreed_on_with_each_message_for_itself() {
        let offer = Offer { deflate: true, ..Offer::default() };
        let request = String::from_utf8(request("h", "/ws", offer, None)).expect("UTF-8");
        assert!(request.contains(&format!("\r\n{EXTENSIONS}: {DEFLATE}\r\n\r\n")), "{request}");
        for (said, agrees) in [
            ("permessage-deflate; server_no_context_takeover", true),
            ("permessage-deflate;client_no_context_takeover;server_no_context_takeover", true),
            ("permessage-deflate; server_no_context_takeover; server_max_window_bits=12", true),
            ("permessage-deflate", false),
            ("x-other; server_no_context_takeover", false),
            ("", false),
        ] {
            let header = format!("Upgrade: websocket\r\n{EXTENSIONS}: {said}");
            let text = GOOD.replace("Upgrade: websocket", &header);
            let expected = if agrees { Ok(Some(text.len())) } else { Err(Fault::NoDeflate) };
            assert_eq!(answer(text.as_bytes(), offer), expected, "{said}");
        }
        assert_eq!(answer(GOOD.as_bytes(), offer), Err(Fault::NoDeflate));
    }
}
