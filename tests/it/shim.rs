//! Libraries of a few lines that stand before the C library's in a gateway, so that a test can change
//! what the system does for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::scratch;

/// A library of `tests/support` that stands before the C library's. `None` where no C compiler is
/// there, or programs are not linked to the C library.
pub(crate) fn shim(source: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(source);
    let shim = scratch(".so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(source);
    let built = compiler.spawn().ok()?.wait().ok()?.success();
    (built && cfg!(all(target_os = "linux", target_env = "gnu"))).then_some(shim)
}
