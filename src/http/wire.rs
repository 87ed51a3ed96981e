//! The stream as hyper sees it. Watches the request heads for what hyper hides (a length given
//! twice, or in too many digits; lines that end with LF alone), gives hyper's own refusals a body,
//! and ends writes that a peer does not take, or too slowly.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stall::Stall;
use super::unread;

/// The bytes of a header line that are looked at. A line with a length that is longer is refused.
const LINE_BYTES: usize = 64;

/// What a request is told that others may cut elsewhere. The digits are what [`LINE_BYTES`] leaves
/// behind the name.
pub(super) const DOUBTFUL: &str = "the lines of a request end with CR and LF, its body is chunked, \
                                   and nothing else, or has a Content-Length, not both, and the \
                                   length in at most 47 digits";

/// A stream that speaks HTTP.
pub(super) struct Wire<S> {
    pub(super) socket: S,
    /// What was read of it before, and is yet to be handed on.
    pub(super) first: Vec<u8>,
    heads: Heads,
    /// Set to the number of the first head that others may read otherwise.
    bad_head: Rc<Cell<Option<u64>>>,
    /// What is being written instead of an answer of hyper's own.
    instead: Bytes,
    /// The error's code of that answer, once there was one.
    pub(super) unread: Option<&'static str>,
    stall: Stall,
    /// The peer has taken nothing for too long, or too little.
    pub(super) stalled: bool,
}

impl<S> Wire<S> {
    /// The stream `socket`, of which `first` was read before.
    pub(super) fn new(socket: S, first: Vec<u8>, bad_head: Rc<Cell<Option<u64>>>) -> Self {
        Self {
            socket,
            first,
            heads: Heads::default(),
            bad_head,
            instead: Bytes::new(),
            unread: None,
            stall: Stall::default(),
            stalled: false,
        }
    }

    fn timed(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.stall.taken(written.as_ref().map_or(0, |bytes| *bytes));
            return Poll::Ready(written);
        }
        ready!(self.stall.poll(cx));
        self.stalled = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Whether `bytes` are hyper's own answer, and another is to be written instead.
    fn is_replaced(&mut self, bytes: &[u8]) -> bool {
        if self.instead.is_empty()
            && let Some(unread) = unread::instead_of(bytes)
        {
            self.unread = Some(unread.code);
            self.instead = unread.answer.into();
        }
        !self.instead.is_empty()
    }

    /// Writes the other answer; done, it counts as the `len` bytes that hyper wanted to write.
    fn poll_instead(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        while !self.instead.is_empty() {
            let written = Pin::new(&mut self.socket).poll_write(cx, &self.instead);
            match ready!(self.timed(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.instead.advance(written),
            }
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.first.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        } else {
            let some = self.first.len().min(buf.remaining());
            buf.put_slice(self.first.get(..some).unwrap_or_default());
            self.first.drain(..some);
            if self.first.is_empty() {
                self.first = Vec::new();
            }
        }
        if self.heads.read(&buf.filled()[before..]) {
            self.bad_head.set(Some(self.heads.number));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_replaced(buf) {
            return self.poll_instead(cx, buf.len());
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.timed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [buf] = bufs
            && self.is_replaced(buf)
        {
            return self.poll_instead(cx, buf.len());
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With TLS it is here that an answer waits, and not where it is written.
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.timed(cx, flushed.map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Finds heads with both `Content-Length` and `Transfer-Encoding`, a `Content-Length` line that is
/// too long to be read here, another coding than `chunked` or that twice, and lines without CR.
///
/// hyper takes all of these in silence (RFC 9112, sections 2.2 and 6.3, allows most), and who stands
/// in front of us may read them otherwise: request smuggling. Bodies with a length are skipped;
/// behind a chunked one nothing is looked at, because the connection ends there.
///
/// What stands behind a handshake is read as heads too, so a finding is of one head and says
/// nothing of those before it. Where this counts fewer heads than hyper, a finding is of some later
/// request as well: what is in doubt is refused.
struct Heads {
    at: At,
    /// The number of the head that is read, or was read last; the first is 1.
    number: u64,
    /// Whether a line of that head has come.
    begun: bool,
    line: [u8; LINE_BYTES],
    /// Bytes of the line so far, counted on beyond [`LINE_BYTES`].
    line_len: usize,
    /// The last of them.
    last: u8,
    length: Option<u64>,
    chunked: bool,
}

/// Where in the stream of requests.
enum At {
    Body(u64),
    Head,
    End,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            at: At::Head,
            number: 0,
            begun: false,
            line: [0; LINE_BYTES],
            line_len: 0,
            last: 0,
            length: None,
            chunked: false,
        }
    }
}

impl Heads {
    /// Takes the next bytes of the connection; whether they completed such a line or head.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.at {
                At::End => return false,
                At::Body(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    let left = left - here as u64;
                    self.at = if left == 0 { At::Head } else { At::Body(left) };
                }
                At::Head => {
                    let end = memchr::memchr(b'\n', bytes);
                    self.keep(&bytes[..end.unwrap_or(bytes.len())]);
                    let Some(end) = end else { return false };
                    bytes = &bytes[end + 1..];
                    if self.line() {
                        self.at = At::End;
                        return true;
                    }
                }
            }
        }
        false
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(room) = self.line.get_mut(self.line_len..) {
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
        }
        self.line_len += bytes.len();
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// Reads a whole line; whether it leaves the end of the head, or of its body, in doubt.
    fn line(&mut self) -> bool {
        let len = std::mem::take(&mut self.line_len);
        let bare = std::mem::take(&mut self.last) != b'\r';
        let line = self.line[..len.min(LINE_BYTES)].trim_ascii_end();
        let empty = line.is_empty() && len <= LINE_BYTES;
        // Empty lines before a request are not a head of their own, to hyper neither.
        if empty && !self.begun {
            return false;
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.number += 1;
        }
        if bare {
            return true;
        }
        if empty {
            self.head_ended();
            return false;
        }
        if let Some(value) = value_of(line, b"content-length:") {
            if len > LINE_BYTES {
                // Its digits are out of sight, and hyper would go by them.
                return true;
            }
            // What is no number, hyper refuses.
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            self.length = Some(number.unwrap_or(0));
        } else if let Some(coding) = value_of(line, b"transfer-encoding:") {
            let again = std::mem::replace(&mut self.chunked, true);
            // Behind what is seen of a long line there may be another coding.
            if again || len > LINE_BYTES || !coding.eq_ignore_ascii_case(b"chunked") {
                return true;
            }
        }
        self.chunked && self.length.is_some()
    }

    fn head_ended(&mut self) {
        self.begun = false;
        let length = self.length.take();
        self.at = match length {
            _ if self.chunked => At::End,
            Some(length) if length > 0 => At::Body(length),
            Some(_) | None => At::Head,
        };
    }
}

/// What stands behind `name` when the line begins with it.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_lengths(input: &[u8], step: usize) -> bool {
        let mut heads = Heads::default();
        input.chunks(step).any(|bytes| heads.read(bytes))
    }

    /// hyper reads 40 here. Whoever reads 0 takes the body for the next head, and is at the end
    /// of the stream, as it thinks, before the second request comes.
    #[test]
    fn a_length_line_beyond_the_buffer_is_refused() {
        for zeros in [48, 49, 100, 5_000] {
            let input = format!(
                "POST / HTTP/1.1\r\nContent-Length: {}40\r\n\r\nx\r\nTransfer-Encoding: \
                 chunked\r\n\r\n",
                "0".repeat(zeros)
            );
            for step in [1, 7, 64, input.len()] {
                assert!(two_lengths(input.as_bytes(), step), "{zeros} zeros, {step} at a time");
            }
            let spaces =
                format!("POST / HTTP/1.1\r\ncontent-length:{}40\r\n\r\n", " ".repeat(zeros));
            assert!(two_lengths(spaces.as_bytes(), 3));
        }
        // What is just short enough is read as it is, and the sentence says how short.
        let digits = LINE_BYTES - "Content-Length: \r".len();
        assert!(DOUBTFUL.ends_with(&format!("at most {digits} digits")));
        let input = format!(
            "POST / HTTP/1.1\r\nContent-Length: {}40\r\n\r\n{}",
            "0".repeat(digits - 2),
            "\r\nTransfer-Encoding: chunked\r\nContent-Length: 1"
        );
        assert!(!two_lengths(input.as_bytes(), 9));
    }

    #[test]
    fn the_bad_head_is_named_by_its_number() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let put = "PUT / HTTP/1.1\r\nContent-Length: 6\r\n\r\na\n\r\n\nb";
        let bad = "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (input, number) in [
            (bad.to_owned(), 1),
            (format!("{get}{bad}"), 2),
            (format!("\r\n\n{get}\r\n{put}\r\n\r\n{bad}"), 3),
        ] {
            for step in 1..=input.len() {
                let mut heads = Heads::default();
                assert!(input.as_bytes().chunks(step).any(|bytes| heads.read(bytes)), "{input}");
                assert_eq!(heads.number, number, "{step}: {input}");
            }
        }
    }

    #[test]
    fn a_head_with_two_lengths_is_seen_however_it_is_cut() {
        let hidden =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked{}, x\r\n", " ".repeat(60));
        let cases: [(&str, bool); 13] = [
            (&hidden, true),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTRANSFER-ENCODING:Chunked\r\ncontent-length:3\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", true),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ntransfer-encoding:chunked\r\n",
                true,
            ),
            ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", true),
            ("GET / HTTP/1.1\n", true),
            ("\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\ncontent-length: 3\r\n", false),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 28\r\n\r\n\r\ntransfer-encoding: chunked\
                 GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
                false,
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok\r\nPUT / HTTP/1.1\r\n\
                 Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
                true,
            ),
        ];
        for (input, expected) in cases {
            for step in 1..=input.len() {
                assert_eq!(two_lengths(input.as_bytes(), step), expected, "{step}: {input}");
            }
        }
    }
}
