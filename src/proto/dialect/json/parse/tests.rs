//! Commands and their faults, and the scanner against serde_json.

use super::*;
use proptest::prelude::*;
use serde_json::value::RawValue;
use std::collections::VecDeque;

/// serde_json's opinion, with what it skips over: strings are decoded, so lone surrogates fail.
fn is_json(text: &str, levels: usize) -> bool {
    struct Pairs<'a>(VecDeque<(String, &'a RawValue)>);
    impl<'de> serde::Deserialize<'de> for Pairs<'de> {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Visit;
            impl<'de> serde::de::Visitor<'de> for Visit {
                type Value = Pairs<'de>;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Pairs<'de>, A::Error> {
                    let mut pairs = VecDeque::new();
                    while let Some(pair) = map.next_entry()? {
                        pairs.push_back(pair);
                    }
                    Ok(Pairs(pairs))
                }
            }
            from.deserialize_map(Visit)
        }
    }
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return false };
    let raw = raw.get();
    match raw.as_bytes()[0] {
        b'"' => serde_json::from_str::<String>(raw).is_ok(),
        b'{' if levels > 0 => serde_json::from_str::<Pairs<'_>>(raw)
            .is_ok_and(|all| all.0.iter().all(|(_, value)| is_json(value.get(), levels - 1))),
        b'[' if levels > 0 => serde_json::from_str::<Vec<&RawValue>>(raw)
            .is_ok_and(|all| all.iter().all(|value| is_json(value.get(), levels - 1))),
        b'{' | b'[' => false,
        _ => true,
    }
}

fn data_of(data: &str) -> Result<Vec<u8>, CommandError> {
    let text = format!(r#"{{"type":"publish","channel":"a","data": {data} ,"id":9}}"#);
    let mut parser = Parser::new();
    let request = parser.parse(text.as_bytes())?;
    let Command::Publish(publish) = request.command else { panic!("{request:?}") };
    assert_eq!(request.id, Some(9));
    Ok(publish.data.to_vec())
}

#[test]
fn data_survives_token_for_token() {
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    let cases = [
        "null",
        "true",
        "0",
        "-0.0",
        "5e-324",
        "1e400",
        "-1E+400",
        "9007199254740993",
        "{}",
        "[]",
        "123456789012345678901234567890",
        "\"\"",
        r#""\u0041\n\ud83d\ude00""#,
        "\"\u{e9}\u{1f600}\"",
        r#"{"a":1,"a":2,"":3,"":[1, 2 ,{"x" : null}]}"#,
        "[1,\n2]",
        "[ ]",
        "{\r\n}",
        &deep,
    ];
    for case in cases {
        assert_eq!(data_of(case).map(|data| data == case.as_bytes()), Ok(true), "{case}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    let deep = format!("{}{}", r#"{"a":"#.repeat(65), "1".to_owned() + &"}".repeat(65));
    let cases = [
        "",
        "01",
        "1.",
        ".1",
        "+1",
        "-",
        "1e",
        "1e+",
        "NaN",
        "tru",
        "nulll",
        "[1,]",
        "{,}",
        "[,]",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "{a:1}",
        "[1}",
        r#"{"a":1]"#,
        "'a'",
        r#""\x""#,
        r#""\u12g4""#,
        r#""\ud800""#,
        r#"{"\udc00":1}"#,
        r#""\ud800\u0041""#,
        r#""\ud800\ud800""#,
        "\"\n\"",
        "\"\t\"",
        "\"\u{0}\"",
        "\"open",
        "1 2",
        "/**/1",
        &deep,
    ];
    for case in cases {
        let error = data_of(case).unwrap_err();
        assert_eq!(error.code, ErrorCode::BadRequest, "{case}");
        assert_eq!(error.message.contains("deep"), case.len() > 300, "{case}: {error:?}");
    }
}

#[test]
fn a_hundred_thousand_levels_are_an_error_at_once() {
    for opener in ["[", r#"{"a":"#, r#"[{"a":"#] {
        let pile = opener.repeat(100_000);
        assert!(data_of(&pile).is_err());
        assert!(Parser::new().parse(pile.as_bytes()).is_err());
    }
}

/// What a message comes to, as text.
fn read(text: &str) -> String {
    match Parser::new().parse(text.as_bytes()) {
        Ok(Request { id, command }) => format!("{id:?} {command:?}"),
        Err(error) => format!("{:?} {}: {}", error.id, error.code.as_str(), error.message),
    }
}

#[test]
fn every_command_is_read() {
    let cases = [
        (r#"{"type":"ping"}"#, "None Ping"),
        (r#" {"x":[{}],"id":7 , "type":"ping"} "#, "Some(7) Ping"),
        (r#"{"type":"auth","token":"x"}"#, "None Auth { token: Secret }"),
        (
            r#"{"type":"signal","channel":"a","name":"c\u0075r","data":{"x":1},"ttl_ms":70000}"#,
            "None Signal(Signal { channel: \"a\", name: \"cur\", data: Some([123, 34, 120, 34, 58, 49, 125]), ttl_ms: 60000 })",
        ),
        (
            r#"{"type":"signal","id":1,"channel":"a","name":"c","data":null,"ttl_ms":null}"#,
            "Some(1) Signal(Signal { channel: \"a\", name: \"c\", data: None, ttl_ms: 5000 })",
        ),
        (r#"{"type":"presence","channel":"a"}"#, "None Presence { channel: \"a\" }"),
        (
            r#"{"type":"history","channel":"a"}"#,
            "None History(History { channel: \"a\", since: None, limit: 100, reverse: false })",
        ),
        (
            r#"{"type":"history","channel":"a","since":{"epoch":"k","offset":7},"limit":1000,"reverse":true}"#,
            "None History(History { channel: \"a\", since: Some((\"k\", 7)), limit: 1000, reverse: true })",
        ),
        (
            r#"{"type":"request","method":"m","data":1}"#,
            "None Request(Call { method: \"m\", data: Some([49]) })",
        ),
        (r#"{"type":"request","method":"m"}"#, "None Request(Call { method: \"m\", data: None })"),
        (
            r#"{"type":"nope","type":"ping","id":"x","id":9007199254740991}"#,
            "Some(9007199254740991) Ping",
        ),
        (r#"{"t\u0079pe":"p\u0069ng"}"#, "None Ping"),
        (r#"{"type":"unsubscribe","channel":"a:\u0062"}"#, "None Unsubscribe { channel: \"a:b\" }"),
        (
            r#"{"type":"subscribe","channel":"a","since":{"epo\u0063h":"k\u0033","offset":0},"slow":"l\u0061test","max_rate":0.5,"snapshot":false}"#,
            "None Subscribe(Subscribe { channel: \"a\", since: Some((\"k3\", 0)), slow: Some(\"latest\"), max_rate: Some(Rate(2000)), snapshot: false })",
        ),
        (
            r#"{"type":"subscribe","channel":"a","since":null,"slow":null,"max_rate":null}"#,
            "None Subscribe(Subscribe { channel: \"a\", since: None, slow: None, max_rate: None, snapshot: true })",
        ),
        (
            r#"{"type":"publish","channel":"\u0061","key":"k\n","data":1,"echo":false,"message_id":"m"}"#,
            "None Publish(Publish { channel: \"a\", data: [49], key: Some(\"k\\n\"), echo: false, message_id: Some(\"m\") })",
        ),
        (
            r#"{"type":"publish","channel":"a","key":null,"data":1}"#,
            "None Publish(Publish { channel: \"a\", data: [49], key: None, echo: true, message_id: None })",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text), expected, "{text}");
        let end = text.trim_end().len();
        for cut in (0..end).filter(|cut| text.is_char_boundary(*cut)) {
            assert!(Parser::new().parse(&text.as_bytes()[..cut]).is_err(), "{}", &text[..cut]);
        }
    }
}

#[test]
fn every_bad_field_is_named_with_the_id() {
    let long_key = format!(
        r#"{{"type":"publish","channel":"a","data":1,"key":"{}","id":3}}"#,
        "x".repeat(256)
    );
    let long_id = format!(
        r#"{{"type":"publish","channel":"a","data":1,"message_id":"{}","id":3}}"#,
        "x".repeat(65)
    );
    let cases = [
        ("", "None", "one JSON object"),
        ("[]", "None", "one JSON object"),
        ("{} {}", "None", "nothing may follow"),
        ("{", "None", "ends too early"),
        ("{}", "None", "type is missing"),
        (r#"{"type":1,"id":3}"#, "Some(3)", "type must be a string"),
        (r#"{"type":"nope","id":3}"#, "Some(3)", "unknown type \"nope\": there are auth,"),
        (r#"{"type":"ping","id":0}"#, "None", "id must be an integer"),
        (r#"{"type":"ping","id":-1}"#, "None", "id must be an integer"),
        (r#"{"type":"ping","id":1.0}"#, "None", "id must be an integer"),
        (r#"{"type":"ping","id":"1"}"#, "None", "id must be an integer"),
        (r#"{"type":"ping","id":9007199254740992}"#, "None", "id must be an integer"),
        (r#"{"type":"subscribe","id":3}"#, "Some(3)", "channel is missing"),
        (r#"{"type":"unsubscribe","channel":null,"id":3}"#, "Some(3)", "channel must be"),
        (r#"{"type":"publish","channel":1,"data":1,"id":3}"#, "Some(3)", "channel must be"),
        (r#"{"type":"publish","channel":"a","id":3}"#, "Some(3)", "data is missing"),
        (r#"{"type":"publish","channel":"a","data":1,"key":1,"id":3}"#, "Some(3)", "key must be"),
        (r#"{"type":"publish","channel":"a","data":1,"echo":1,"id":3}"#, "Some(3)", "echo must be"),
        (
            r#"{"type":"publish","channel":"a","data":1,"message_id":{},"id":3}"#,
            "Some(3)",
            "message_id must",
        ),
        (&long_key, "Some(3)", "key must have at most 255 bytes"),
        (&long_id, "Some(3)", "message_id must have at most 64 bytes"),
        (r#"{"type":"subscribe","channel":"a","since":"e","id":3}"#, "Some(3)", "since must be"),
        (r#"{"type":"subscribe","channel":"a","since":{},"id":3}"#, "Some(3)", "since.epoch must"),
        (
            r#"{"type":"subscribe","channel":"a","since":{"epoch":"e","offset":-1},"id":3}"#,
            "Some(3)",
            "since.offset",
        ),
        (r#"{"type":"subscribe","channel":"a","slow":1,"id":3}"#, "Some(3)", "slow must be"),
        (
            r#"{"type":"subscribe","channel":"a","snapshot":1,"id":3}"#,
            "Some(3)",
            "snapshot must be",
        ),
    ];
    for (text, id, part) in cases {
        let error = read(text);
        assert!(error.starts_with(&format!("{id} bad_request: ")), "{text}: {error}");
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn what_is_shown_and_asked_has_its_fields() {
    let signal = |fields: &str| format!(r#"{{"type":"signal","id":3,"channel":"a"{fields}}}"#);
    let named = |name: &str| signal(&format!(r#","name":{name},"data":1"#));
    let lasting = |ttl: &str| signal(&format!(r#","name":"n","data":1,"ttl_ms":{ttl}"#));
    let request = |fields: &str| format!(r#"{{"type":"request","id":3{fields}}}"#);
    let (long, longest) = (format!("\"{}\"", "x".repeat(65)), format!("\"{}\"", "x".repeat(64)));
    let cases = [
        (r#"{"type":"presence","id":3}"#.to_owned(), "channel is missing"),
        (r#"{"type":"presence","id":3,"channel":[]}"#.to_owned(), "channel must be a string"),
        (r#"{"type":"signal","id":3,"name":"n","data":1}"#.to_owned(), "channel is missing"),
        (signal(r#","data":1"#), "name is missing"),
        (signal(r#","name":"n""#), "data is missing"),
        (named("1"), "name must be a string of 1 to 64 bytes"),
        (named("\"\""), "name must be a string of 1 to 64 bytes"),
        (named(&long), "name must be a string of 1 to 64 bytes"),
        (lasting("0"), "ttl_ms must be an integer of at least 1"),
        (lasting("-1"), "ttl_ms must be"),
        (lasting("1.5"), "ttl_ms must be"),
        (lasting("\"5\""), "ttl_ms must be"),
        (request(""), "method is missing"),
        (request(r#","method":7"#), "method must be a string of 1 to 255 bytes"),
        (request(r#","method":"""#), "method must be"),
    ];
    for (text, part) in cases {
        let error = read(&text);
        assert!(
            error.starts_with("Some(3) bad_request: ") && error.contains(part),
            "{text}: {error}"
        );
    }
    assert!(read(&named(&longest)).contains("ttl_ms: 5000"));
    assert!(read(&lasting("18446744073709551615")).contains("ttl_ms: 60000"));
}

#[test]
fn a_rate_is_a_number_in_its_range() {
    let subscribe =
        |rate| format!(r#"{{"type":"subscribe","channel":"a","max_rate":{rate},"id":3}}"#);
    for (good, interval) in [("1", 1_000), ("0.1", 10_000), ("1e2", 10), ("12.5", 80)] {
        let read = read(&subscribe(good));
        assert!(read.contains(&format!("max_rate: Some(Rate({interval}))")), "{good}: {read}");
    }
    let bad =
        ["0", "-0", "-1", "0.0999", "100.1", "1e9", "1e400", "-1e400", "\"1\"", "true", "[1]"];
    for bad in bad {
        let range = "Some(3) bad_request: max_rate must be a number from 0.1 to 100";
        assert!(read(&subscribe(bad)).starts_with(range), "{bad}");
    }
    for none in ["NaN", "Infinity", "+1", ".5"] {
        assert!(read(&subscribe(none)).contains("not JSON"), "{none}");
    }
}

/// JSON with every kind of token, and white space.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "\"(\\\\u[0-9a-cA-C][0-9a-f]{3}|\\\\[nrt/\\\\\"]|[ a-z])*\"",
        Just(r#""\ud834\udd1e""#.to_owned()),
    ];
    leaf.prop_recursive(8, 64, 6, |inner| {
        prop_oneof![
            (proptest::collection::vec(inner.clone(), 0..6), "[ \n\r\t]{0,2}")
                .prop_map(|(all, space)| format!("[{space}{}]", all.join(&format!(",{space}")))),
            (proptest::collection::vec((any::<String>(), inner), 0..6), "[ \n]{0,2}").prop_map(
                |(all, space)| {
                    let pair = |(key, value): &(String, String)| {
                        format!("{}{space}:{value}", serde_json::to_string(key).unwrap())
                    };
                    format!("{{{}}}", all.iter().map(pair).collect::<Vec<_>>().join(","))
                }
            ),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_published_comes_back_token_identical(data in json()) {
        prop_assert!(is_json(&data, 64), "{}", data);
        prop_assert_eq!(data_of(&data), Ok(data.into_bytes()));
    }

    #[test]
    fn mutated_json_is_judged_as_serde_json_judges_it(
        data in json(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0_u8..4, "[-+.eE0-9\"\\\\u{}\\[\\],: \n\u{1}a-fnt]"), 1..4),
    ) {
        let mut letters: Vec<char> = data.chars().collect();
        for (at, how, letter) in edits {
            let letter = letter.chars().next().unwrap_or('x');
            let at = at.index(letters.len() + 1);
            match how {
                0 => letters.insert(at, letter),
                1 => letters.truncate(at.max(1)),
                _ if at == letters.len() => {}
                2 => { letters.remove(at); }
                _ => letters[at] = letter,
            }
        }
        let text: String = letters.into_iter().collect();
        let ours = crate::proto::dialect::json::scan::is_json(text.as_bytes());
        prop_assert_eq!(ours, is_json(&text, 64), "{}", text);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..90) {
        let mut text = br#"{"type":"publish","channel":"a","data":{"x":"\ud83d\ude00"},"key":"\u0041"}"#.to_vec();
        text.truncate(cut);
        text.extend_from_slice(&bytes);
        let error = Parser::new().parse(&text).err();
        prop_assert!(error.is_none_or(|error| error.code == ErrorCode::BadRequest));
        crate::proto::dialect::json::split::messages(&text).for_each(drop);
    }
}
