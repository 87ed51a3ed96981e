//! Why a run is invalid, as a program reads it: a code, and the sentence for people.

use serde::Serialize;

use crate::fault::{Count, Invalid};

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Reason {
    pub(crate) code: Code,
    /// The sentence.
    pub(crate) text: String,
}

/// What kind of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// Acts that were due found no free connection.
    ActsMissed,
    /// Connections were not begun as often as was asked for.
    ConnectRateNotReached,
    /// Connections ended, or never opened.
    ConnectionsLost,
    /// The time to drain was up before anybody could know what was missing.
    DrainTooShort,
    /// The generator was late by its own fault.
    GeneratorLate,
    /// The generator had no CPU in reserve.
    GeneratorSaturated,
    /// Fewer half-open connections stood than were asked for.
    HalfOpenNotReached,
    /// Deliveries do not add up: some neither came nor were told.
    Missing,
    /// Connections that left did not come back.
    NotBack,
    /// Subscriptions were not recovered that should have been.
    NotRecovered,
    /// Connections that came back received nothing.
    NotServed,
    /// Nothing came, was answered or was accepted.
    Nothing,
    /// A thread of the generator panicked.
    Panicked,
    /// Publishes were refused.
    PublishRefused,
    /// The publisher lost its connection.
    PublisherLost,
    /// Fewer events a second were sent than were asked for.
    RateNotReached,
    /// Commands were refused.
    Refused,
    /// The server's process has ended.
    ServerGone,
    /// Events still arrived at the end.
    StillArriving,
    /// Answers came to another connection than asked.
    Strangers,
    /// Deliveries do not add up: more came than were published.
    Surplus,
    /// Acknowledgements do not add up.
    Unaccounted,
    /// Commands had no answer.
    Unanswered,
    /// What was due was not sent in time.
    Unsent,
}

/// The codes, as a report has them, that a busy machine brings about with any server.
const MACHINE: [&str; 3] = ["generator_late", "generator_saturated", "rate_not_reached"];

/// Whether a report's code may be the machine's doing rather than the server's.
pub(crate) fn is_machine(code: &str) -> bool {
    MACHINE.contains(&code)
}

impl From<&Invalid> for Code {
    fn from(why: &Invalid) -> Self {
        match why {
            Invalid::ConnectionsLost { .. } | Invalid::NotOpened { .. } => Self::ConnectionsLost,
            Invalid::GeneratorLate { .. } => Self::GeneratorLate,
            Invalid::GeneratorSaturated { .. } => Self::GeneratorSaturated,
            Invalid::Missing { .. } => Self::Missing,
            Invalid::NotBack { .. } => Self::NotBack,
            Invalid::Nothing | Invalid::NothingAccepted | Invalid::NothingAnswered => Self::Nothing,
            Invalid::Panicked { .. } => Self::Panicked,
            Invalid::PublishRefused { .. } => Self::PublishRefused,
            Invalid::PublisherLost(_) => Self::PublisherLost,
            Invalid::RateNotReached { .. } => Self::RateNotReached,
            Invalid::Refused { .. } => Self::Refused,
            Invalid::ServerGone { .. } => Self::ServerGone,
            Invalid::StillArriving => Self::StillArriving,
            Invalid::Surplus { .. } => Self::Surplus,
            Invalid::ActsMissed { .. } => Self::ActsMissed,
            Invalid::ConnectRateNotReached { .. } => Self::ConnectRateNotReached,
            Invalid::DrainTooShort => Self::DrainTooShort,
            Invalid::HalfOpenNotReached { .. } => Self::HalfOpenNotReached,
            Invalid::Count { of, .. } => match of {
                Count::NotRecovered => Self::NotRecovered,
                Count::NotServed => Self::NotServed,
                Count::Strangers => Self::Strangers,
                Count::Unaccounted => Self::Unaccounted,
                Count::Unanswered => Self::Unanswered,
                Count::Unsent => Self::Unsent,
            },
        }
    }
}

impl From<Invalid> for Reason {
    fn from(why: Invalid) -> Self {
        Self { code: Code::from(&why), text: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_is_excused() {
        let is_excused = |why: Invalid| {
            let code = serde_json::to_value(Reason::from(why)).expect("JSON");
            is_machine(code["code"].as_str().expect("a name"))
        };
        assert!(is_excused(Invalid::GeneratorLate { p99_ns: 2, max_ns: 1 }));
        assert!(is_excused(Invalid::GeneratorSaturated { percent: 99, waited: 50 }));
        assert!(is_excused(Invalid::RateNotReached { wanted: 2, got: 1 }));
        assert!(!is_excused(Invalid::ConnectionsLost { lost: 1, why: None }));
        assert!(!is_excused(Invalid::Missing { deliveries: 1 }));
        assert!(!is_excused(Invalid::ServerGone { pid: 1 }));
    }
}
