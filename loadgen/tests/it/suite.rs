//! `suite` with servers that cannot be measured: a sentence, an exit code, and nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

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
