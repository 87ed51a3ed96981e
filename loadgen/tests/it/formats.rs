//! `fanout --format`: a server that speaks the binary subprotocols, and one that breaks the promise
//! in them.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;

use flate2::Compression;
use flate2::write::GzEncoder;

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

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

/// A gateway with one channel; its alias differs from one connection to the next.
fn start(encode: Encode, fifth: Fifth) -> String {
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
                    payload = b"\x09".to_vec();
                }
                let is_sent = !(is_sin && fifth == Fifth::Nothing);
                if let Some(stream) = streams.get_mut(id).filter(|_| is_sent) {
                    let [.., high, low] = payload.len().to_be_bytes();
                    let len = if payload.len() < 126 { vec![low] } else { vec![126, high, low] };
                    // Whoever has left is not told.
                    stream.write_all(&[&[0x82], len.as_slice(), &payload].concat()).ok();
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
    let last = ["--drain", "3", "--size", "60", "--late-max", "2000", "--format", format, url];
    run(&[short.as_slice(), extra, &last].concat())
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
fn another_servers_frames_are_said_by_templates_alone() {
    let ran = fanout("ws://127.0.0.1:1/", "bin", &["--publish-frame", "{payload}"]);
    assert_eq!(ran.code, 64, "{}", ran.text);
    assert!(ran.text.contains("--format is Weir's"), "{}", ran.text);
}
