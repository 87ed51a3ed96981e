//! A plain blaster: accepts WebSockets, answers one subscribe each, and writes the same batch of
//! event frames to all of them as fast as they are taken. The least a server can do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock;
use crate::wire::frame::{self, Opcode};

const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A receiver that takes nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct Blast {
    pub(crate) channel: String,
    pub(crate) payload_bytes: usize,
    /// Frames per write.
    pub(crate) batch: u64,
}

/// A running blaster. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Blaster {
    address: SocketAddr,
    firing: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl Blaster {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn start(blast: Blast) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (firing, stopped) = (Arc::default(), Arc::default());
        let blaster = Self { address, firing, stopped };
        let (firing, stopped) = (Arc::clone(&blaster.firing), Arc::clone(&blaster.stopped));
        std::thread::Builder::new().name("blaster".into()).spawn(move || {
            let mut streams = gather(&listener, &blast, &firing, &stopped);
            let mut offset = 0;
            let mut batch = Vec::new();
            while !streams.is_empty() && !stopped.load(Ordering::Relaxed) {
                fill(&mut batch, &blast, &mut offset);
                streams.retain_mut(|stream| stream.write_all(&batch).is_ok());
            }
        })?;
        Ok(blaster)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All connections stand: begin.
    pub(crate) fn fire(&self) {
        self.firing.store(true, Ordering::Release);
    }
}

impl Drop for Blaster {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.fire();
    }
}

/// Accepts until told to fire.
fn gather(
    listener: &TcpListener,
    blast: &Blast,
    firing: &AtomicBool,
    stopped: &AtomicBool,
) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    while !firing.load(Ordering::Acquire) && !stopped.load(Ordering::Relaxed) {
        match listener.accept() {
            // One that leaves during its handshake is no receiver.
            Ok((stream, _)) => streams.extend(greet(stream, blast).ok()),
            Err(_) => clock::sleep(100_000),
        }
    }
    streams
}

/// Does the handshake and answers the first frame.
fn greet(mut stream: TcpStream, blast: &Blast) -> io::Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    while !head.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..read]);
    }
    stream.write_all(ANSWER)?;
    if stream.read(&mut chunk)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text =
        format!(r#"{{"type":"subscribed","id":1,"channel":"{}","offset":0}}"#, blast.channel);
    let mut answer = Vec::new();
    frame::push_server(Opcode::Text, text.as_bytes(), &mut answer);
    stream.write_all(&answer)?;
    Ok(stream)
}

/// The next frames, as Weir would write them.
fn fill(batch: &mut Vec<u8>, blast: &Blast, offset: &mut u64) {
    batch.clear();
    let now = clock::now();
    let marks = format!(r#"{{"ts":{now},"fill":""}}"#).len();
    let fill = "x".repeat(blast.payload_bytes.saturating_sub(marks));
    let Blast { channel, .. } = blast;
    for _ in 0..blast.batch {
        *offset += 1;
        let text = format!(
            r#"{{"type":"event","channel":"{channel}","offset":{offset},"ts":1732153200123,"data":{{"ts":{now},"fill":"{fill}"}}}}"#
        );
        frame::push_server(Opcode::Text, text.as_bytes(), batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_size_that_was_asked_for() {
        for payload_bytes in [40, 41, 1_000] {
            let blast = Blast { channel: "a".into(), payload_bytes, batch: 3 };
            let (mut batch, mut joined, mut offset) = (Vec::new(), Vec::new(), 0);
            fill(&mut batch, &blast, &mut offset);
            let (first, _) = frame::next(&mut batch, &mut joined).expect("a frame").expect("whole");
            let text = std::str::from_utf8(first.payload).expect("UTF-8");
            let data = text.split(r#""data":"#).nth(1).and_then(|rest| rest.strip_suffix('}'));
            assert_eq!((data.expect("data").len(), offset), (payload_bytes, 3), "{text}");
        }
    }
}
