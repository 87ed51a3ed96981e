//! Tokens of strangers, and claims that a key of ours has signed: no panic, nothing unsigned is
//! taken, and who is taken is within every limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weir::core::token::{
    BadToken, INFO_BYTES_MAX, Key, LEEWAY_S, TOKEN_BYTES_MAX, USER_BYTES_MAX, Verifier, sign,
};

const SECRET: &[u8] = b"a secret that no input of a fuzzer has signed with";

fuzz_target!(|data: (u32, &str, &str)| {
    let (now_s, token, claims) = data;
    let now_s = u64::from(now_s);
    let verifier = Verifier::new(vec![Key::secret(SECRET).expect("long enough")], None, None);
    let found = verifier.verify(token, now_s);
    let signed = found.is_ok();
    assert!(!signed, "nobody has signed it");
    assert!(token.len() <= TOKEN_BYTES_MAX || found.err() == Some(BadToken::Long));

    let Ok(claims) = serde_json::from_str::<Value>(claims) else { return };
    let token = sign(&claims, SECRET).expect("claims are JSON");
    let Ok(bearer) = verifier.verify(&token, now_s) else { return };
    assert!((1..=USER_BYTES_MAX).contains(&bearer.user().len()));
    assert_eq!(claims["sub"].as_str(), Some(bearer.user()));
    assert!(now_s < bearer.expires_s.saturating_add(LEEWAY_S), "it has not ended");
    assert!(bearer.identity.info.as_ref().is_none_or(|info| info.len() <= INFO_BYTES_MAX));
    // A token that is changed anywhere is another one.
    let at = token.len() * 2 / 3;
    let mut other = token.into_bytes();
    other[at] = if other[at] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).expect("ASCII");
    assert!(verifier.verify(&other, now_s).is_err(), "changed at {at}");
});
