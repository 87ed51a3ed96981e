//! The exact texts of section 4 of the protocol, and events against serde_json.

use super::*;
use crate::proto::error::{CommandError, ErrorCode};
use crate::proto::name::Alias;
use crate::proto::position::Epoch;
use crate::proto::push::{Hole, Last};
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};

fn event(payload: Payload) -> Event {
    Event {
        channel: "room:1".parse().unwrap(),
        alias: Alias(3),
        offset: 58,
        ts_ms: 1_732_153_200_123,
        taken_ns: 1,
        key: None,
        from: None,
        hidden_from: None,
        payload,
        json_frame: OnceLock::new(),
        frames: crate::proto::encoder::Frames::default(),
    }
}

fn text_of(event: &Event) -> String {
    let mut out = Vec::new();
    encode_event(event, &mut out);
    String::from_utf8(out).unwrap()
}

fn json(text: &str) -> Payload {
    Payload::Json(text.as_bytes().into())
}

#[test]
fn events_are_written_to_the_letter() {
    let head = r#"{"type":"event","channel":"room:1","offset":58,"ts":1732153200123"#;
    let mut plain = event(json("{\"a\": 1e400,\r\n\"b\":\"\\n\"}"));
    assert_eq!(text_of(&plain), head.to_owned() + r#","data":{"a": 1e400,"b":"\n"}}"#);
    plain.key = Some("cpu\"0".into());
    plain.from = Some(Arc::new(Author { client: ClientId(35), user: None }));
    plain.payload = Payload::Opaque(vec![0, 255, 7, 1].into());
    assert_eq!(
        text_of(&plain),
        head.to_owned()
            + r#","key":"cpu\"0","from":{"client":"000000000000z","user":null},"data_b64":"AP8HAQ=="}"#
    );
    plain.from = Some(Arc::new(Author { client: ClientId(u64::MAX), user: Some("u\t".into()) }));
    plain.payload = json("null");
    let client = ClientId(u64::MAX);
    assert_eq!(
        text_of(&plain),
        format!(
            r#"{head},"key":"cpu\"0","from":{{"client":"{client}","user":"u\t"}},"data":null}}"#
        )
    );
}

#[test]
fn a_pattern_has_no_position() {
    let cases = [
        (Some(1), false, r#"{"type":"subscribed","id":1,"channel":"room:*","pattern":true}"#),
        (None, true, r#"{"type":"subscribed","channel":"room:*","pattern":true,"updated":true}"#),
    ];
    for (id, updated, expected) in cases {
        let mut text = Vec::new();
        encode_push(&Push::SubscribedPattern { id, pattern: "room:*", updated }, &mut text);
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}

#[test]
fn what_others_show_stands_last_in_the_answer() {
    let list: &[&[u8]] = &[b"\"name\":\"a\"}", b"\"name\":\"b\"}"];
    for (signals, expected) in
        [(&[][..], r#""signals":[]}"#), (list, r#""signals":[{"name":"a"},{"name":"b"}]}"#)]
    {
        let position = Position { epoch: Epoch::from_seed(7), offset: 57 };
        let (id, channel, recovered, updated) = (None, "room:1", None, false);
        let signals = Some(signals);
        let push =
            Push::Subscribed { id, channel, position, alias: 12, recovered, updated, signals };
        let mut text = Vec::new();
        encode_push(&push, &mut text);
        let head = r#"{"type":"subscribed","channel":"room:1","epoch":"00000007","offset":57"#;
        assert_eq!(String::from_utf8_lossy(&text), format!(r#"{head},"alias":12,{expected}"#));
    }
    let mut text = Vec::new();
    encode_push(&Push::Ok { id: 4 }, &mut text);
    assert_eq!(text, br#"{"type":"ok","id":4}"#);
}

#[test]
fn pushes_are_written_to_the_letter() {
    let position = Position { epoch: Epoch::from_seed(7), offset: 57 };
    let channel = "room:1";
    let subscribed = |id, recovered, updated| Push::Subscribed {
        id,
        channel,
        position,
        alias: 12,
        recovered,
        updated,
        signals: None,
    };
    let error = CommandError::new(Some(3), ErrorCode::BadRequest, "say \"type\"");
    let later = CommandError::new(Some(3), ErrorCode::Unavailable, "away");
    let later = CommandError { retry_after_ms: Some(500), ..later };
    let anonymous = CommandError::new(None, ErrorCode::TooLarge, "big");
    let cases = [
        (
            subscribed(Some(1), Some(true), false),
            r#"{"type":"subscribed","id":1,"channel":"room:1","epoch":"00000007","offset":57,"recovered":true,"alias":12}"#,
        ),
        (
            subscribed(None, None, true),
            r#"{"type":"subscribed","channel":"room:1","epoch":"00000007","offset":57,"alias":12,"updated":true}"#,
        ),
        (
            Push::Unsubscribed { id: Some(2), channel, why: None },
            r#"{"type":"unsubscribed","id":2,"channel":"room:1"}"#,
        ),
        (
            Push::Published { id: 3, channel, position, duplicate: false },
            r#"{"type":"published","id":3,"channel":"room:1","epoch":"00000007","offset":57}"#,
        ),
        (Push::Pong { id: None }, r#"{"type":"pong"}"#),
        (Push::Pong { id: Some(7) }, r#"{"type":"pong","id":7}"#),
        (
            Push::Error(&error),
            r#"{"type":"error","id":3,"code":"bad_request","message":"say \"type\""}"#,
        ),
        (
            Push::Error(&later),
            r#"{"type":"error","id":3,"code":"unavailable","message":"away","retry_after_ms":500}"#,
        ),
        (Push::Error(&anonymous), r#"{"type":"error","code":"too_large","message":"big"}"#),
        (
            Push::Lagged { channel, hole: Hole { from: 101, to: 112, dropped: 12 }, age_ms: 840 },
            r#"{"type":"lagged","channel":"room:1","dropped":12,"from":101,"to":112,"age_ms":840}"#,
        ),
        (
            Push::Disconnect { reason: CloseReason::Shutdown, retry_after_ms: Some(1800) },
            r#"{"type":"disconnect","code":4001,"reason":"shutdown","reconnect":true,"retry_after_ms":1800}"#,
        ),
        (
            Push::Disconnect { reason: CloseReason::Disconnected, retry_after_ms: None },
            r#"{"type":"disconnect","code":4503,"reason":"disconnected_by_server","reconnect":false}"#,
        ),
    ];
    for (push, expected) in cases {
        let mut out = Vec::new();
        encode_push(&push, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn a_welcome_is_written_to_the_letter() {
    let cases = [
        (
            Push::Welcome {
                id: None,
                user: None,
                client: ClientId(36),
                node: "n\"1",
                ping_ms: 25_000,
                message_bytes: 65_536,
                last: None,
            },
            concat!(
                r#"{"type":"welcome","client":"0000000000010","user":null,"node":"n\"1","version":""#,
                env!("CARGO_PKG_VERSION"),
                r#"","ping_ms":25000,"max_message":65536}"#
            ),
        ),
        (
            Push::Welcome {
                id: None,
                user: None,
                client: ClientId(36),
                node: "n",
                ping_ms: 1,
                message_bytes: 2,
                last: Some(Last { reason: CloseReason::SlowConsumer, dropped: 123 }),
            },
            concat!(
                r#"{"type":"welcome","client":"0000000000010","user":null,"node":"n","version":""#,
                env!("CARGO_PKG_VERSION"),
                r#"","ping_ms":1,"max_message":2,"#,
                r#""last":{"code":4000,"reason":"slow_consumer","dropped":123}}"#
            ),
        ),
    ];
    for (push, expected) in cases {
        let mut out = Vec::new();
        encode_push(&push, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

proptest! {
    #[test]
    fn any_event_is_one_line_of_json(
        key in any::<Option<String>>(),
        user in any::<Option<String>>(),
        data in any::<Vec<String>>(),
        offset in any::<u64>(),
        client in any::<u64>(),
    ) {
        let mut event = event(json(&serde_json::to_string_pretty(&data).unwrap()));
        event.key = key.clone().map(Into::into);
        event.offset = offset;
        let author = Author { client: ClientId(client), user: user.clone().map(Into::into) };
        event.from = Some(Arc::new(author));
        let text = text_of(&event);
        prop_assert!(!text.contains(['\n', '\r']));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&value["data"], &serde_json::json!(data));
        prop_assert_eq!(&value["key"], &serde_json::json!(key));
        prop_assert_eq!(&value["from"]["user"], &serde_json::json!(user));
        prop_assert_eq!(&value["from"]["client"], &serde_json::json!(ClientId(client).to_string()));
        prop_assert_eq!(&value["offset"], &serde_json::json!(offset));
    }
}
