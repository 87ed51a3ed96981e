//! The published schema is that of the types; `WEIR_LOADGEN_SCHEMA=write` writes it anew.

use std::fs;

use schemars::generate::SchemaSettings;

use super::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/report.schema.json");

#[test]
fn the_published_schema_is_that_of_the_types() {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let schema = generator.into_root_schema_for::<Report>();
    let mut text = serde_json::to_string_pretty(&schema).expect("JSON");
    text.push('\n');
    if std::env::var("WEIR_LOADGEN_SCHEMA").is_ok_and(|value| value == "write") {
        fs::write(PATH, &text).expect("it can be written");
    }
    let published = fs::read_to_string(PATH).expect("the published schema");
    assert!(
        published == text,
        "the report has changed: WEIR_LOADGEN_SCHEMA=write cargo test -p weir-loadgen schema"
    );
}
