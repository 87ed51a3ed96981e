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
fn a_regression_outweighs_what_cannot_be_compared() {
    let unlike = Outcome::Unlike(String::new());
    assert_eq!(Outcome::code(&[Outcome::Fine]), 0);
    assert_eq!(Outcome::code(&[Outcome::Fine, unlike.clone()]), 2);
    assert_eq!(Outcome::code(&[unlike, Outcome::Worse(1)]), 1);
    assert_eq!(Outcome::code(&[]), 2);
}

#[test]
fn a_share_is_a_percentage() {
    assert_eq!((share("5%"), share("5"), share("0.5 %")), (Ok(0.05), Ok(0.05), Ok(0.005)));
    for text in ["", "%", "-1%", "NaN", "5%%"] {
        assert!(share(text).is_err(), "{text}");
    }
}

#[test]
fn every_path_is_in_the_published_schema() {
    let schema = include_str!("../schema/report.schema.json");
    for figure in &FIGURES {
        let last = figure.path.rsplit('/').next().expect("a name");
        assert!(schema.contains(&format!("\"{last}\"")), "{}", figure.path);
    }
}
