//! A small gateway for tests: relays publishes to subscribers, and breaks one promise if asked to.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

pub(crate) const CONSENT: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What the relay does wrong, always to the first subscriber of a channel and at offset 5.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Sin {
    None,
    /// Says goodbye with a close frame.
    Close,
    /// Ends the connection.
    Cut,
    /// Ends the publisher's connection.
    CutPublisher,
    /// Answers no publish from offset 5 on.
    Deaf,
    /// Does not send it and does not say so.
    Drop,
    /// Sends text that is not JSON.
    Garbage,
    /// Keeps no history: nothing is recovered.
    Forget,
    /// Recovers, but leaves out the first event that was missed.
    Hole,
    /// Tells of losses from 0 to the largest number.
    Hostile,
    /// Answers `since` as if it had not been sent.
    Ignore,
    /// Does not send it and says so.
    Lag,
    /// The same, and shows it as a latest value.
    LagAndShow,
    /// The same, and shows the one before it.
    LagAndShowStale,
    /// Does not send it and says that it lost two.
    Miscount,
    /// Refuses publishes from offset 5 on.
    Reject,
    /// Loses the channel once, and tells every subscriber of its new epoch.
    Renew,
    /// Does not send it, and says `subscribed` anew behind it.
    Restart,
    /// Answers subscribes with an error.
    Refuse,
    /// Sends it twice; answers pings twice.
    Repeat,
    /// Says behind it that the channel ends at offset 3, and sends 4 and 5 again.
    Rollback,
    /// Shows it again as a latest value, for no reason.
    Show,
    /// Acknowledges what nobody published; answers pings to another connection.
    Unasked,
    /// Says that it recovered, in another epoch.
    WrongEpoch,
}

pub(crate) enum Said {
    Joined(usize, TcpStream),
    Text(usize, String),
}

#[derive(Default)]
struct Channel {
    /// The event of each offset, from 1.
    events: Vec<String>,
    renewed: bool,
    subscribers: Vec<usize>,
}

/// A client, and what the names of its channels begin with.
type Pattern = (usize, String);

/// Starts a relay and says its URL.
pub(crate) fn start(sin: Sin) -> String {
    let (url, heard) = accept();
    std::thread::spawn(move || hub(&heard, sin));
    url
}

/// Takes clients on a free port: its URL, and what they say.
pub(crate) fn accept() -> (String, Receiver<Said>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/ws", listener.local_addr().expect("its address"));
    let (said, heard) = sync_channel(1024);
    std::thread::spawn(move || {
        for (id, stream) in listener.incoming().enumerate() {
            let (stream, said) = (stream.expect("a connection"), said.clone());
            std::thread::spawn(move || listen(id, stream, &said));
        }
    });
    (url, heard)
}

/// Reads one client until it leaves.
fn listen(id: usize, mut stream: TcpStream, said: &SyncSender<Said>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    stream.set_nodelay(true).ok()?;
    // Whoever does not read in time is closed, so that nobody waits for the slow.
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, 64 << 10).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(100))).ok()?;
    stream.write_all(&consent(&head)).ok()?;
    said.send(Said::Joined(id, stream.try_clone().ok()?)).ok()?;
    loop {
        let text = read_client(&mut stream)?;
        said.send(Said::Text(id, text)).ok()?;
    }
}

/// Agrees to whatever subprotocol and compression were asked for.
fn consent(head: &[u8]) -> Vec<u8> {
    let head = String::from_utf8_lossy(head);
    let asked = head.lines().find(|line| line.starts_with("Sec-WebSocket-Protocol:"));
    let mut line = asked.map_or_else(String::new, |line| format!("{line}\r\n"));
    if head.contains("permessage-deflate") {
        let agreed = "permessage-deflate; server_no_context_takeover";
        line.push_str(&format!("Sec-WebSocket-Extensions: {agreed}\r\n"));
    }
    [CONSENT.strip_suffix(b"\r\n").expect("an end"), line.as_bytes(), b"\r\n"].concat()
}

/// One masked frame of text, or of bytes that could be.
fn read_client(stream: &mut TcpStream) -> Option<String> {
    let mut start = [0; 2];
    stream.read_exact(&mut start).ok()?;
    assert!(start[1] & 0x80 != 0, "clients mask");
    let mut long = [0; 2];
    let len = match start[1] & 0x7F {
        126 => {
            stream.read_exact(&mut long).ok()?;
            usize::from(u16::from_be_bytes(long))
        }
        127 => panic!("too long for these tests"),
        short => usize::from(short),
    };
    let mut body = vec![0; 4 + len];
    stream.read_exact(&mut body).ok()?;
    let (mask, payload) = body.split_at(4);
    let text = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    String::from_utf8(text).ok()
}

/// Owns all channels; ends with its last client.
fn hub(heard: &Receiver<Said>, sin: Sin) {
    let mut channels: HashMap<String, Channel> = HashMap::new();
    let mut streams: HashMap<usize, TcpStream> = HashMap::new();
    let mut patterns: Vec<Pattern> = Vec::new();
    while let Ok(said) = heard.recv() {
        let (id, text) = match said {
            Said::Joined(id, stream) => {
                streams.insert(id, stream);
                (id, None)
            }
            Said::Text(id, text) => (id, Some(text)),
        };
        let Some(text) = text else { continue };
        let number = after(&text, r#""id":"#).to_owned();
        if text.starts_with(r#"{"type":"ping""#) {
            if sin != Sin::Deaf {
                let kind = if sin == Sin::Refuse { "error" } else { "pong" };
                let answer = format!(r#"{{"type":"{kind}","id":{number}}}"#);
                let other = streams.keys().copied().filter(|other| *other != id).max();
                let to = if sin == Sin::Unasked { other.unwrap_or(id) } else { id };
                for _ in 0..if sin == Sin::Repeat { 2 } else { 1 } {
                    send(&mut streams, to, &answer);
                }
            }
            continue;
        }
        let name = text.split(r#""channel":""#).nth(1).and_then(|rest| rest.split('"').next());
        let name = name.expect("a channel").to_owned();
        if name.ends_with('*') {
            let answer = by_pattern(&mut channels, &mut patterns, (id, &name), &text);
            send(&mut streams, id, &answer.replace("NUMBER", &number));
            continue;
        }
        let channel = channels.entry(name.clone()).or_insert_with(|| {
            let has = |(_, prefix): &&Pattern| name.starts_with(prefix);
            let subscribers = patterns.iter().filter(has).map(|(id, _)| *id).collect();
            Channel { subscribers, ..Channel::default() }
        });
        if text.starts_with(r#"{"type":"subscribe""#) {
            for answer in subscribe(channel, (id, &number), &name, &text, sin) {
                send(&mut streams, id, &answer);
            }
        } else if text.starts_with(r#"{"type":"unsubscribe""#) {
            if sin != Sin::Repeat {
                channel.subscribers.retain(|subscriber| *subscriber != id);
            }
            let answer = format!(r#"{{"type":"unsubscribed","id":{number},"channel":"{name}"}}"#);
            send(&mut streams, id, &answer);
        } else if sin == Sin::Reject && channel.events.len() >= 4 {
            let refusal = r#"{"type":"error","code":"overloaded","message":"too much"}"#;
            send(&mut streams, id, refusal);
        } else if sin == Sin::CutPublisher && channel.events.len() >= 4 {
            drop(streams.remove(&id).map(|s| s.shutdown(std::net::Shutdown::Both)));
        } else {
            publish(channel, &name, &text, (&mut streams, sin));
            if let Some(rest) = text.strip_prefix(r#"{"type":"publish","id":"#) {
                let number = rest.split(',').next().expect("a number");
                let offset = channel.events.len() as u64;
                let Some(answer) = acknowledgement(number, &name, offset, sin) else { continue };
                send(&mut streams, id, &answer);
            }
        }
    }
}

/// Subscribes a client to a pattern or ends that; its answer, with a place for the number.
fn by_pattern(
    channels: &mut HashMap<String, Channel>,
    patterns: &mut Vec<Pattern>,
    (id, name): (usize, &str),
    text: &str,
) -> String {
    let prefix = name.trim_end_matches('*').to_owned();
    let is_asked = text.starts_with(r#"{"type":"subscribe""#);
    for (_, channel) in channels.iter_mut().filter(|(name, _)| name.starts_with(&prefix)) {
        channel.subscribers.retain(|subscriber| *subscriber != id);
        channel.subscribers.extend(is_asked.then_some(id));
    }
    patterns.retain(|pattern| *pattern != (id, prefix.clone()));
    if !is_asked {
        return format!(r#"{{"type":"unsubscribed","id":NUMBER,"channel":"{name}"}}"#);
    }
    patterns.push((id, prefix));
    format!(r#"{{"type":"subscribed","id":NUMBER,"channel":"{name}","pattern":true}}"#)
}

/// The answer to a publish.
fn acknowledgement(number: &str, name: &str, offset: u64, sin: Sin) -> Option<String> {
    let (refuses, unasked) = (sin == Sin::Refuse, sin == Sin::Unasked);
    Some(match offset {
        5.. if sin == Sin::Deaf => return None,
        5 if sin == Sin::Repeat => published(number, name, 4),
        5 if sin == Sin::Drop => published(number, name, 6),
        _ if refuses => format!(r#"{{"type":"error","id":{number},"code":"overloaded"}}"#),
        _ if unasked => published("9999999", name, offset),
        _ => published(number, name, offset),
    })
}

/// The answer to a subscribe, and what was missed since the place it names.
fn subscribe(
    channel: &mut Channel,
    (id, number): (usize, &str),
    name: &str,
    text: &str,
    sin: Sin,
) -> Vec<String> {
    if sin == Sin::Refuse {
        return vec![format!(r#"{{"type":"error","id":{number},"message":"not today"}}"#)];
    }
    channel.subscribers.push(id);
    let (offset, mut missed, mut recovered) = (channel.events.len(), Vec::new(), "");
    let since = text.contains(r#""since":{"epoch":"e","#) && sin != Sin::Ignore;
    let epoch = if since && sin == Sin::WrongEpoch { "f" } else { "e" };
    if since {
        let known: usize = after(text, r#""offset":"#).parse().expect("an offset");
        recovered =
            if sin == Sin::Forget { r#","recovered":false"# } else { r#","recovered":true"# };
        if sin != Sin::Forget {
            missed = channel.events[known..].to_vec();
        }
        if sin == Sin::Hole && !missed.is_empty() {
            missed.remove(0);
        }
    }
    let answer = format!(
        r#"{{"type":"subscribed","id":{number},"channel":"{name}","epoch":"{epoch}","offset":{offset}{recovered}}}"#
    );
    [vec![answer], missed].concat()
}

/// The digits behind a mark.
fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    let rest = text.split(mark).nth(1).unwrap_or("");
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("")
}

fn published(id: &str, channel: &str, offset: u64) -> String {
    format!(
        r#"{{"type":"published","id":{id},"channel":"{channel}","epoch":"e","offset":{offset}}}"#
    )
}

fn publish(
    channel: &mut Channel,
    name: &str,
    text: &str,
    (streams, sin): (&mut HashMap<usize, TcpStream>, Sin),
) {
    // Whoever has left by itself suffers nothing, and the next one does.
    channel.subscribers.retain(|id| streams.contains_key(id));
    if sin == Sin::Renew && channel.events.len() == 4 && !channel.renewed {
        channel.events.clear();
        channel.renewed = true;
        let text = subscribed(name, "f", 0).replace('}', r#","recovered":false}"#);
        channel.subscribers.iter().for_each(|id| send(streams, *id, &text));
    }
    let offset = channel.events.len() + 1;
    let data = text.split(r#""data":"#).nth(1).expect("data").strip_suffix('}').expect("an end");
    let event =
        format!(r#"{{"type":"event","channel":"{name}","offset":{offset},"ts":17,"data":{data}}}"#);
    channel.events.push(event.clone());
    for (at, id) in channel.subscribers.iter().enumerate() {
        match sin {
            _ if at > 0 || offset != 5 => send(streams, *id, &event),
            Sin::CutPublisher
            | Sin::Deaf
            | Sin::Forget
            | Sin::Hole
            | Sin::Ignore
            | Sin::None
            | Sin::Refuse
            | Sin::Reject
            | Sin::Renew
            | Sin::Unasked
            | Sin::WrongEpoch => send(streams, *id, &event),
            Sin::Close => {
                if let Some(mut stream) = streams.remove(id) {
                    stream.write_all(b"\x88\x02\x03\xE9").ok();
                    stream.shutdown(std::net::Shutdown::Both).ok();
                }
            }
            Sin::Cut => drop(streams.remove(id).map(|s| s.shutdown(std::net::Shutdown::Both))),
            Sin::Drop => {}
            Sin::Garbage => send(streams, *id, "no JSON"),
            Sin::Hostile | Sin::Lag | Sin::LagAndShow | Sin::LagAndShowStale | Sin::Miscount => {
                lag(name, &event, sin).iter().for_each(|text| send(streams, *id, text));
            }
            Sin::Restart => {
                send(streams, *id, &subscribed(name, "e", offset));
            }
            Sin::Repeat => {
                send(streams, *id, &event);
                send(streams, *id, &event);
            }
            Sin::Rollback => {
                send(streams, *id, &event);
                send(streams, *id, &subscribed(name, "e", 3));
                channel.events[3..].iter().for_each(|event| send(streams, *id, event));
            }
            Sin::Show => {
                send(streams, *id, &event);
                let head = format!(r#"{{"type":"event","channel":"{name}","offset":{offset}"#);
                let shown = format!(r#"{head},"ts":17,"key":"k","snapshot":true,"data":{data}}}"#);
                [&shown, &shown].into_iter().for_each(|text| send(streams, *id, text));
            }
        }
    }
}

/// That `event` is lost, and what is shown of it.
fn lag(name: &str, event: &str, sin: Sin) -> Vec<String> {
    let (dropped, from, to) = if sin == Sin::Hostile {
        (u64::MAX, 0, u64::MAX)
    } else {
        (if sin == Sin::Miscount { 2 } else { 1 }, 5, 5)
    };
    let range = format!(r#""dropped":{dropped},"from":{from},"to":{to}"#);
    let mut said = vec![format!(r#"{{"type":"lagged","channel":"{name}",{range}}}"#)];
    let shown = event.replace(r#","data":"#, r#","snapshot":true,"data":"#);
    if sin == Sin::LagAndShow {
        said.push(shown);
    } else if sin == Sin::LagAndShowStale {
        said.push(shown.replace(r#""offset":5"#, r#""offset":4"#));
    }
    said
}

/// What nobody has asked for.
fn subscribed(channel: &str, epoch: &str, offset: usize) -> String {
    format!(r#"{{"type":"subscribed","channel":"{channel}","epoch":"{epoch}","offset":{offset}}}"#)
}

/// One unmasked text frame; a client that has left is not told.
pub(crate) fn send(streams: &mut HashMap<usize, TcpStream>, id: usize, text: &str) {
    let len = u16::try_from(text.len()).expect("short");
    let mut frame = vec![0x81];
    if len < 126 {
        frame.push(len.to_le_bytes()[0]);
    } else {
        frame.push(126);
        frame.extend_from_slice(&len.to_be_bytes());
    }
    frame.extend_from_slice(text.as_bytes());
    if let Some(stream) = streams.get_mut(&id)
        && stream.write_all(&frame).is_err()
    {
        // The listener's copy is ended with it.
        stream.shutdown(std::net::Shutdown::Both).ok();
        streams.remove(&id);
    }
}
