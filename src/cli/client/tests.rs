//! The client against listeners that misbehave.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

#[test]
fn addresses_are_checked() {
    for (text, shown) in [
        ("ws://127.0.0.1:8080/ws", "ws://127.0.0.1:8080/ws"),
        ("ws://host", "ws://host:80/ws"),
        ("ws://[::1]:9/x?token=a.b.c", "ws://[::1]:9/x"),
        ("ws://[::1]/ws", "ws://[::1]:80/ws"),
        ("wss://host/ws", "wss://host:443/ws"),
    ] {
        assert_eq!(text.parse::<Url>().unwrap().to_string(), shown);
    }
    for (text, name) in
        [("wss://host:1/", "host"), ("wss://[::1]/", "::1"), ("wss://1.2.3.4", "1.2.3.4")]
    {
        assert_eq!(text.parse::<Url>().unwrap().name(), name);
    }
    for text in ["", "host:80", "http://h/ws", "wss://", "ws://", "ws://h:x/", "ws://a@h/"] {
        assert!(text.parse::<Url>().is_err(), "{text}");
    }
}

/// What `connect` says of a listener that reads a request and answers `answer`.
fn connect_to(answer: Vec<u8>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("ws://{}/ws", listener.local_addr().unwrap()).parse().unwrap();
        let to = To { url, token: None };
        spawn_local(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _read = socket.read(&mut request).await.unwrap();
            socket.write_all(&answer).await.unwrap();
        });
        Client::connect(&to, Subprotocol::Json).await.map(drop).map_err(|error| error.to_string())
    })
}

fn upgraded(frames: &[u8]) -> Vec<u8> {
    let mut answer =
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec();
    answer.extend_from_slice(frames);
    answer
}

fn text(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).unwrap()];
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[test]
fn a_gateway_is_known_by_its_welcome() {
    assert_eq!(connect_to(upgraded(&text(r#"{"type":"welcome"}"#))), Ok(()));
    for (frames, said) in [
        (text("hello"), "is not a Weir"),
        (text(r#"{"type":"hello"}"#), "is not a Weir: its first word is \"hello\""),
        (b"\x88\x06\x0f\xa1down".to_vec(), "closed the connection: 4001 down"),
        (Vec::new(), "the connection to the gateway broke"),
    ] {
        let error = connect_to(upgraded(&frames)).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_refusal_is_shown_with_its_text() {
    let answer = b"HTTP/1.1 503 X\r\ncontent-length: 9\r\n\r\ndraining\n".to_vec();
    let error = connect_to(answer).unwrap_err();
    assert!(
        error.ends_with("refused the connection: 503 Service Unavailable: draining"),
        "{error}"
    );
    let error = connect_to(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).unwrap_err();
    assert!(error.ends_with("is not a Weir: it answers 200 OK"), "{error}");
    let error = connect_to(b"SSH-2.0-x\r\n".to_vec()).unwrap_err();
    assert!(error.contains("does not speak HTTP"), "{error}");
}

#[test]
fn binary_events_are_printed_as_json() {
    let channels = HashMap::from([(12, "room:1".to_owned())]);
    let ts = [0xFB, 0x9B, 0x81, 0xE3, 0xB4, 0x32];
    let bytes = [&[0x03, 0x06, 12, 58][..], &ts, &[4], b"cpu0", b"{\"n\": 1.50}"].concat();
    let head = r#"{"type":"event","channel":"room:1","offset":58,"ts":1732153200123"#;
    let text = event_text(&bytes, &channels).unwrap();
    assert_eq!(text, format!(r#"{head},"key":"cpu0","snapshot":true,"data":{{"n": 1.50}}}}"#));
    let stream = gzip::compress(b"\0\x01\x02", 1);
    let bytes = [&[0x01, 0x01, 12, 58][..], &ts, &stream].concat();
    let text = event_text(&bytes, &channels).unwrap();
    assert_eq!(text, format!(r#"{head},"data_b64":"AAEC"}}"#));
    assert_eq!(event_text(&[0x01, 0x02, 13, 58, 1], &channels), None, "an alias never given");
}
