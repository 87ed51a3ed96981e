//! The echo of `weir serve --echo`: sends every message back as it came, through the codec of the
//! gateway and nothing else of it. For conformance tests; no seat, no hub, no limit but its own.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::local::Local;
use crate::proto::format::Spoken;
use crate::proto::ws::deflate::{Agreed, Deflater, Inbound, Inflaters};
use crate::proto::ws::frame::{self, Opcode};
use crate::proto::ws::message::{Decoder, Message};

/// The largest message that is sent back, in bytes: the largest of the conformance suite.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that wait to be written before the next message is decoded.
const WRITE_BYTES: usize = 256 * 1024;

/// Bytes that are inflated at once: few, so that the suite sees the decoder pause wherever it may.
const INFLATED_BYTES: usize = 1_000;

/// One connection that is echoed.
struct Echo {
    decoder: Decoder,
    inflaters: Inflaters,
    /// What compresses, and its window; `None` where that was not agreed, or the client allows no
    /// window that [events](Spoken::format) are compressed within.
    deflater: Option<(Deflater, u8)>,
    out: Vec<u8>,
}

/// Whether a connection goes on.
enum Next {
    Close,
    Read,
    Write,
}

impl Local {
    /// Echoes a WebSocket whose 101 has been written, until it ends.
    pub fn echo<S>(&self, mut stream: S, early: Vec<u8>, agreed: Option<Agreed>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let level = self.options().compression.level;
        self.spawn(async move {
            let mut echo = Echo::new(agreed, level);
            if let Err(error) = echo.run(&mut stream, early).await {
                tracing::debug!(%error, "an echoed connection broke off");
            }
        });
    }
}

impl Echo {
    fn new(agreed: Option<Agreed>, level: u32) -> Self {
        let decoder = agreed.map(|agreed| Decoder::inflating(Inbound::new(&agreed)));
        let spoken = Spoken { deflate: agreed, ..Spoken::default() };
        let bits = spoken.format().window_bits();
        // Without a threshold: most messages of a suite are small.
        let deflater = bits.map(|bits| (Deflater::with_window(level, 0, bits), bits));
        let (inflaters, out) = (Inflaters::default(), Vec::new());
        Self { decoder: decoder.unwrap_or_default(), inflaters, deflater, out }
    }

    async fn run<S>(&mut self, stream: &mut S, early: Vec<u8>) -> std::io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut bytes = early;
        loop {
            let mut rest = bytes.as_mut_slice();
            loop {
                let next = self.take(&mut rest);
                stream.write_all(&self.out).await?;
                self.out.clear();
                match next {
                    Next::Close => return finish(stream, &mut bytes).await,
                    Next::Read => break,
                    Next::Write => {}
                }
            }
            bytes.resize(READ_BYTES, 0);
            let read = stream.read(&mut bytes).await?;
            if read == 0 {
                return Ok(());
            }
            bytes.truncate(read);
        }
    }

    /// Answers the messages at the front of `input`, until there is enough to write.
    fn take(&mut self, input: &mut &mut [u8]) -> Next {
        while self.out.len() < WRITE_BYTES {
            self.inflaters.allow(INFLATED_BYTES);
            match self.decoder.next_with(input, MESSAGE_BYTES, &mut self.inflaters) {
                Ok(Some(Message::Text(text))) => {
                    send(&mut self.deflater, Opcode::Text, text, &mut self.out);
                }
                Ok(Some(Message::Binary(bytes))) => {
                    send(&mut self.deflater, Opcode::Binary, bytes, &mut self.out);
                }
                Ok(Some(Message::Ping(payload))) => {
                    frame::control(Opcode::Pong, payload, &mut self.out);
                }
                Ok(Some(Message::Pong(_))) => {}
                Ok(Some(Message::Close(close))) => {
                    let (code, reason) = close.unwrap_or((1000, ""));
                    frame::close(code, reason, &mut self.out);
                    return Next::Close;
                }
                Ok(None) => {
                    if !self.decoder.is_paused() {
                        return Next::Read;
                    }
                }
                Err(error) => {
                    frame::close(error.close_code(), error.text(), &mut self.out);
                    return Next::Close;
                }
            }
        }
        Next::Write
    }
}

fn send(deflater: &mut Option<(Deflater, u8)>, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    match deflater {
        Some((deflater, window_bits)) => {
            deflater.frame(opcode, payload, *window_bits, out);
        }
        None => {
            frame::header(opcode, true, payload.len(), out);
            out.extend_from_slice(payload);
        }
    }
}

/// Ends our side, and reads on until the peer has ended its own: no reset overtakes the close.
async fn finish<S>(stream: &mut S, bytes: &mut Vec<u8>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.shutdown().await?;
    bytes.resize(READ_BYTES, 0);
    while stream.read(bytes).await? > 0 {}
    Ok(())
}
