//! The first bytes of a connection, before there is anything of hyper's: whoever sends nothing, or
//! half of a head, costs what it has sent and no buffer of 8 KiB.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use httparse::{EMPTY_HEADER, Request, Status};
use memchr::memchr_iter;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes that are read at once, on the stack: more than most heads have.
const READ_BYTES: usize = 2_048;

/// The headers that hyper takes.
const HEADERS_MAX: usize = 100;

/// Reads until hyper has something to say to what has come: to a whole head, to one of
/// `bytes_max`, to what is no request, and to the end of the stream. Empty lines before a head are
/// left out, as nobody answers them. Nothing at all is a stream that has ended.
pub(super) async fn read<S>(stream: &mut S, bytes_max: usize) -> io::Result<Vec<u8>>
where
    S: AsyncRead + Unpin,
{
    let mut head = Vec::new();
    let mut asked = false;
    poll_fn(|cx| {
        loop {
            let seen = head.len();
            let ended = ready!(poll_some(stream, cx, |bytes| head.extend_from_slice(bytes)))? == 0;
            let empty = empty_lines(&head);
            head.drain(..empty);
            if ended || head.len() >= bytes_max || is_whole(&head, seen) {
                return Poll::Ready(Ok(std::mem::take(&mut head)));
            }
            // Once, with what stands behind empty lines: from then on whole heads are looked at.
            if !asked && head.len() > 1 {
                asked = true;
                if is_none(&head) {
                    return Poll::Ready(Ok(std::mem::take(&mut head)));
                }
            }
        }
    })
    .await
}

/// Reads what there is, into a buffer that nobody has who waits; how many bytes that were.
pub(super) fn poll_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    let mut room = [MaybeUninit::uninit(); READ_BYTES];
    let mut some = ReadBuf::uninit(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut some))?;
    take(some.filled());
    Poll::Ready(Ok(some.filled().len()))
}

/// The bytes of the empty lines at the front.
fn empty_lines(head: &[u8]) -> usize {
    let mut rest = head;
    while let Some(next) = rest.strip_prefix(b"\n").or_else(|| rest.strip_prefix(b"\r\n")) {
        rest = next;
    }
    head.len() - rest.len()
}

/// Whether there is an empty line, the end of a head. Without the first `seen` bytes, where there
/// is none but for the last of them.
fn is_whole(head: &[u8], seen: usize) -> bool {
    let new = head.get(seen.saturating_sub(2)..).unwrap_or_default();
    memchr_iter(b'\n', new).any(|at| {
        let behind = new.get(at + 1..).unwrap_or_default();
        behind.starts_with(b"\n") || behind.starts_with(b"\r\n")
    })
}

/// Whether that is the front of no request.
#[inline(never)]
fn is_none(head: &[u8]) -> bool {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    !matches!(Request::new(&mut headers).parse(head), Ok(Status::Partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of `sent`, which comes `step` bytes at a time and then ends.
    fn first(sent: &[u8], step: usize, bytes_max: usize) -> Vec<u8> {
        struct Cut<'a>(&'a [u8], usize);
        impl AsyncRead for Cut<'_> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let (some, rest) = self.0.split_at(self.1.min(self.0.len()).min(buf.remaining()));
                buf.put_slice(some);
                self.0 = rest;
                Poll::Ready(Ok(()))
            }
        }
        let mut stream = Cut(sent, step);
        let mut read = std::pin::pin!(read(&mut stream, bytes_max));
        match read.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => unreachable!("it never waits"),
        }
    }

    #[test]
    fn a_whole_head_is_handed_on_however_it_is_cut() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\n\n",
        ] {
            // What stands behind it is not waited for, and comes along where it was there.
            for (before, behind) in [("", ""), ("\r\n\n\r\n", "more"), ("\n", "\r\n")] {
                let sent = format!("{before}{head}{behind}");
                for step in 1..=sent.len() {
                    let read = first(sent.as_bytes(), step, 1_000);
                    assert!(read.starts_with(head.as_bytes()), "{step}: {head:?} {read:?}");
                    assert!(read.len() < head.len() + step, "{step}: {head:?} {read:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_request_is_not_waited_for() {
        let junk = b"\x16\x03\x01\x02\x00".repeat(2);
        assert_eq!(first(&junk, 5, 1_000), junk[..5]);
        let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(first(many.as_bytes(), many.len(), 10_000), many.as_bytes());
        // A head of the longest length is an answer's concern.
        let long = format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(5_000));
        assert_eq!(first(long.as_bytes(), 1, 100), &long.as_bytes()[..100]);
        // And so is one that has ended before its end.
        assert_eq!(first(long.as_bytes(), 7, 10_000), long.as_bytes());
        assert_eq!(first(b"\r\n\r\n\r\n", 1, 1_000), b"");
        assert_eq!(first(b"\rGET", 1, 1_000), b"\rG");
    }
}
