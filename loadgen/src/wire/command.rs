//! What a client says to Weir, as JSON.

use clap::ValueEnum;

/// What a queue does that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Policy {
    Disconnect,
    DropNewest,
    DropOldest,
    Latest,
}

impl Policy {
    /// Its name in the protocol.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropNewest => "drop_newest",
            Self::DropOldest => "drop_oldest",
            Self::Latest => "latest",
        }
    }
}

/// What a subscription asks for besides its channel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Wishes {
    /// Flushes a second; 0 every event.
    pub(crate) max_rate: f64,
    /// A policy of its own, in the place of the channel's.
    pub(crate) slow: Option<Policy>,
}

/// Subscribes to a channel or a pattern, from a place on if there is one.
pub(crate) fn subscribe(
    channel: &str,
    id: u64,
    since: Option<(&str, u64)>,
    wishes: Wishes,
) -> String {
    let mut text = format!(r#"{{"type":"subscribe","id":{id},"channel":"{channel}""#);
    if let Some((epoch, offset)) = since {
        let epoch = serde_json::Value::from(epoch);
        text.push_str(&format!(r#","since":{{"epoch":{epoch},"offset":{offset}}}"#));
    }
    if wishes.max_rate > 0.0 {
        text.push_str(&format!(r#","max_rate":{}"#, wishes.max_rate));
    }
    if let Some(policy) = wishes.slow {
        text.push_str(&format!(r#","slow":"{}""#, policy.name()));
    }
    text.push('}');
    text
}

/// Ends a subscription.
pub(crate) fn unsubscribe(channel: &str, id: u64) -> String {
    format!(r#"{{"type":"unsubscribe","id":{id},"channel":"{channel}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_escaped_in_since() {
        let text = subscribe("a", 1, Some(("x\"\\", 7)), Wishes::default());
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (read["since"]["epoch"].as_str(), read["id"].as_u64()),
            (Some("x\"\\"), Some(1))
        );
    }

    #[test]
    fn what_is_wished_is_said_and_nothing_else() {
        assert_eq!(
            subscribe("a", 1, None, Wishes::default()),
            r#"{"type":"subscribe","id":1,"channel":"a"}"#
        );
        for policy in Policy::value_variants() {
            let text = subscribe("a", 1, None, Wishes { max_rate: 0.5, slow: Some(*policy) });
            let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let name = policy.to_possible_value().expect("all can be asked for");
            assert_eq!(
                (read["max_rate"].as_f64(), read["slow"].as_str()),
                (Some(0.5), Some(name.get_name()))
            );
        }
    }
}
