//! `suite` end to end against the gateway itself, and with servers that cannot be measured: a
//! sentence, an exit code, and nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::gateway::{Folder, holds, program};
use crate::run;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("weir-suite-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

#[test]
fn a_server_that_cannot_start_is_a_sentence() {
    let folder = folder("bad");
    let script = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a script");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it can run");
        path.to_str().expect("UTF-8").to_owned()
    };
    let ends = script("ends", "#!/bin/sh\necho 'no room on port' \"$3\" >&2\nexit 7\n");
    let nothing = folder.join("nothing").to_str().expect("UTF-8").to_owned();
    let out = folder.join("out").to_str().expect("UTF-8").to_owned();
    for (server, said) in [
        (&nothing, "cannot start"),
        (&ends, "the server ended at once: no room on port 127.0.0.1:"),
    ] {
        let ran = run(&["suite", "--server", server, "--scale", "small", "--out", &out]);
        assert_eq!(ran.code, 3, "{}", ran.text);
        assert!(ran.text.contains(said), "{}", ran.text);
    }
    std::fs::remove_dir_all(folder).expect("it can go");
}

#[test]
fn a_server_that_never_gets_ready_is_stopped() {
    let folder = folder("deaf");
    let path = folder.join("deaf");
    let pid = folder.join("pid");
    let text = format!("#!/bin/sh\necho $$ > {}\nexec sleep 60\n", pid.display());
    std::fs::write(&path, text).expect("a script");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it can run");
    let paths = [&path, &folder].map(|path| path.to_str().expect("UTF-8").to_owned());
    let ran = run(&["suite", "--server", &paths[0], "--out", &paths[1]]);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains("did not answer /readyz"), "{}", ran.text);
    let pid = std::fs::read_to_string(pid).expect("it was started");
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "it was left behind");
    std::fs::remove_dir_all(folder).expect("it can go");
}

/// The set as `smoke`: every run is there and holds, nothing is left behind, two suites compare, and
/// `benches/measured` finds its figures in the reports.
#[test]
fn a_suite_runs_from_end_to_end() {
    let Some(program) = program("suite") else { return };
    let folder = Folder::new("suite-whole");
    let (server, out) = (program.to_str().expect("UTF-8"), folder.path("out"));
    let suite = ["suite", "--quiet", "--server", server, "--scale", "smoke", "--out", &out];
    let ran = run(&suite);
    assert!([0, 2].contains(&ran.code), "{}: {}", ran.code, ran.text);
    let index = std::fs::read_to_string(Path::new(&out).join("index.html")).expect("a page");
    let files = std::fs::read_dir(&out).expect("the folder");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> =
        names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
    names.sort();
    assert!(names.len() >= 14, "{names:?}");
    for name in &names {
        let path = Path::new(&out).join(name);
        let report = std::fs::read_to_string(path.with_extension("json")).expect("a report");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["schema"], "weir-loadgen/2", "{name}");
        assert!(holds(&report), "{name}: {}", report["invalid"]);
        let page = std::fs::read_to_string(path.with_extension("html")).expect("a page");
        assert!(page.contains("<svg"), "{name} has no plot");
        assert!(index.contains(&format!("{name}.html")), "{name} is not in the index");
        let pid = report["server"]["pid"].as_u64().expect("its gateway");
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "{name} left a gateway behind");
    }
    let ran = run(&["compare", "--lenient", &out, &out]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    measured(&out, &names);
}

/// The rows that `benches/measured` makes of these reports.
fn measured(out: &str, names: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/measured");
    let ran = Command::new("python3").arg(&script).args(["--reports", out]).output();
    let ran = match ran {
        Err(error) => return eprintln!("skipped: the rows of benches/measured: python3: {error}"),
        Ok(ran) => ran,
    };
    let (rows, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
    let text = std::fs::read_to_string(&script).expect("the script");
    let wanted = names.iter().filter(|name| text.contains(&format!("\"{name}\"")));
    let wanted = wanted.count();
    assert!(wanted >= 8, "the script knows {wanted} of the suite's runs");
    let is_row = |row: &str| row.starts_with("| ") && row.ends_with(" |") && !row.contains("{}");
    assert!(rows.lines().all(is_row), "{rows}");
    assert_eq!(rows.lines().count(), wanted, "{rows}");
    let fanout = rows.lines().next().unwrap_or_default();
    assert!(fanout.contains(" deliveries/s, ") && fanout.contains(" s of server CPU"), "{rows}");
}
