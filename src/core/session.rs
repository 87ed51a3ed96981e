//! One client's standing: whether it is alive, how often it was wrong, and what it may ask now.

use std::time::Duration;

use crate::proto::close::CloseReason;
use crate::proto::command::{Command, Request};
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::format::Format;
use crate::proto::name;

/// Bad messages a minute that are answered; one more closes with 4504.
const STRIKES_MAX: u8 = 100;

/// The minute in which they are counted, in seconds.
const STRIKES_WINDOW_S: u32 = 60;

/// A tick that comes this much too late, in milliseconds, finds a node that stood still: what its
/// clients sent meanwhile is yet to be read.
const LATE_MS: u64 = 1_000;

/// How long a client may take to finish a message it has begun, in milliseconds.
const MESSAGE_MS: u64 = 30_000;

/// When a silent client is pinged, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Silence after which a ping goes out.
    pub interval: Duration,
    /// Silence after a ping that ends the connection.
    pub timeout: Duration,
}

/// What a session wants at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The connection is over.
    Close(CloseReason),
    /// Send a ping.
    Ping,
    /// Nothing yet.
    Wait,
}

/// One client's standing. Times are milliseconds of the node's clock.
#[derive(Debug)]
pub struct Session {
    heard_ms: u64,
    /// Since when a message is unfinished; 0 is never. While the client is not read, for how long
    /// it was, and one more.
    unfinished_ms: u64,
    /// When the shard's timer looks at it; `u64::MAX` is never.
    armed_ms: u64,
    /// When a ping went out that nothing has followed; 0 is not at all.
    pinged_ms: u64,
    /// When the present minute of strikes began, in seconds.
    strikes_since_s: u32,
    strikes: u8,
    reading: Reading,
    /// The form in which it gets events.
    pub format: Format,
    /// It takes several events in one text frame.
    pub batch: bool,
}

/// Whether a client is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It is.
    On,
    /// Not, for answers that it does not take.
    Unread,
    /// Not, for a reason that is not its own: it is pinged, so that it and what lies between see
    /// that the node lives, and not judged.
    Held,
}

/// There are a hundred thousand of them.
const _: () = assert!(size_of::<Session>() <= 40);

impl Session {
    /// A client that was heard of at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            heard_ms: now_ms,
            unfinished_ms: 0,
            armed_ms: u64::MAX,
            pinged_ms: 0,
            strikes_since_s: seconds(now_ms),
            strikes: 0,
            reading: Reading::On,
            format: Format::Json,
            batch: false,
        }
    }

    /// Bytes came from the client.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
        self.pinged_ms = 0;
    }

    /// The client is not read from here on, so that no message of its can be late: the time that it
    /// has for one stands still. Where that is for its own unread answers (not `held`), it has the
    /// time of a ping to take some of them.
    pub fn hold(&mut self, held: bool, now_ms: u64) {
        if self.reading == Reading::On && self.unfinished_ms > 0 {
            self.unfinished_ms = now_ms.saturating_sub(self.unfinished_ms) + 1;
        }
        self.reading = if held { Reading::Held } else { Reading::Unread };
        self.heard(now_ms);
    }

    /// The client is read again.
    pub fn release(&mut self, now_ms: u64) {
        if self.reading != Reading::On && self.unfinished_ms > 0 {
            self.unfinished_ms = (now_ms + 1).saturating_sub(self.unfinished_ms).max(1);
        }
        self.reading = Reading::On;
        self.heard(now_ms);
    }

    /// Whether it is not read for a reason that is not its own.
    pub fn is_held(&self) -> bool {
        self.reading == Reading::Held
    }

    /// When the message under way has had its time.
    fn late_at(&self) -> u64 {
        match (self.reading, self.unfinished_ms) {
            (Reading::On, 1..) => self.unfinished_ms + MESSAGE_MS,
            _ => u64::MAX,
        }
    }

    /// When [`Session::tick`] is next due.
    pub fn wake_at(&self, heartbeat: Heartbeat) -> u64 {
        self.beat_at(heartbeat).min(self.late_at())
    }

    fn beat_at(&self, heartbeat: Heartbeat) -> u64 {
        match self.pinged_ms {
            0 => self.heard_ms + millis(heartbeat.interval),
            pinged_ms => pinged_ms + millis(heartbeat.timeout),
        }
    }

    /// Wants to be looked at by `at_ms`. Whether a timer is to be set for it: not when one is set
    /// that comes no later, which then sets the next.
    pub fn arm(&mut self, at_ms: u64) -> bool {
        let earlier = at_ms < self.armed_ms;
        if earlier {
            self.armed_ms = at_ms;
        }
        earlier
    }

    /// The timer set for `at_ms` has fired. Whether it still counts: an earlier one may have been
    /// set since.
    pub fn fired(&mut self, at_ms: u64) -> bool {
        let counts = at_ms == self.armed_ms;
        if counts {
            self.armed_ms = u64::MAX;
        }
        counts
    }

    /// Time has passed.
    ///
    /// A client is given up when it had the time it has, and not when the node had it: after a
    /// pause of the whole node everybody is asked again.
    pub fn tick(&mut self, heartbeat: Heartbeat, now_ms: u64) -> Beat {
        if self.reading == Reading::Held {
            if now_ms < self.wake_at(heartbeat) {
                return Beat::Wait;
            }
            // As if it had answered: nobody reads whether it does.
            self.heard(now_ms);
            return Beat::Ping;
        }
        let due_ms = self.wake_at(heartbeat);
        if now_ms < due_ms {
            return Beat::Wait;
        }
        let late = now_ms - due_ms >= LATE_MS;
        if now_ms >= self.late_at() {
            if !late {
                return Beat::Close(CloseReason::MessageTimeout);
            }
            self.unfinished_ms = now_ms;
        }
        if now_ms < self.beat_at(heartbeat) {
            return Beat::Wait;
        }
        if self.pinged_ms > 0 && !late {
            return Beat::Close(CloseReason::PingTimeout);
        }
        self.pinged_ms = now_ms.max(1);
        Beat::Ping
    }

    /// The client's bytes ended inside a message (`inside`), after others that were whole
    /// (`finished`).
    pub fn unfinished(&mut self, inside: bool, finished: bool, now_ms: u64) {
        if !inside {
            self.unfinished_ms = 0;
        } else if finished || self.unfinished_ms == 0 {
            self.unfinished_ms = now_ms.max(1);
        }
    }

    /// The client sent something undecodable or senseless. Says when it was once too often.
    pub fn strike(&mut self, now_ms: u64) -> Option<CloseReason> {
        let now_s = seconds(now_ms);
        if now_s.saturating_sub(self.strikes_since_s) >= STRIKES_WINDOW_S {
            self.strikes_since_s = now_s;
            self.strikes = 0;
        }
        self.strikes = self.strikes.saturating_add(1);
        (self.strikes > STRIKES_MAX).then_some(CloseReason::TooManyErrors)
    }
}

fn millis(duration: Duration) -> u64 {
    // Half of all, so that a time can be added.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1_000).unwrap_or(u32::MAX)
}

/// Checks what does not depend on the node's state: names, and what this node does not offer.
///
/// # Errors
///
/// The answer for the client.
pub fn check(request: &Request<'_>) -> Result<(), CommandError> {
    let refuse = |code, message| Err(CommandError::new(request.id, code, message));
    match &request.command {
        Command::Auth { .. } | Command::Ping => Ok(()),
        Command::Publish(publish) => check_channel(request.id, publish.channel),
        Command::Subscribe(subscribe) => check_pattern(request.id, subscribe.channel),
        Command::Unsubscribe { channel } => check_pattern(request.id, channel),
        Command::History(history) => check_channel(request.id, history.channel),
        Command::Presence { channel } => check_channel(request.id, channel),
        Command::Request(_) => {
            refuse(ErrorCode::UnknownMethod, "no application answers requests on this node")
        }
        Command::Signal(signal) => check_channel(request.id, signal.channel),
    }
}

/// Whether that is the name of a channel.
///
/// # Errors
///
/// The answer for the client.
pub fn check_channel(id: Option<u64>, channel: &str) -> Result<(), CommandError> {
    name::check_channel(channel)
        .map_err(|bad| CommandError::new(id, ErrorCode::BadRequest, bad.to_string()))
}

/// Checks what may be a channel's name or a pattern.
fn check_pattern(id: Option<u64>, text: &str) -> Result<(), CommandError> {
    match name::pattern_prefix(text) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => check_channel(id, text),
        Err(bad) => Err(CommandError::new(id, ErrorCode::BadRequest, bad.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Heartbeat =
        Heartbeat { interval: Duration::from_secs(25), timeout: Duration::from_secs(10) };

    #[test]
    fn a_silent_client_is_pinged_and_then_given_up() {
        let mut session = Session::new(0);
        let mut beats = Vec::new();
        while beats.len() < 2 {
            let now = session.wake_at(HEARTBEAT);
            assert_eq!(session.tick(HEARTBEAT, now - 1), Beat::Wait);
            beats.push((now, session.tick(HEARTBEAT, now)));
        }
        let over = Beat::Close(CloseReason::PingTimeout);
        assert_eq!(beats, [(25_000, Beat::Ping), (35_000, over)]);
    }

    #[test]
    fn any_sign_of_life_counts() {
        let mut session = Session::new(0);
        assert_eq!(session.tick(HEARTBEAT, 25_000), Beat::Ping);
        session.heard(30_000);
        assert_eq!(session.wake_at(HEARTBEAT), 55_000);
        assert_eq!(session.tick(HEARTBEAT, 36_000), Beat::Wait);
    }

    /// The node stood still for 40 s (SIGSTOP, a laptop's lid).
    #[test]
    fn nobody_is_given_up_before_a_ping_had_its_time() {
        let mut idle = Session::new(0);
        assert_eq!(idle.tick(HEARTBEAT, 41_000), Beat::Ping);
        assert_eq!(idle.wake_at(HEARTBEAT), 51_000);
        assert_eq!(idle.tick(HEARTBEAT, 50_999), Beat::Wait);
        let over = Beat::Close(CloseReason::PingTimeout);
        assert_eq!(idle.tick(HEARTBEAT, 51_100), over);

        // Its pong may be here, unread.
        let mut pinged = Session::new(0);
        assert_eq!(pinged.tick(HEARTBEAT, 25_000), Beat::Ping);
        assert_eq!(pinged.tick(HEARTBEAT, 66_000), Beat::Ping);
        assert_eq!(pinged.tick(HEARTBEAT, 76_000), over);

        // And so may the rest of its message.
        let mut writing = Session::new(0);
        writing.unfinished(true, false, 1_000);
        assert_eq!(writing.tick(HEARTBEAT, 41_000), Beat::Ping);
        writing.heard(41_001);
        assert_eq!(writing.tick(HEARTBEAT, 70_999), Beat::Ping);
        writing.heard(71_000);
        assert_eq!(writing.tick(HEARTBEAT, 71_001), Beat::Close(CloseReason::MessageTimeout));
    }

    #[test]
    fn a_message_has_thirty_seconds() {
        let mut session = Session::new(0);
        session.unfinished(true, false, 5);
        // The same message.
        session.unfinished(true, false, 20_000);
        session.heard(30_000);
        assert_eq!(session.wake_at(HEARTBEAT), 30_005);
        assert_eq!(session.tick(HEARTBEAT, 30_004), Beat::Wait);
        let over = Beat::Close(CloseReason::MessageTimeout);
        assert_eq!(session.tick(HEARTBEAT, 30_005), over);
        // Another message.
        session.unfinished(true, true, 30_006);
        assert_eq!(session.tick(HEARTBEAT, 30_007), Beat::Wait);
        session.unfinished(false, true, 30_008);
        session.heard(70_000);
        assert_eq!(session.tick(HEARTBEAT, 70_001), Beat::Wait);
    }

    /// A publisher that waits for room in a mailbox, for minutes.
    #[test]
    fn a_client_that_is_not_read_is_not_judged() {
        let mut session = Session::new(0);
        session.unfinished(true, false, 1_000);
        session.hold(true, 2_000);
        for minute in 1..5 {
            assert_eq!(session.tick(HEARTBEAT, minute * 60_000), Beat::Ping, "it sees us live");
            assert_eq!(session.tick(HEARTBEAT, minute * 60_000 + 24_999), Beat::Wait);
            assert_eq!(session.wake_at(HEARTBEAT), minute * 60_000 + 25_000);
        }
        session.release(260_000);
        session.unfinished(true, false, 260_000);
        assert_eq!(session.tick(HEARTBEAT, 285_000), Beat::Ping);
        session.heard(288_000);
        assert_eq!(session.tick(HEARTBEAT, 288_999), Beat::Wait, "it had one second before");
        assert_eq!(session.tick(HEARTBEAT, 289_000), Beat::Close(CloseReason::MessageTimeout));

        // Whoever leaves its answers unread has no more time than any silent client.
        let mut deaf = Session::new(0);
        deaf.unfinished(true, false, 1_000);
        deaf.hold(false, 20_000);
        assert_eq!(deaf.tick(HEARTBEAT, 45_000), Beat::Ping);
        assert_eq!(deaf.tick(HEARTBEAT, 55_000), Beat::Close(CloseReason::PingTimeout));
    }

    /// Answers that it leaves unread now and then are no way to have more time.
    #[test]
    fn the_time_of_a_message_stands_still_and_does_not_begin_anew() {
        let mut session = Session::new(0);
        session.unfinished(true, false, 1_000);
        for round in 1..30 {
            let now_ms = round * 10_000;
            session.hold(round % 2 == 0, now_ms);
            session.hold(false, now_ms + 1_000);
            session.release(now_ms + 9_000);
            session.unfinished(true, false, now_ms + 9_000);
            // Nine seconds, and then one more each time.
            let over = round == 21;
            let beat = session.tick(HEARTBEAT, now_ms + 10_000);
            assert_eq!(beat == Beat::Close(CloseReason::MessageTimeout), over, "{round}: {beat:?}");
            if over {
                return;
            }
        }
        panic!("it has had its time");
    }

    #[test]
    fn one_timer_is_set_and_only_an_earlier_one_replaces_it() {
        let mut session = Session::new(0);
        assert!(session.arm(25_000));
        assert!(!session.arm(25_000), "it is set");
        assert!(!session.arm(60_000), "the one that is set comes first");
        assert!(session.arm(5_000));
        assert!(session.fired(5_000));
        assert!(session.arm(26_000));
        assert!(!session.fired(25_000), "left over");
        assert!(session.fired(26_000));
    }

    #[test]
    fn a_hundred_errors_a_minute_are_answered_and_no_more() {
        let mut session = Session::new(0);
        for _ in 0..100 {
            assert_eq!(session.strike(1_000), None);
        }
        assert_eq!(session.strike(2_000), Some(CloseReason::TooManyErrors));
        let mut patient = Session::new(0);
        for minute in 0..10 {
            for _ in 0..100 {
                assert_eq!(patient.strike(minute * 60_000), None);
            }
        }
    }
}
