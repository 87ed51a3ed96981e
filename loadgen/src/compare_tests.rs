//! Which reports can be compared, and what counts as worse.

use serde_json::json;

use super::*;

fn report(delivered: f64, p99: f64) -> Value {
    json!({
        "schema": SCHEMA, "scenario": "fanout", "invalid": [], "host": {"cpu": "a"},
        "sizes": {"connections": 10.0, "window": 64.0},
        "fanout": {"delivered_per_second": delivered, "latency": {"p99_ms": p99, "max_ms": p99}},
        "connect": {"per_second": 1_000.0},
    })
}

fn outcome(base: &Value, head: &Value) -> Outcome {
    table(base, head, 0.05, &mut String::new())
}

#[test]
fn the_direction_of_each_figure_counts() {
    let base = report(1_000.0, 10.0);
    assert_eq!(outcome(&base, &report(951.0, 10.4)), Outcome::Fine, "within five percent");
    assert_eq!(outcome(&base, &report(9_000.0, 0.1)), Outcome::Fine, "better both ways");
    assert_eq!(outcome(&base, &report(949.0, 10.0)), Outcome::Worse(1), "less throughput");
    assert_eq!(outcome(&base, &report(1_000.0, 10.6)), Outcome::Worse(1), "more latency");
    assert_eq!(outcome(&base, &report(1.0, 99.0)), Outcome::Worse(2), "the maximum is only shown");
    assert_eq!(outcome(&report(1.0, 0.0), &report(1.0, 0.1)), Outcome::Worse(1), "from nothing");
}

#[test]
fn opening_is_judged_where_it_is_what_is_measured() {
    let of = |scenario: &str, per_second: f64| {
        let mut report = report(1_000.0, 10.0);
        report["scenario"] = json!(scenario);
        report["connect"]["per_second"] = json!(per_second);
        report
    };
    for (scenario, outcome_of_it) in
        [("connect", Outcome::Worse(1)), ("idle", Outcome::Worse(1)), ("publish", Outcome::Fine)]
    {
        let (base, head) = (of(scenario, 1_000.0), of(scenario, 500.0));
        assert_eq!(outcome(&base, &head), outcome_of_it, "{scenario}");
    }
}

#[test]
fn other_work_is_not_compared() {
    let base = report(1.0, 1.0);
    assert_eq!(unlike(&base, &base), None);
    for (path, value, why) in [
        ("/scenario", json!("idle"), "scenario"),
        ("/sizes/window", json!(1.0), "window is 64.0 and 1.0"),
        ("/sizes", json!({"connections": 10.0, "window": 64.0, "rate": 5.0}), "nothing and 5.0"),
    ] {
        let mut head = base.clone();
        *head.pointer_mut(path).expect("it is there") = value;
        let said = unlike(&base, &head).expect("unlike");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_judged_figure_that_is_gone_is_no_success() {
    let base = report(1_000.0, 10.0);
    let without = |part: &str, name: &str| {
        let mut report = base.clone();
        report[part].as_object_mut().expect("a part").remove(name).expect("it was there");
        report
    };
    let gone = without("fanout", "latency");
    assert_eq!(outcome(&base, &gone), Outcome::Unlike("only base has latency p99 ms".into()));
    assert_eq!(outcome(&gone, &base), Outcome::Fine, "base did not have it");
    let slower = json!({"fanout": {"delivered_per_second": 1.0}, "connect": {"per_second": 1e3}});
    assert_eq!(outcome(&base, &slower), Outcome::Worse(1), "a regression outweighs it");
    let nothing = json!({});
    assert!(matches!(outcome(&nothing, &nothing), Outcome::Unlike(_)), "nothing was judged");
}

#[test]
fn a_regression_outweighs_what_cannot_be_compared() {
    let code = |all: &[Outcome]| (Outcome::code(all, false), Outcome::code(all, true));
    let unlike = || Outcome::Unlike(String::new());
    let excused = || Outcome::Excused(String::new());
    let broken = || Outcome::Broken(String::new());
    assert_eq!(code(&[Outcome::Fine]), (0, 0));
    assert_eq!(code(&[Outcome::Fine, unlike()]), (2, 2));
    assert_eq!(code(&[Outcome::Fine, excused()]), (2, 0));
    assert_eq!(code(&[excused(), excused()]), (2, 2), "something must have been compared");
    assert_eq!(code(&[unlike(), excused(), Outcome::Worse(1)]), (1, 1));
    assert_eq!(code(&[Outcome::Fine, broken()]), (1, 1));
    assert_eq!(code(&[]), (2, 2));
}

#[test]
fn only_the_machine_and_the_base_excuse_a_run() {
    let standing = |codes: &[&str], violations: u64| {
        let reasons: Vec<Value> =
            codes.iter().map(|code| json!({"code": code, "text": "why"})).collect();
        let report = json!({"invalid": reasons, "verdict": {"violations": violations}});
        standing(Path::new("x"), &report)
    };
    let holds = || standing(&[], 0);
    let late = || standing(&["generator_late", "rate_not_reached"], 0);
    let lost = || standing(&["generator_late", "connections_lost"], 0);
    let lied = || standing(&[], 3);
    assert_eq!(holds().against(holds()), None);
    let excused = [(late(), holds()), (holds(), late()), (lost(), holds()), (lied(), lied())];
    for (base, head) in excused {
        let shown = format!("{base:?} {head:?}");
        assert!(matches!(base.against(head), Some(Outcome::Excused(_))), "{shown}");
    }
    for (base, head) in [(holds(), lost()), (holds(), lied()), (late(), lost())] {
        let shown = format!("{base:?} {head:?}");
        assert!(matches!(base.against(head), Some(Outcome::Broken(_))), "{shown}");
    }
    let other = standing(&["a_code_of_tomorrow"], 0);
    assert!(matches!(other, Standing::Broken(_)), "what is not known excuses nothing");
}

#[test]
fn a_share_is_a_percentage() {
    assert_eq!((share("5%"), share("5"), share("0.5 %")), (Ok(0.05), Ok(0.05), Ok(0.005)));
    for text in ["", "%", "-1%", "NaN", "5%%"] {
        assert!(share(text).is_err(), "{text}");
    }
}

/// What a part of the schema stands for, without references and the possibility of `null`.
fn meant<'a>(schema: &'a Value, part: &'a Value) -> &'a Value {
    let either = part["anyOf"].as_array().and_then(|all| all.iter().find(|one| is_some(one)));
    let part = either.unwrap_or(part);
    match part["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("within this schema");
            meant(schema, schema.pointer(pointer).expect("a definition"))
        }
        None => part,
    }
}

fn is_some(schema: &Value) -> bool {
    schema["type"] != "null"
}

fn is_published(schema: &Value, path: &str) -> bool {
    let mut part = schema;
    for name in path.split('/').skip(1) {
        match meant(schema, part)["properties"].get(name) {
            Some(inner) => part = inner,
            None => return false,
        }
    }
    let names = &meant(schema, part)["type"];
    let is_number = |name: &Value| name == "number" || name == "integer";
    is_number(names) || names.as_array().is_some_and(|names| names.iter().any(is_number))
}

#[test]
fn every_path_is_a_number_in_the_published_schema() {
    let schema = include_str!("../schema/report.schema.json");
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    for figure in &FIGURES {
        assert!(is_published(&schema, figure.path), "{}", figure.path);
    }
    // Their last names are there, but not in these places.
    for path in ["/publish/delivered_per_second", "/p99_ms", "/connect", "/connect/latency/p50_ms"]
    {
        assert!(!is_published(&schema, path), "{path}");
    }
}
