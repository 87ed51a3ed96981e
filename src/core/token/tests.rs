//! Tokens and keys made by an implementation that is not ours (tests/support/tokens.py), and what
//! is done to them.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// In 2026.
const NOW_S: u64 = 1_780_000_000;

fn made() -> &'static Value {
    static MADE: LazyLock<Value> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../../tests/support/tokens.json")).unwrap()
    });
    &MADE
}

fn secret(made: &Value) -> Key {
    Key::secret(made["secret"].as_str().unwrap().as_bytes()).unwrap()
}

fn pem(made: &Value, name: &str) -> Vec<Key> {
    Key::pem(made["pem"][name].as_str().unwrap()).unwrap()
}

/// One with a key of each kind.
fn all(made: &Value) -> Verifier {
    let mut keys = vec![secret(made)];
    for name in ["rsa", "p256", "p384", "ed"] {
        keys.extend(pem(made, name));
    }
    Verifier::new(keys, None, None)
}

fn of_set(made: &Value) -> Verifier {
    Verifier::new(Key::set(&made["jwks"].to_string()).unwrap(), None, None)
}

fn pairs(made: &Value) -> Vec<(&String, &str)> {
    let pairs = made.as_object().unwrap().iter();
    pairs.map(|(name, token)| (name, token.as_str().unwrap_or_default())).collect()
}

#[test]
fn each_algorithm_is_taken_by_its_key_and_no_other() {
    let made = made();
    for (algorithm, token) in pairs(&made["good"]) {
        for verifier in [all(made), of_set(made)] {
            let found = verifier.verify(token, NOW_S);
            // In the set the RSA key is for RS256 alone.
            if matches!(&**algorithm, "RS384" | "RS512" | "PS256" | "PS384" | "PS512")
                && found.is_err()
            {
                assert_eq!(verifier.keys.len(), of_set(made).keys.len(), "{algorithm}");
                continue;
            }
            assert_eq!(found.unwrap().user(), "u1", "{algorithm}");
        }
        for (name, _) in pairs(&made["pem"]) {
            let one = Verifier::new(pem(made, name), None, None);
            let fits = match &**name {
                "rsa" => algorithm.starts_with("RS") || algorithm.starts_with("PS"),
                "p256" => algorithm == "ES256",
                "p384" => algorithm == "ES384",
                _ => algorithm == "EdDSA",
            };
            let wanted = if fits { None } else { Some(BadToken::Key) };
            assert_eq!(one.verify(token, NOW_S).err(), wanted, "{algorithm} by {name}");
        }
        let one = Verifier::new(vec![secret(made)], None, None);
        assert_eq!(one.verify(token, NOW_S).is_ok(), algorithm.starts_with("HS"), "{algorithm}");
    }
    let other = all(made).verify(made["es512"].as_str().unwrap(), NOW_S);
    assert_eq!(other.err(), Some(BadToken::Malformed), "no key here is for ES512");
}

#[test]
fn keys_of_a_set_are_found_by_their_names() {
    let made = made();
    let set = of_set(made);
    for (name, token) in pairs(&made["named"]) {
        assert_eq!(set.verify(token, NOW_S).unwrap().user(), "u1", "{name}");
    }
    for (name, token) in pairs(&made["unnamed"]) {
        assert_eq!(set.verify(token, NOW_S).err(), Some(BadToken::Key), "{name}");
    }
}

#[test]
fn a_bad_token_is_refused_for_what_is_bad_in_it() {
    let made = made();
    let verifier = all(made);
    let set = of_set(made);
    let bad = made["bad"].as_object().unwrap();
    assert!(bad.len() > 30);
    for (name, one) in bad {
        let token = one["token"].as_str().unwrap();
        let reason = match one["reason"].as_str().unwrap() {
            "claims" => BadToken::Claims,
            "early" => BadToken::Early,
            "expired" => BadToken::Expired,
            // There the names of keys count; here they have none.
            "key" => {
                assert_eq!(set.verify(token, NOW_S).err(), Some(BadToken::Key), "{name}");
                continue;
            }
            "malformed" => BadToken::Malformed,
            "signature" => BadToken::Signature,
            other => panic!("{other}"),
        };
        assert_eq!(verifier.verify(token, NOW_S).err(), Some(reason), "{name}");
        assert!(set.verify(token, NOW_S).is_err(), "{name}");
    }
    let long = format!("{}.x.y", "a".repeat(100 * 1024));
    assert_eq!(verifier.verify(&long, NOW_S).err(), Some(BadToken::Long));
}

#[test]
fn issuer_and_audience_count_where_they_are_set() {
    let made = made();
    let (issued, plain) = (made["issued"].as_str().unwrap(), made["good"]["HS256"].as_str());
    let of = |issuer: Option<&str>, audience: Option<&str>| {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Verifier::new(vec![secret(made)], own(issuer), own(audience))
    };
    let cases = [
        (None, None, None, None),
        (Some("https://issuer.example"), Some("weir"), None, Some(BadToken::Issuer)),
        (Some("https://issuer.example/"), None, Some(BadToken::Issuer), Some(BadToken::Issuer)),
        (None, Some("weir"), None, Some(BadToken::Audience)),
        (None, Some("wei"), Some(BadToken::Audience), Some(BadToken::Audience)),
    ];
    for (issuer, audience, of_issued, of_plain) in cases {
        let verifier = of(issuer, audience);
        assert_eq!(verifier.verify(issued, NOW_S).err(), of_issued, "{issuer:?} {audience:?}");
        assert_eq!(verifier.verify(plain.unwrap(), NOW_S).err(), of_plain, "{issuer:?}");
    }
}

#[test]
fn claims_are_read_as_what_they_are() {
    let made = made();
    let bearer = all(made).verify(made["full"].as_str().unwrap(), NOW_S).unwrap();
    assert_eq!(bearer.user(), "u1");
    assert_eq!(bearer.expires_s, 4_102_444_800);
    for role in ["producer", "admin", "viewer"] {
        assert!(bearer.has_role(role), "{role}");
    }
    assert_eq!(bearer.identity.info.as_deref(), Some(&br#"{"name":"Ada"}"#[..]));
    assert_eq!(bearer.channels.len(), 1);
    assert_eq!(bearer.publish.len(), 1);
    let claims = [
        ("tenant", Some("t-1")),
        ("organization_id", Some("42")),
        ("flag", Some("true")),
        ("sub", Some("u1")),
        ("half", None),
        ("list", None),
        ("object", None),
        ("none", None),
        ("missing", None),
    ];
    for (name, wanted) in claims {
        assert_eq!(bearer.claim(name), wanted, "{name}");
    }
}

#[test]
fn a_token_holds_from_its_beginning_to_its_end_and_five_seconds_more() {
    let made = made();
    let own = made["secret"].as_str().unwrap().as_bytes();
    let verifier = Verifier::new(vec![secret(made)], None, None);
    let token =
        |exp: Value, nbf: Value| sign(&json!({"sub": "u1", "exp": exp, "nbf": nbf}), own).unwrap();
    let usual = token(json!(2000), json!(1000));
    let cases = [
        (994, Some(BadToken::Early)),
        (995, None),
        (2004, None),
        (2005, Some(BadToken::Expired)),
        (u64::MAX, Some(BadToken::Expired)),
    ];
    for (now_s, wanted) in cases {
        assert_eq!(verifier.verify(&usual, now_s).err(), wanted, "at {now_s}");
    }
    // Beyond what a number holds, and before time began.
    let endless = token(json!(1e300), json!(0));
    assert!(verifier.verify(&endless, u64::MAX - 1).is_ok());
    let never = token(json!(-5), json!(0));
    assert_eq!(verifier.verify(&never, NOW_S).err(), Some(BadToken::Expired));
}

#[test]
fn a_bad_key_says_what_is_bad() {
    let made = made();
    let pem = |name: &str| Key::pem(made["bad_pem"][name].as_str().unwrap()).map(|keys| keys.len());
    assert_eq!(pem("private"), Err(BadKey::Private));
    assert_eq!(pem("certificate"), Err(BadKey::Certificate));
    assert_eq!(pem("weak"), Err(BadKey::Weak));
    assert_eq!(pem("p521"), Err(BadKey::Kind));
    let whole = made["pem"]["rsa"].as_str().unwrap();
    assert!(matches!(Key::pem(&whole[..whole.len() - 40]), Err(BadKey::Malformed(_))));
    assert!(matches!(Key::pem(&whole.replace("MII", "MIJ")), Err(BadKey::Malformed(_))));
    assert!(matches!(Key::pem("hello"), Err(BadKey::Empty(_))));
    let both = format!("{whole}\n{}", made["pem"]["ed"].as_str().unwrap());
    assert_eq!(Key::pem(&both).map(|keys| keys.len()), Ok(2));

    assert_eq!(Key::secret(b"  short \n").err(), Some(BadKey::Short(5)));
    assert!(Key::secret(b" 01234567890123456789012345678901\n").is_ok());

    let set = |text: Value| Key::set(&text.to_string()).map(|keys| keys.len());
    assert_eq!(Key::set(&made["jwks"].to_string()).map(|keys| keys.len()), Ok(5));
    assert!(matches!(Key::set("[]"), Err(BadKey::Malformed(_))));
    assert!(matches!(set(json!({"keys": []})), Err(BadKey::Empty(_))));
    assert!(matches!(set(json!({"keys": [{"kty": "new"}, 5]})), Err(BadKey::Empty(_))));
    assert_eq!(set(json!({"keys": [{"kty": "oct", "k": "c2hvcnQ"}]})), Err(BadKey::Short(5)));
    assert_eq!(set(json!({"keys": vec![json!({"kty": "new"}); 65]})), Err(BadKey::Many));
    let weak = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
    assert_eq!(set(json!({"keys": [weak]})), Err(BadKey::Weak));
}

#[test]
fn nothing_secret_is_shown() {
    let made = made();
    let (verifier, own) = (all(made), made["secret"].as_str().unwrap());
    let token = made["full"].as_str().unwrap();
    let bearer = verifier.verify(token, NOW_S).unwrap();
    let shown = format!("{verifier:?} {:?} {bearer:?} {:?}", verifier.keys, Seen::of(token));
    for text in [own, "u1", "Ada", "t-1", "news", token] {
        assert!(!shown.contains(text), "{text} in {shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One character more, less, or another: nothing but the token itself is taken.
    #[test]
    fn no_changed_token_is_taken(at in 0_usize..1000, with in "[A-Za-z0-9_.-]{0,2}", wide in 0_usize..3) {
        let made = made();
        let verifier = all(made);
        for algorithm in ["HS256", "RS256", "ES256", "EdDSA"] {
            let token = made["good"][algorithm].as_str().unwrap();
            let at = at % token.len();
            let end = (at + wide).min(token.len());
            let changed = format!("{}{with}{}", &token[..at], &token[end..]);
            let found = verifier.verify(&changed, NOW_S);
            prop_assert!(changed == token || found.is_err(), "{}", changed);
        }
    }

    #[test]
    fn no_bytes_are_a_token_or_a_key(text in "[ -~]{0,60}", der in prop::collection::vec(any::<u8>(), 0..80)) {
        let made = made();
        prop_assert!(all(made).verify(&text, NOW_S).is_err());
        prop_assert!(Key::set(&text).is_err());
        let pem = base64::engine::general_purpose::STANDARD.encode(&der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n");
        prop_assert!(Key::pem(&pem).is_err());
    }
}
