//! Rules against a model that knows no compiled form, and the edges that were decided.

use proptest::prelude::*;

use super::*;

/// Somebody with two roles, two claims and some patterns.
fn bearer() -> Bearer {
    fn templates(texts: &[&str]) -> Box<[Template]> {
        texts.iter().map(|text| Template::parse(text).unwrap()).collect()
    }
    Bearer {
        roles: ["producer".into(), "admin".into()].into(),
        claims: [
            ("organization_id".into(), "42".into()),
            ("path".into(), "a:b".into()),
            ("star".into(), "*".into()),
            ("empty".into(), "".into()),
        ]
        .into(),
        channels: templates(&["news:**", "room:*"]),
        publish: templates(&["room:7"]),
        ..Bearer::of("u1")
    }
}

fn grants(rules: &[&str]) -> Grants {
    let rules: Vec<Rule> = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
    Grants::new(|_| rules.clone())
}

fn may(rules: &[&str], who: Who<'_>, channel: &str) -> bool {
    grants(rules).allow(Act::Subscribe, who, Target::Name(channel))
}

#[test]
fn each_rule_lets_in_whom_it_names() {
    let known = bearer();
    let (known, nobody, api) = (Who::Client(Some(&known)), Who::Client(None), Who::Api);
    let cases = [
        ("anyone", "a", [true, true, true]),
        ("user", "a", [true, false, false]),
        ("nobody", "a", [false, false, false]),
        ("api", "a", [false, false, true]),
        ("role:producer", "a", [true, false, false]),
        ("role:consumer", "a", [false, false, false]),
        ("token", "news:a:b", [true, false, false]),
        ("token", "room:9", [true, false, false]),
        ("token", "room:9:x", [false, false, false]),
        ("channel:organization:{organization_id}", "organization:42", [true, false, false]),
        ("channel:organization:{organization_id}", "organization:43", [false, false, false]),
        ("channel:organization:{organization_id}", "organization:42:x", [false, false, false]),
        ("channel:organization:{organization_id}:**", "organization:42:x:y", [true, false, false]),
        ("channel:dm-{organization_id}:*", "dm-42:x", [true, false, false]),
        // Without a claim it is for all clients.
        ("channel:public:*", "public:x", [true, true, false]),
        ("channel:public:*", "public:x:y", [false, false, false]),
    ];
    for (rule, channel, wanted) in cases {
        let found = [known, nobody, api].map(|who| may(&[rule], who, channel));
        assert_eq!(found, wanted, "{rule} on {channel}");
    }
    assert!(!may(&[], known, "a"), "an empty list is nobody");
    assert!(may(&["nobody", "user"], known, "a"), "any one suffices");
}

#[test]
fn a_claim_goes_in_as_text() {
    let known = bearer();
    let who = Who::Client(Some(&known));
    assert!(may(&["channel:x:{path}"], who, "x:a:b"));
    assert!(!may(&["channel:x:{star}"], who, "x:anything"));
}

#[test]
fn a_missing_or_empty_claim_fits_nothing() {
    let known = bearer();
    let who = Who::Client(Some(&known));
    for rule in ["channel:x{missing}", "channel:x{empty}", "channel:{missing}x"] {
        assert!(!may(&[rule], who, "x"), "{rule}");
    }
}

#[test]
fn publishing_has_patterns_of_its_own_in_a_token() {
    let (known, rules) = (bearer(), grants(&["token"]));
    let who = Who::Client(Some(&known));
    assert!(rules.allow(Act::Publish, who, Target::Name("room:7")));
    assert!(!rules.allow(Act::Publish, who, Target::Name("room:8")));
    for act in [Act::Subscribe, Act::History, Act::Presence, Act::Signal] {
        assert!(rules.allow(act, who, Target::Name("room:8")), "{act:?}");
    }
}

#[test]
fn a_prefix_needs_a_rule_for_all_of_it() {
    let known = bearer();
    let who = Who::Client(Some(&known));
    let cases = [
        ("anyone", "a:", true),
        ("user", "a:", true),
        ("channel:a:**", "a:", true),
        ("channel:a:**", "a:b/", true),
        ("channel:**", "a:", true),
        ("channel:a:*", "a:", false),
        ("channel:a:*", "a:b/", false),
        ("channel:a:*:**", "a:", false),
        ("channel:a:*:**", "a:b:", true),
        ("channel:a:b:**", "a:", false),
        ("channel:a:b", "a:b/", false),
        ("channel:x:{path}:**", "x:a:b:", true),
        ("channel:x:{path}:**", "x:a:", false),
        ("token", "news:", true),
        ("token", "room:", false),
        ("nobody", "a:", false),
    ];
    for (rule, prefix, wanted) in cases {
        let found = grants(&[rule]).allow(Act::Subscribe, who, Target::Prefix(prefix));
        assert_eq!(found, wanted, "{rule} on {prefix}*");
    }
}

#[test]
fn what_is_no_rule_says_so() {
    let cases = [
        ("", BadRule::Unknown),
        ("any", BadRule::Unknown),
        ("app", BadRule::Unknown),
        ("user:x", BadRule::Unknown),
        ("role:", BadRule::Role),
        ("channel:", BadRule::Pattern(BadTemplate::EmptyPart)),
        ("channel:a::b", BadRule::Pattern(BadTemplate::EmptyPart)),
        ("channel:a:", BadRule::Pattern(BadTemplate::EmptyPart)),
        ("channel:a*", BadRule::Pattern(BadTemplate::Star)),
        ("channel:a/*", BadRule::Pattern(BadTemplate::Star)),
        ("channel:**:a", BadRule::Pattern(BadTemplate::Star)),
        ("channel:***", BadRule::Pattern(BadTemplate::Star)),
        ("channel:{a", BadRule::Pattern(BadTemplate::Brace)),
        ("channel:a}", BadRule::Pattern(BadTemplate::Brace)),
        ("channel:{a{b}}", BadRule::Pattern(BadTemplate::Brace)),
        ("channel:{}", BadRule::Pattern(BadTemplate::Claim)),
        ("channel:a b", BadRule::Pattern(BadTemplate::Character)),
    ];
    for (text, wanted) in cases {
        assert_eq!(Rule::parse(text), Err(wanted), "{text}");
    }
    let claim = "channel:{https://example.org/org}:a";
    assert!(Rule::parse(claim).is_ok(), "claims of a namespace have any visible characters");
}

#[test]
fn others_have_the_rules_of_subscribers() {
    let rule = |text| Rule::parse(text).unwrap();
    let grants = Grants::new(|act| match act {
        Act::Subscribe => vec![rule("user")],
        Act::History => vec![rule("subscribers"), rule("api")],
        Act::Presence | Act::Publish | Act::Signal => vec![rule("nobody")],
    });
    let known = bearer();
    let on = Target::Name("a");
    assert!(grants.allow(Act::History, Who::Client(Some(&known)), on));
    assert!(grants.allow(Act::History, Who::Api, on));
    assert!(!grants.allow(Act::History, Who::Client(None), on));
    assert!(!grants.allow(Act::Presence, Who::Client(Some(&known)), on));
}

#[test]
fn a_refusal_says_what_is_needed() {
    let on = Target::Name("telemetry:h1");
    let told = |rules: &[&str]| grants(rules).refusal(Act::Publish, on);
    assert_eq!(told(&["role:producer"]), "publishing on telemetry:h1 needs role producer");
    assert_eq!(
        told(&["user", "channel:a:{b}", "channel:c", "api"]),
        "publishing on telemetry:h1 needs a token, or a token that fits the channel, or the HTTP API"
    );
    assert_eq!(told(&["nobody"]), "publishing on telemetry:h1 is allowed to nobody");
}

/// A pattern as its parts, a channel as its own: no walk through text.
fn model(parts: &[&str], claim: &str, name: &str) -> bool {
    let mut wanted: Vec<Option<String>> = Vec::new();
    for part in parts {
        match *part {
            "*" | "**" => wanted.push(None),
            text => {
                let text = text.replace("{c}", claim);
                wanted.extend(text.split(':').map(|one| Some(one.to_owned())));
            }
        }
    }
    let missing = claim.is_empty() && parts.iter().any(|part| part.contains("{c}"));
    let have: Vec<&str> = name.split(':').collect();
    let open = parts.last() == Some(&"**");
    let long = if open { have.len() >= wanted.len() } else { have.len() == wanted.len() };
    let same = |(want, have): (&Option<String>, &&str)| want.as_deref().is_none_or(|w| w == *have);
    !missing && long && wanted.iter().zip(&have).all(same)
}

fn parts() -> impl Strategy<Value = Vec<&'static str>> {
    let middle = prop::sample::select(vec!["a", "b", "*", "{c}", "a{c}", "{c}b", "a/b"]);
    let last = prop::sample::select(vec!["a", "*", "**", "{c}"]);
    (prop::collection::vec(middle, 0..3), last).prop_map(|(mut parts, last)| {
        parts.push(last);
        parts
    })
}

fn claims() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "a", "b", "*", "a:b", "aa", "**"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_template_fits_what_the_model_fits(
        parts in parts(),
        claim in claims(),
        name in prop::collection::vec("[ab]{1,2}", 1..5),
    ) {
        let name = name.join(":");
        let template = Template::parse(&parts.join(":")).unwrap();
        let bearer = Bearer { claims: [("c".into(), claim.into())].into(), ..Bearer::of("u") };
        let found = template.fits(Some(&bearer), Target::Name(&name));
        prop_assert_eq!(found, model(&parts, claim, &name), "{} {} {}", template, claim, name);
        prop_assert_eq!(template.to_string(), parts.join(":"));
    }

    /// What is allowed as a whole is allowed in each part; and what is not has a counterexample.
    #[test]
    fn a_prefix_is_allowed_where_all_its_names_are(
        parts in parts(),
        claim in claims(),
        start in prop::collection::vec("[ab]{1,2}", 1..4),
        slash in any::<bool>(),
    ) {
        let prefix = format!("{}{}", start.join(":"), if slash { '/' } else { ':' });
        let template = Template::parse(&parts.join(":")).unwrap();
        let bearer = Bearer { claims: [("c".into(), claim.into())].into(), ..Bearer::of("u") };
        let whole = template.fits(Some(&bearer), Target::Prefix(&prefix));
        let ends = ["z", "z:z", "z:z:z:z:z:z:z", "a", "a:b", "b:a:a"];
        let each = ends.iter().all(|end| model(&parts, claim, &format!("{prefix}{end}")));
        prop_assert_eq!(whole, each, "{} {} {}*", template, claim, prefix);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-c{}*:/ ]{0,12}") {
        if let Ok(template) = Template::parse(&text) {
            prop_assert_eq!(template.to_string(), text);
        }
    }
}
