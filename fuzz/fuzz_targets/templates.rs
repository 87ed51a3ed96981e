//! Patterns of rules and tokens, and the rules themselves: no panic, what is read is written the
//! same, and what a pattern has of a prefix it has of every name under it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::core::access::{Rule, Target, Template};
use weir::core::bearer::Bearer;

fuzz_target!(|data: (&str, &str, &str, &str, &str)| {
    let (text, name, claim, value, more) = data;
    assert!(Rule::parse(text).is_ok() || Rule::parse(&format!("channel:{text}")).is_ok() || {
        // What is no pattern is no rule of one.
        Template::parse(text).is_err()
    });
    let Ok(template) = Template::parse(text) else { return };
    assert_eq!(template.to_string(), text);
    assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template));
    let claims = [(claim.into(), value.into())].into();
    let bearer = Bearer { claims, ..Bearer::of("u1") };
    for who in [None, Some(&bearer)] {
        // The anonymous have no claim to fit.
        let fits = template.fits(who, Target::Name(name));
        assert!(who.is_some() || !text.contains('{') || !fits);
        let prefix = format!("{name}:");
        if template.fits(who, Target::Prefix(&prefix)) && !more.is_empty() {
            let under = format!("{prefix}{more}");
            assert!(template.fits(who, Target::Name(&under)), "{text} has {prefix}*, not {under}");
        }
    }
});
