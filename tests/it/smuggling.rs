//! Requests that a proxy and a gateway may cut in different places: each is refused, the connection
//! ends behind the refusal, and what a stranger hid in it is never answered.

use crate::harness::{Client, Gateway};
use crate::raw::{Answer, Raw};

/// What is hidden. Its answer has the word `ready`.
const HIDDEN: &str = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The statuses of the answers on a connection that has ended, and all that it said.
fn conversation(gateway: &Gateway, bytes: &[u8]) -> (Vec<String>, String) {
    let mut raw = Raw::open(gateway.addr);
    raw.send(bytes);
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    let said = String::from_utf8_lossy(&raw.rest()).into_owned();
    let statuses = said.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned());
    (statuses.collect(), said)
}

/// Heads whose body has no certain end, for `POST /api/v1/publish` with a `Host`; behind each stands
/// a chunked end, and what is hidden.
const LENGTHS: &[(&str, &str)] = &[
    ("both kinds", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
    ("both kinds, the other way round", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ("both kinds, with a length of 0", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
    ("two lengths", "Content-Length: 5\r\nContent-Length: 50"),
    ("two lengths in a line", "Content-Length: 5, 50"),
    ("one length twice in a line", "Content-Length: 5, 5"),
    ("a signed length", "Content-Length: +5"),
    ("a negative length", "Content-Length: -5"),
    ("a length in hexadecimal", "Content-Length: 0x5"),
    ("a length with a space in it", "Content-Length: 5 0"),
    ("a length of nothing", "Content-Length:"),
    ("a length with a fraction", "Content-Length: 5.0"),
    ("a length beyond 64 bits", "Content-Length: 18446744073709551621"),
    (
        "a length with many zeros",
        concat!(
            "Content-Length: 000000000000000000000000000000000000",
            "0000000000000000000000000000000005"
        ),
    ),
    ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    ("chunked twice in a line", "Transfer-Encoding: chunked, chunked"),
    (
        "chunked twice in a long line",
        "Transfer-Encoding: chunked                                                  , chunked",
    ),
    ("chunked, then not", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    ("chunked, then not, in a line", "Transfer-Encoding: chunked, identity"),
    ("something, then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    ("compressed, then chunked", "Transfer-Encoding: gzip, chunked"),
    ("a coding that is none", "Transfer-Encoding: xchunked"),
    ("a coding with a parameter", "Transfer-Encoding: chunked;q=1"),
    ("a coding in quotes", "Transfer-Encoding: \"chunked\""),
    ("no coding", "Transfer-Encoding:"),
    ("a vertical tab before it", "Transfer-Encoding: \x0bchunked"),
    ("a space before the colon", "Transfer-Encoding : chunked"),
    ("a tab before the colon", "Content-Length\t: 5"),
    ("a space before the name", " Transfer-Encoding: chunked"),
    ("a folded line", "X: y\r\n Transfer-Encoding: chunked"),
    ("a folded value", "Transfer-Encoding:\r\n chunked"),
    ("a folded length", "Content-Length:\r\n\t5"),
    ("a line that ends with LF alone", "X: y\nTransfer-Encoding: chunked"),
    ("a length behind LF alone", "X: y\nContent-Length: 5"),
    ("a carriage return inside a line", "X: y\rTransfer-Encoding: chunked"),
    ("a zero byte", "X: y\0\r\nTransfer-Encoding: chunked"),
    ("a line without a colon", "Transfer-Encoding chunked"),
    ("a line without a name", ": chunked"),
];

#[test]
fn a_body_without_a_certain_end_is_refused_and_ends_the_connection() {
    let gateway = Gateway::start();
    let before = gateway.metric("weir_errors_total{code=\"bad_request\"");
    let mut refused = 0.0;
    for start in ["POST /api/v1/publish", "GET /healthz", "GET /ws", "GET /"] {
        for (what, headers) in LENGTHS {
            let head = format!("{start} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n\r\n", gateway.addr);
            let (statuses, said) =
                conversation(&gateway, format!("{head}0\r\n\r\n{HIDDEN}").as_bytes());
            assert_eq!(statuses, ["400"], "{start}: {what}: {said}");
            assert!(!said.contains("ready"), "{start}: {what} let one through: {said}");
            refused += 1.0;
        }
    }
    let counted = gateway.metric("weir_errors_total{code=\"bad_request\"") - before;
    assert!((counted - refused).abs() < 0.5, "{counted} of {refused} were counted");
}

/// A head that ends with line feeds alone, or is not one.
#[test]
fn a_head_that_others_may_read_otherwise_is_refused() {
    let gateway = Gateway::start();
    let host = format!("Host: {}", gateway.addr);
    let heads = [
        ("LF alone", format!("GET /healthz HTTP/1.1\n{host}\n\n")),
        ("LF alone at the end", format!("GET /healthz HTTP/1.1\r\n{host}\r\n\n")),
        ("LF alone behind the first line", format!("GET /healthz HTTP/1.1\n{host}\r\n\r\n")),
        ("two spaces", format!("GET  /healthz HTTP/1.1\r\n{host}\r\n\r\n")),
        ("a tab", format!("GET\t/healthz\tHTTP/1.1\r\n{host}\r\n\r\n")),
        ("a space before", format!(" GET /healthz HTTP/1.1\r\n{host}\r\n\r\n")),
        ("no version", format!("GET /healthz\r\n{host}\r\n\r\n")),
        ("another version", format!("GET /healthz HTTP/1.2\r\n{host}\r\n\r\n")),
        ("a version of two digits", format!("GET /healthz HTTP/1.10\r\n{host}\r\n\r\n")),
        ("a space within the path", format!("GET /healthz /x HTTP/1.1\r\n{host}\r\n\r\n")),
        ("a zero byte in the path", format!("GET /health\0z HTTP/1.1\r\n{host}\r\n\r\n")),
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".to_owned()),
    ];
    for (what, head) in heads {
        let (statuses, said) = conversation(&gateway, format!("{head}{HIDDEN}").as_bytes());
        // A refusal that is not about where the request ends may leave the connection open.
        let whole = what == "no host";
        assert_eq!(statuses[0], "400", "{what}: {said}");
        assert!(whole || statuses.len() == 1, "{what}: {said}");
        assert!(whole || !said.contains("ready"), "{what} let one through: {said}");
    }
    // Empty lines before a request are none of it (RFC 9112, section 2.2).
    let good = format!("\r\n\r\nGET /healthz HTTP/1.1\r\n{host}\r\n\r\n");
    let mut raw = Raw::open(gateway.addr);
    raw.send(good.as_bytes());
    assert_eq!(raw.answer().status, 200);
}

/// Chunks that do not say where they end.
#[test]
fn chunks_that_are_none_end_the_connection() {
    let gateway = Gateway::start();
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    let body = r#"{"channel":"room:1","data":1}"#;
    let size = format!("{:x}", body.len());
    let whole = format!("{size}\r\n{body}\r\n");
    let cases = [
        ("a size in decimal form of C", format!("0x{size}\r\n{body}\r\n0\r\n\r\n")),
        ("a signed size", format!("+{size}\r\n{body}\r\n0\r\n\r\n")),
        ("no size", format!("\r\n{body}\r\n0\r\n\r\n")),
        ("a size beyond 64 bits", format!("1000000000000000{size}\r\n{body}\r\n0\r\n\r\n")),
        ("a size that is too small", format!("5\r\n{body}\r\n0\r\n\r\n")),
        ("a size behind LF alone", format!("{size}\n{body}\r\n0\r\n\r\n")),
        ("LF alone behind the bytes", format!("{size}\r\n{body}\n0\r\n\r\n")),
        ("LF alone behind the last", format!("{whole}0\n\r\n")),
        ("an extension with LF", format!("{size};a\n\r\n{body}\r\n0\r\n\r\n")),
    ];
    for (what, chunks) in cases {
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            gateway.addr
        );
        let (statuses, said) = conversation(&gateway, format!("{head}{chunks}{HIDDEN}").as_bytes());
        assert!(matches!(&*statuses, [only] if only == "400"), "{what}: {said}");
        assert!(!said.contains("ready"), "{what} let one through: {said}");
    }
    // An extension, and fields behind the end, are allowed, and nobody asks for them.
    let head = format!(
        "POST /api/v1/publish HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        gateway.addr
    );
    let good = format!("{head}{size};a=b\r\n{body}\r\n0\r\nX-More: 1\r\n\r\n{HIDDEN}");
    let (statuses, said) = conversation(&gateway, good.as_bytes());
    assert_eq!(statuses, ["200"], "a chunked request is the last: {said}");
    assert_eq!(client.expect("event")["offset"], 1, "and the only one that was published");
}

/// A handshake with a body is no handshake; and frames in the packet of a good one are not requests.
#[test]
fn a_handshake_hides_no_request() {
    let gateway = Gateway::start();
    let handshake = crate::raw::handshake_request(gateway.addr, &[]);
    let with = |header: &str| handshake.replacen("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"), 1);
    for header in ["Content-Length: 40", "Transfer-Encoding: chunked", "Content-Length: 00"] {
        let (statuses, said) =
            conversation(&gateway, format!("{}0\r\n\r\n{HIDDEN}", with(header)).as_bytes());
        let fits = header == "Content-Length: 00" || !said.contains("101");
        assert!(fits && !said.contains("ready"), "{header}: {statuses:?} {said}");
    }
    let mut raw = Raw::open(gateway.addr);
    raw.send(format!("{handshake}{HIDDEN}").as_bytes());
    let answer = Answer::read(raw.head().as_bytes());
    assert_eq!(answer.status, 101);
    // `G` has a reserved bit: these bytes are frames, and bad ones.
    assert_eq!(raw.close_code(), Some(1002));
    let refused = gateway.metric("weir_upgrade_rejected_total{reason=\"bad_request\"");
    assert!(refused > 1.5, "{refused}");
}
