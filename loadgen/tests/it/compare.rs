//! `compare` as a user or a CI runs it: exit codes, and what it says.

use std::path::{Path, PathBuf};

use crate::run;

/// A folder of one test, gone when the test has passed.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("weir-compare-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn write(folder: &Path, name: &str, window: u32, delivered: u32, invalid: &str) -> String {
    let path = folder.join(name);
    let text = format!(
        r#"{{"schema":"weir-loadgen/1","scenario":"fanout","invalid":[{invalid}],
            "sizes":{{"window":{window}}},"fanout":{{"delivered_per_second":{delivered}}}}}"#
    );
    std::fs::write(&path, text).expect("a report");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn each_outcome_has_its_exit_code() {
    let folder = folder("codes");
    let base = write(&folder, "base.json", 64, 1_000, "");
    let same = write(&folder, "same.json", 64, 990, "");
    let slow = write(&folder, "slow.json", 64, 800, "");
    let other = write(&folder, "other.json", 1, 1_000, "");
    let void = write(&folder, "void.json", 64, 1_000, "\"3 connections were lost\"");
    let nothing = folder.join("nothing.json").to_str().expect("UTF-8").to_owned();
    for (head, code, said) in [
        (&same, 0, "0.990x"),
        (&slow, 1, "0.800x  WORSE"),
        (&other, 2, "window is 64 and 1"),
        (&void, 2, "invalid run: 3 connections were lost"),
        (&nothing, 2, "No such file"),
    ] {
        let ran = run(&["compare", &base, head, "--max-regression", "5%"]);
        assert_eq!(ran.code, code, "{head}: {}", ran.text);
        assert!(ran.text.contains(said), "{head}: {}", ran.text);
    }
    assert_eq!(run(&["compare", &base, &slow, "--max-regression", "25%"]).code, 0);
    assert_eq!(run(&["compare", &base, &slow, "--max-regression", "much"]).code, 64);
    assert_eq!(run(&["compare", &base, &slow, "--json", "x.json"]).code, 64, "nothing to write");
    std::fs::remove_dir_all(folder).expect("it can go");
}

#[test]
fn folders_are_compared_by_the_names_in_them() {
    let (base, head) = (folder("base"), folder("head"));
    write(&base, "a.json", 1, 100, "");
    write(&base, "b.json", 2, 100, "");
    write(&head, "a.json", 1, 100, "");
    let paths = [&base, &head].map(|path| path.to_str().expect("UTF-8").to_owned());
    let ran = run(&["compare", &paths[0], &paths[1]]);
    assert_eq!(ran.code, 2, "one is missing: {}", ran.text);
    write(&head, "b.json", 2, 10, "");
    write(&head, "c.json", 2, 10, "");
    let ran = run(&["compare", &paths[0], &paths[1]]);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert!(ran.text.contains("c.json: only in"), "{}", ran.text);
    for path in [base, head] {
        std::fs::remove_dir_all(path).expect("it can go");
    }
}
