//! `fanout --format`: a server that speaks the binary subprotocols, and one that breaks the promise
//! in them.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

use crate::relay::{Said, accept, send};
use crate::{Ran, run};

/// What the first subscriber gets for offset 5.
#[derive(Clone, Copy, PartialEq)]
enum Fifth {
    Event,
    Nothing,
    /// Another channel's alias.
    Stranger,
    /// A frame that is no event.
    Garbage,
}

/// Channel, alias, offset and data of an event to what stands in its frame.
type Encode = fn(&str, u8, u64, &str) -> Vec<u8>;

fn plain(_: &str, alias: u8, offset: u64, data: &str) -> Vec<u8> {
    [head(0x02, alias, offset).as_slice(), data.as_bytes()].concat()
}

/// A gzip stream as the payload.
fn packed(_: &str, alias: u8, offset: u64, data: &str) -> Vec<u8> {
    [head(0x03, alias, offset), gzip(data)].concat()
}

fn head(flags: u8, alias: u8, offset: u64) -> Vec<u8> {
    let (low, high) = (u8::try_from(offset % 128), u8::try_from(offset / 128));
    vec![0x01, flags, alias, low.expect("7 bits") | 0x80, high.expect("few events"), 17]
}

/// A gzip stream of the JSON event.
fn zipped(channel: &str, _: u8, offset: u64, data: &str) -> Vec<u8> {
    gzip(&format!(
        r#"{{"type":"event","channel":"{channel}","offset":{offset},"ts":17,"data":{data}}}"#
    ))
}

/// A message by permessage-deflate, without the four bytes that are not sent.
fn deflated(channel: &str, _: u8, offset: u64, data: &str) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    let head = format!(r#"{{"type":"event","channel":"{channel}","offset":{offset},"ts":17"#);
    encoder.write_all(format!(r#"{head},"data":{data}}}"#).as_bytes()).expect("memory");
    encoder.flush().expect("memory");
    let packed = encoder.get_ref();
    packed[..packed.len() - 4].to_vec()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

/// A gateway with one channel; its alias differs from one connection to the next.
fn start(encode: Encode, fifth: Fifth) -> String {
    start_as(0x82, encode, fifth)
}

/// The same, whose frames of events begin with this byte.
fn start_as(first: u8, encode: Encode, fifth: Fifth) -> String {
    let (url, heard) = accept();
    std::thread::spawn(move || {
        let mut streams: HashMap<usize, TcpStream> = HashMap::new();
        let mut seats: Vec<(usize, u8)> = Vec::new();
        let mut offset = 0_u64;
        let mut channel = String::new();
        while let Ok(said) = heard.recv() {
            let (id, text) = match said {
                Said::Joined(id, stream) => {
                    streams.insert(id, stream);
                    continue;
                }
                Said::Text(id, text) => (id, text),
            };
            if text.starts_with(r#"{"type":"subscribe""#) {
                let rest = text.split(r#""channel":""#).nth(1).expect("a channel");
                channel = rest.split('"').next().expect("an end").to_owned();
                let alias = 7 + u8::try_from(seats.len()).expect("few");
                seats.push((id, alias));
                let answer = format!(
                    r#"{{"type":"subscribed","id":1,"channel":"{channel}","epoch":"e","offset":0,"alias":{alias}}}"#
                );
                send(&mut streams, id, &answer);
                continue;
            }
            offset += 1;
            let data = data(&text, &channel);
            for (nth, (id, alias)) in seats.iter().enumerate() {
                let is_sin = nth == 0 && offset == 5;
                let alias = if is_sin && fifth == Fifth::Stranger { 99 } else { *alias };
                let mut payload = encode(&channel, alias, offset, data);
                if is_sin && fifth == Fifth::Garbage {
                    payload = b"\xFF\xFF".to_vec();
                }
                let is_sent = !(is_sin && fifth == Fifth::Nothing);
                if let Some(stream) = streams.get_mut(id).filter(|_| is_sent) {
                    let [.., high, low] = payload.len().to_be_bytes();
                    let len = if payload.len() < 126 { vec![low] } else { vec![126, high, low] };
                    // Whoever has left is not told.
                    stream.write_all(&[&[first], len.as_slice(), &payload].concat()).ok();
                }
            }
        }
    });
    url
}

/// The data of a publish, which is binary where that was agreed on.
fn data<'a>(text: &'a str, channel: &str) -> &'a str {
    if let Some(rest) = text.strip_prefix("\u{2}\u{2}\0") {
        let len = char::from(u8::try_from(channel.len()).expect("short"));
        return rest.strip_prefix(len).and_then(|rest| rest.strip_prefix(channel)).expect("data");
    }
    let data = text.split(r#""data":"#).nth(1).expect("data");
    data.strip_suffix('}').expect("an end")
}

fn fanout(url: &str, format: &str, extra: &[&str]) -> Ran {
    let short = ["fanout", "-c", "4", "--rate", "80", "--warmup", "0.1", "--duration", "0.6"];
    let size = if extra.contains(&"--size") { [].as_slice() } else { &["--size", "60"] };
    let last = ["--drain", "3", "--late-max", "2000", "--format", format, url];
    run(&[short.as_slice(), extra, size, &last].concat())
}

#[test]
fn events_in_binary_are_verified() {
    for (encode, format) in [(plain as Encode, "bin"), (packed, "bin"), (zipped, "json+gzip")] {
        let ran = fanout(&start(encode, Fifth::Event), format, &["--verify"]);
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert!(ran.text.contains("0 violations"), "{}", ran.text);
        let samples = ran.text.lines().find(|line| line.contains("  latency"));
        assert!(samples.is_some_and(|line| line.contains("samples")), "{}", ran.text);
    }
}

#[test]
fn a_promise_that_is_broken_in_binary_is_listed() {
    for (fifth, how) in [
        (Fifth::Nothing, "channel 0: offsets 5 to 5 neither came nor were told"),
        (Fifth::Stranger, "a channel of another name: offsets 5 to 5 came without a subscription"),
    ] {
        let ran = fanout(&start(plain, fifth), "bin", &["--verify"]);
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert!(ran.text.contains(how), "{}", ran.text);
    }
}

#[test]
fn a_binary_frame_that_is_no_event_is_a_sentence() {
    for format in ["bin", "json+gzip"] {
        let ran = fanout(&start(plain, Fifth::Garbage), format, &[]);
        assert_eq!(ran.code, 2, "{}", ran.text);
        assert!(ran.text.contains("a binary frame that is no event"), "{}", ran.text);
    }
}

#[test]
fn compressed_messages_are_verified_and_counted_on_the_wire_and_inflated() {
    let json = std::env::temp_dir().join(format!("weir-deflate-{}.json", std::process::id()));
    let file = json.to_str().expect("UTF-8");
    let extra = ["--deflate", "--payload", "telemetry", "--size", "4000", "--verify"];
    let url = start_as(0xC1, deflated, Fifth::Event);
    let ran = fanout(&url, "json", &[extra.as_slice(), &["--json", file]].concat());
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    let report = crate::schema::checked(&json);
    std::fs::remove_file(&json).expect("it can go");
    let figure = |name: &str| report["fanout"][name].as_f64().expect("a number");
    let (wire, inflated) =
        (figure("wire_bytes_per_delivery"), figure("inflated_bytes_per_delivery"));
    assert!((4_050.0..4_300.0).contains(&inflated), "{inflated}: {}", ran.text);
    assert!(wire > 500.0 && wire * 2.0 < inflated, "{wire}: {}", ran.text);
    let ran = fanout(&start_as(0xC1, deflated, Fifth::Nothing), "json", &extra);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert!(ran.text.contains("offsets 5 to 5 neither came nor were told"), "{}", ran.text);
}

#[test]
fn what_does_not_inflate_and_who_does_not_compress_is_a_sentence() {
    let ran = fanout(&start_as(0xC1, deflated, Fifth::Garbage), "json", &["--deflate"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("a compressed message that is no deflate stream"), "{}", ran.text);
    let ran = fanout(&start_as(0xC1, deflated, Fifth::Event), "json", &[]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("reserved bits are set and no extension was agreed"), "{}", ran.text);
}

#[test]
fn another_servers_frames_are_said_by_templates_alone() {
    let ran = fanout("ws://127.0.0.1:1/", "bin", &["--publish-frame", "{payload}"]);
    assert_eq!(ran.code, 64, "{}", ran.text);
    assert!(ran.text.contains("--format is Weir's"), "{}", ran.text);
}
