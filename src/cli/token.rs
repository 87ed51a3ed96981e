//! `weir token`: signs a token, for whoever develops without an issuer at hand.

use crate::cli::args::{Settings, Sign};
use crate::cli::failure::Failure;
use crate::cli::files;
use crate::cli::output::{Output, say};
use crate::config::Key;
use crate::core::token::{self, BadToken};
use crate::shard::clock::Clock;
use serde_json::{Map, Value, json};

/// Prints one token on a line.
pub(super) fn run(flags: Sign) -> Result<(), Failure> {
    let settings = Settings {
        config: flags.config.clone(),
        listen: None,
        shards: None,
        // Where the gateway listens is no matter here.
        insecure: true,
        log_format: None,
    };
    let (raw, config) = files::load(&settings)?;
    let Some(path) = raw.text(Key::AuthHmacSecretFile) else {
        return Err(Failure::Usage(
            "no secret to sign with: set auth.hmac_secret_file in the configuration, or \
             WEIR_AUTH__HMAC_SECRET_FILE",
        ));
    };
    let secret = std::fs::read(&path).map_err(|error| Failure::File(path, error))?;
    let now_s = Clock::start().unix_ms() / 1_000;
    let mut claims = claims(flags, now_s);
    for (name, key) in [("iss", Key::AuthIssuer), ("aud", Key::AuthAudience)] {
        if let Some(text) = raw.text(key) {
            claims.entry(name).or_insert(text.into());
        }
    }
    // The settings were checked: the secret is long enough.
    let signed = token::sign(&claims.into(), &secret)
        .map_err(|_| Failure::Usage("the secret signs nothing: it must have 32 bytes at least"))?;
    let verifier = config.node.auth.verifier;
    if let Some(Err(bad)) = verifier.map(|verifier| verifier.verify(&signed, now_s)) {
        let why = why(bad);
        say(format_args!("weir: a gateway with these settings will refuse this token: {why}"));
    }
    let mut output = Output::new();
    output.line(&signed)?;
    output.flush()
}

/// What is wrong with a token that is signed as it should be.
fn why(bad: BadToken) -> &'static str {
    match bad {
        BadToken::Audience => "its `aud` does not name auth.audience",
        BadToken::Claims => {
            "a claim is not what it must be: `sub` is a text of 1 to 255 bytes, `exp` and `nbf` are \
             numbers, `channels` and `publish` are lists of patterns, and `info` has at most 1 KiB"
        }
        BadToken::Early => "its `nbf` is yet to come",
        BadToken::Expired => "its `exp` has passed",
        BadToken::Issuer => "its `iss` is not auth.issuer",
        BadToken::Long => "it is longer than 8 KiB",
        BadToken::Key | BadToken::Malformed | BadToken::Signature => "its key is not the gateway's",
    }
}

fn claims(flags: Sign, now_s: u64) -> Map<String, Value> {
    let mut claims: Map<String, Value> = flags.claim.into_iter().collect();
    claims.insert("sub".to_owned(), flags.sub.into());
    claims.insert("iat".to_owned(), now_s.into());
    claims.insert("exp".to_owned(), now_s.saturating_add(flags.ttl).into());
    if let Some(org) = flags.org {
        claims.insert("organization_id".to_owned(), org.into());
    }
    for (name, list) in
        [("roles", flags.role), ("channels", flags.channels), ("publish", flags.publish)]
    {
        if !list.is_empty() {
            claims.insert(name.to_owned(), json!(list));
        }
    }
    claims
}
