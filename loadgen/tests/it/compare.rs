//! `compare` as a user or a CI runs it: exit codes, and what it says.

use std::path::{Path, PathBuf};

use crate::run;

/// A folder of one test, gone when the test has passed.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("weir-compare-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn report(window: u32, delivered: u32, invalid: &str) -> String {
    format!(
        r#"{{"schema":"weir-loadgen/2","scenario":"fanout","invalid":[{invalid}],"texts":{{}},
            "sizes":{{"window":{window}}},"fanout":{{"delivered_per_second":{delivered}}}}}"#
    )
}

fn put(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a report");
    path.to_str().expect("UTF-8").to_owned()
}

fn write(folder: &Path, name: &str, window: u32, delivered: u32, invalid: &str) -> String {
    put(folder, name, &report(window, delivered, invalid))
}

const LOST: &str = r#"{"code":"connections_lost","text":"3 connections were lost"}"#;
const LATE: &str = r#"{"code":"generator_late","text":"the generator was late"}"#;

#[test]
fn each_outcome_has_its_exit_code() {
    let folder = folder("codes");
    let base = write(&folder, "base.json", 64, 1_000, "");
    let same = write(&folder, "same.json", 64, 990, "");
    let slow = write(&folder, "slow.json", 64, 800, "");
    let other = write(&folder, "other.json", 1, 1_000, "");
    let lost = write(&folder, "lost.json", 64, 1_000, LOST);
    let late = write(&folder, "late.json", 64, 1_000, LATE);
    let nothing = folder.join("nothing.json").to_str().expect("UTF-8").to_owned();
    for (head, code, said) in [
        (&same, 0, "0.990x"),
        (&slow, 1, "0.800x  WORSE"),
        (&other, 2, "window is 64 and 1"),
        (&lost, 1, "BROKEN: "),
        (&late, 2, "invalid run: the generator was late"),
        (&nothing, 2, "No such file"),
    ] {
        for lenient in [[].as_slice(), &["--lenient"]] {
            let compare = ["compare", &base, head, "--max-regression", "5%"];
            let ran = run(&[&compare, lenient].concat());
            assert_eq!(ran.code, code, "{head}: {}", ran.text);
            assert!(ran.text.contains(said), "{head}: {}", ran.text);
        }
    }
    assert_eq!(run(&["compare", &base, &slow, "--max-regression", "25%"]).code, 0);
    assert_eq!(run(&["compare", &base, &slow, "--max-regression", "much"]).code, 64);
    assert_eq!(run(&["compare", &base, &slow, "--json", "x.json"]).code, 64, "nothing to write");
    std::fs::remove_dir_all(folder).expect("it can go");
}

#[test]
fn nothing_passes_because_it_is_not_there() {
    let folder = folder("empty");
    let good = report(64, 1_000, "");
    let base = put(&folder, "base.json", &good);
    let bare = r#"{"schema":"weir-loadgen/2","scenario":"fanout"}"#.to_owned();
    let without_figures = good.replace("delivered_per_second", "delivered");
    for (text, said) in [
        (bare, "does not say whether its run was valid"),
        (good.replace(r#""sizes":{"window":64},"#, ""), "does not say of what work"),
        (good.replace(r#""invalid":[]"#, r#""invalid":"yes""#), "whether its run was valid"),
        (good.replace(r#""invalid":[]"#, r#""invalid":["yes"]"#), "whether its run was valid"),
        (good.replace(":1000}", r#":"slow"}"#), "/fanout/delivered_per_second is not a number"),
        (without_figures.clone(), "only base has deliveries/s"),
    ] {
        let head = put(&folder, "head.json", &text);
        let ran = run(&["compare", &base, &head]);
        assert_eq!(ran.code, 2, "{text}: {}", ran.text);
        assert!(ran.text.contains(said), "{text}: {}", ran.text);
    }
    let head = put(&folder, "head.json", &without_figures);
    let ran = run(&["compare", &head, &head]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("no figure in common"), "{}", ran.text);
    std::fs::remove_dir_all(folder).expect("it can go");
}

#[test]
fn a_busy_machine_and_a_bad_base_are_excused_where_it_is_asked_for() {
    let (base, head) = (folder("old"), folder("new"));
    write(&base, "a.json", 1, 100, "");
    write(&head, "a.json", 1, 100, LATE);
    write(&base, "b.json", 2, 100, LOST);
    write(&head, "b.json", 2, 100, "");
    let paths = [&base, &head].map(|path| path.to_str().expect("UTF-8").to_owned());
    let compare = ["compare", &paths[0], &paths[1]];
    let lenient = [&compare, ["--lenient"].as_slice()].concat();
    assert_eq!(run(&lenient).code, 2, "nothing was compared");
    write(&base, "c.json", 3, 100, "");
    write(&head, "c.json", 3, 100, "");
    assert_eq!((run(&compare).code, run(&lenient).code), (2, 0));
    write(&head, "c.json", 3, 100, LOST);
    assert_eq!((run(&compare).code, run(&lenient).code), (1, 1));
    for path in [base, head] {
        std::fs::remove_dir_all(path).expect("it can go");
    }
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
