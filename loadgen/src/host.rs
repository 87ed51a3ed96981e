//! The machine that a run was made on: without it a figure says nothing.

use std::fs;
use std::num::NonZero;

use serde::Serialize;

/// A machine, as far as it matters for figures. What cannot be read is empty or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Host {
    /// The model name of the first core.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: u32,
    /// The kernel's name and release.
    pub(crate) kernel: String,
    pub(crate) memory_bytes: u64,
}

impl Host {
    /// This machine.
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, NonZero::get);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            memory_bytes: kib(&field(&read("/proc/meminfo"), "MemTotal")) << 10,
        }
    }
}

/// What stands behind the first `name:`.
fn field(text: &str, name: &str) -> String {
    let named = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(named).unwrap_or_default()
}

fn kib(text: &str) -> u64 {
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: A: B\nmodel name\t: C\n";
        assert_eq!(field(text, "model name"), "A: B");
        assert_eq!((field(text, "name").as_str(), kib("12 kB"), kib("")), ("", 12, 0));
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let host = Host::this();
        assert!(host.cores > 0 && host.memory_bytes > 1 << 20, "{host:?}");
    }
}
