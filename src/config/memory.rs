//! How much memory this process may take: that of the machine, or what its cgroup allows.

/// What is assumed where nothing can be read.
const UNKNOWN: u64 = 1 << 30;

/// The memory of the machine, or the limit of the cgroup (v1 or v2) where that is less, in bytes.
pub(super) fn detect() -> u64 {
    of(|path| std::fs::read_to_string(path).ok())
}

/// As [`detect`], where files are what `read` says.
fn of(read: impl Fn(&str) -> Option<String>) -> u64 {
    let machine = read("/proc/meminfo").and_then(|text| total(&text));
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group(line, &read));
    limits.chain(machine).min().unwrap_or(UNKNOWN)
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of a group and of those it is in; `line` is one of `/proc/self/cgroup`.
fn group(line: &str, read: &impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        some if some.split(',').any(|one| one == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    // In a container the path may be the host's: then the mount's own root has the limit.
    let mut path = path.trim_end_matches('/');
    let mut least = None;
    loop {
        let limit = read(&format!("{root}{path}/{file}"));
        // Without a limit v2 says `max`, and v1 a number beyond any machine.
        let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
        least = least.into_iter().chain(limit).min();
        match path.rsplit_once('/') {
            Some((outer, _)) => path = outer,
            None => return least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16000 kB\nMemFree:         1000 kB\n";

    /// A path, and what stands there.
    type File = (&'static str, &'static str);

    fn with(files: &[File]) -> u64 {
        of(|path| {
            let all = [&[("/proc/meminfo", MEMINFO)], files].concat();
            all.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_least_of_machine_and_groups_counts() {
        let v2 = ("/proc/self/cgroup", "0::/a.slice/b.scope\n");
        let v1 = ("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n");
        let cases: [(&str, &[File], u64); 8] = [
            ("none", &[], 16_384_000),
            ("v2 none", &[v2, ("/sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n")], 16_384_000),
            ("v2", &[v2, ("/sys/fs/cgroup/a.slice/b.scope/memory.max", "4096\n")], 4_096),
            ("v2 outer", &[v2, ("/sys/fs/cgroup/a.slice/memory.max", "8192\n")], 8_192),
            ("v2 container", &[v2, ("/sys/fs/cgroup/memory.max", "9000\n")], 9_000),
            (
                "v1",
                &[v1, ("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "5000\n")],
                5_000,
            ),
            (
                "v1 container",
                &[v1, ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "6000\n")],
                6_000,
            ),
            (
                "v1 none",
                &[v1, ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")],
                16_384_000,
            ),
        ];
        for (name, files, bytes) in cases {
            assert_eq!(with(files), bytes, "{name}");
        }
        assert_eq!(of(|_| None), UNKNOWN);
        assert!(detect() > 1 << 20, "this machine has some");
    }
}
