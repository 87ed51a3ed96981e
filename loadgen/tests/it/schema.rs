//! Holds a report against the published schema: the few keywords that the schema uses, and any
//! other is a fault of this file.

use serde_json::Value;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/report.schema.json");

/// Asserts that the report at `path` keeps the published schema, and returns it.
pub(crate) fn checked(path: &std::path::Path) -> Value {
    let report = read(path);
    let schema = read(std::path::Path::new(PATH));
    let mut faults = Vec::new();
    hold(&report, &schema, (&schema, "report"), &mut faults);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    report
}

fn read(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the file");
    serde_json::from_str(&text).expect("JSON")
}

/// Adds what is wrong with `value`; `at` is the whole schema and the value's place.
fn hold(value: &Value, schema: &Value, at: (&Value, &str), faults: &mut Vec<String>) {
    let (root, place) = at;
    for (keyword, rule) in schema.as_object().expect("an object") {
        let good = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().and_then(|text| text.strip_prefix('#'));
                let found = pointer.and_then(|pointer| root.pointer(pointer));
                hold(value, found.expect("a definition"), at, faults);
                true
            }
            "anyOf" | "oneOf" => rule.as_array().expect("a list").iter().any(|schema| {
                let mut inner = Vec::new();
                hold(value, schema, at, &mut inner);
                inner.is_empty()
            }),
            "type" => match rule.as_array() {
                Some(names) => names.iter().any(|name| is(value, name)),
                None => is(value, rule),
            },
            "const" => value == rule,
            "enum" => rule.as_array().expect("a list").contains(value),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    hold(item, rule, (root, &format!("{place}[]")), faults);
                }
                true
            }
            "additionalProperties" => {
                for item in value.as_object().into_iter().flat_map(|map| map.values()) {
                    hold(item, rule, (root, &format!("{place}.*")), faults);
                }
                true
            }
            "required" => {
                let names = rule.as_array().expect("a list").iter().filter_map(Value::as_str);
                names.into_iter().all(|name| value.get(name).is_some())
            }
            "properties" => {
                for (name, item) in value.as_object().into_iter().flatten() {
                    let place = format!("{place}.{name}");
                    match rule.get(name) {
                        Some(schema) => hold(item, schema, (root, &place), faults),
                        None => faults.push(format!("{place} is not in the schema")),
                    }
                }
                true
            }
            "$schema" | "$defs" | "title" | "description" | "format" | "default" => true,
            other => panic!("the schema uses `{other}`, which this test does not know"),
        };
        if !good {
            faults.push(format!("{place}: {value:.60} breaks {keyword} {rule}"));
        }
    }
}

fn is(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("array") => value.is_array(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("object") => value.is_object(),
        Some("string") => value.is_string(),
        other => panic!("no type: {other:?}"),
    }
}

#[test]
fn a_report_that_breaks_the_schema_is_found() {
    let schema = read(std::path::Path::new(PATH));
    for text in [r#"{"schema":1}"#, r#"{"nonsense":1}"#, "[]"] {
        let mut faults = Vec::new();
        let report = serde_json::from_str(text).expect("JSON");
        hold(&report, &schema, (&schema, "report"), &mut faults);
        assert!(!faults.is_empty(), "{text}");
    }
}
