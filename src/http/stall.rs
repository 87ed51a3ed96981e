//! How long a peer lets us wait with what it has asked for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// How long a peer may let us wait with an answer, all its waits together, beyond what it takes.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// Bytes for which a peer may let us wait a second more: one that takes fewer in a second of waiting
/// has its end.
const STALL_BYTES_S: u32 = 2_048;

/// How long a peer lets us wait. A peer that takes some bytes now and then is no better than one
/// that takes none: what it takes earns it little.
#[derive(Default)]
pub(super) struct Stall {
    /// The waits that have ended, less what was earned since.
    waited: Duration,
    /// The wait that goes on, and how long it may.
    now: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl Stall {
    /// Something was written, or nothing is left to write.
    pub(super) fn taken(&mut self, bytes: usize) {
        if let Some((sleep, left)) = self.now.take() {
            // By the clock of the timers, which tests may stop.
            self.waited += (sleep.deadline() - left).elapsed();
        }
        if !self.waited.is_zero() {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.waited =
                self.waited.saturating_sub(Duration::from_secs(1) * bytes / STALL_BYTES_S);
        }
    }

    /// Waits on; ready when that was too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = WRITE_STALL.saturating_sub(self.waited);
        let begin = || (Box::pin(tokio::time::sleep(left)), left);
        self.now.get_or_insert_with(begin).0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::rc::Rc;
    use std::task::ready;

    use tokio::io::{AsyncWrite, AsyncWriteExt as _};

    use super::*;
    use crate::http::wire::Wire;

    /// A peer that takes a byte at a time, and lets us wait for each.
    struct Trickle {
        every: Duration,
        bytes: usize,
        wait: Option<Pin<Box<Sleep>>>,
        /// Whether it waits in the flush, as a stream of TLS does.
        in_flush: bool,
    }

    impl Trickle {
        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let every = self.every;
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
            Poll::Ready(())
        }
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if !self.in_flush {
                ready!(self.poll(cx));
            }
            Poll::Ready(Ok(self.bytes.min(buf.len())))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.in_flush {
                ready!(self.poll(cx));
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// How long a peer is written to that takes so many bytes every so often, in seconds; `None`
    /// where that goes on for an hour.
    async fn written_for(every: Duration, bytes: usize, in_flush: bool) -> Option<u64> {
        let trickle = Trickle { every, bytes, wait: None, in_flush };
        let mut wire = Wire::new(trickle, Vec::new(), Rc::default());
        let begun = tokio::time::sleep(Duration::ZERO).deadline();
        while begun.elapsed() < Duration::from_secs(3_600) {
            let done = async {
                wire.write_all(&vec![0; bytes]).await?;
                wire.flush().await
            };
            if let Err(error) = done.await {
                assert!(wire.stalled && error.kind() == io::ErrorKind::TimedOut, "{error}");
                return Some(begun.elapsed().as_secs());
            }
            // It has taken all that there was, and asks again later: that is nobody's wait.
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_little_now_and_then_is_given_up() {
        let s = Duration::from_secs;
        for in_flush in [false, true] {
            assert_eq!(written_for(s(40), 1, in_flush).await, Some(30));
            // Three waits of ten seconds, and the pauses behind them.
            assert_eq!(written_for(s(10), 1, in_flush).await, Some(51));
            assert_eq!(written_for(s(20), 16 * 1024, in_flush).await, Some(45));
            // As much as a slow line takes.
            assert_eq!(written_for(s(8), 16 * 1024, in_flush).await, None);
            assert_eq!(written_for(s(20), 64 * 1024, in_flush).await, None);
        }
    }
}
