//! What `/proc` says, parsed.

/// Ticks a core has spent, and those of them at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    pub(super) busy: u64,
    pub(super) all: u64,
}

impl Ticks {
    /// The share at work since `before`, in percent with one decimal.
    pub(super) fn percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let busy = self.busy.saturating_sub(before.busy).min(all);
        ratio(busy, all)
    }
}

/// `part` of `all` in percent, with one decimal.
pub(super) fn ratio(part: u64, all: u64) -> f64 {
    let thousandths = part.saturating_mul(1000).checked_div(all).unwrap_or(0);
    u32::try_from(thousandths).map_or(0.0, |thousandths| f64::from(thousandths) / 10.0)
}

/// The cores of `/proc/stat`, in their order.
pub(super) fn cores(stat: &str) -> Vec<Ticks> {
    stat.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            let number = name.strip_prefix("cpu")?;
            if number.is_empty() {
                return None;
            }
            // user nice system idle iowait irq softirq steal; guest time is within user.
            let ticks: Vec<u64> = rest.split_whitespace().take(8).map_while(number_of).collect();
            let all = ticks.iter().sum();
            let idle = ticks.get(3..5)?.iter().sum::<u64>();
            Some(Ticks { busy: all - idle, all })
        })
        .collect()
}

/// Bytes in all, and bytes available, of `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        number_of(line.split_whitespace().next()?).map(|kib| kib.saturating_mul(1024))
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

/// Bytes received and sent by all interfaces but loopback, of `/proc/net/dev`.
pub(super) fn network(dev: &str) -> (u64, u64) {
    let interfaces = dev.lines().filter_map(|line| line.split_once(':'));
    interfaces
        .filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(_, counters)| {
            let mut counters = counters.split_whitespace();
            Some((number_of(counters.next()?)?, number_of(counters.nth(7)?)?))
        })
        .fold((0, 0), |sum, (received, sent)| {
            (sum.0.saturating_add(received), sum.1.saturating_add(sent))
        })
}

/// The averages of `/proc/loadavg`.
pub(super) fn load(loadavg: &str) -> Option<[f64; 3]> {
    let mut fields = loadavg.split_whitespace().map(|field| field.parse().ok());
    Some([fields.next()??, fields.next()??, fields.next()??])
}

fn number_of(text: &str) -> Option<u64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_and_compared() {
        let before = cores("cpu  9 9 9 9\ncpu0 10 0 10 80 0 0 0 0 5 0\ncpu1 0 0 0 10 5\nintr 5\n");
        assert_eq!(before, [Ticks { busy: 20, all: 100 }, Ticks { busy: 0, all: 15 }]);
        let after = Ticks { busy: 45, all: 200 };
        assert!((after.percent_since(before[0]) - 25.0).abs() < 1e-9);
        assert!(before[0].percent_since(after).abs() < 1e-9, "counters that went back");
    }

    #[test]
    fn memory_network_and_load_are_read() {
        let meminfo = "MemTotal:       2 kB\nMemFree: 0 kB\nMemAvailable:   1 kB\n";
        assert_eq!(memory(meminfo), Some((2048, 1024)));
        assert_eq!(memory("MemTotal: 2 kB\n"), None);
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes    packets|bytes\n    \
                   lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 50 1 0\n  \
                   eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(network(dev), (101, 52));
        assert_eq!(load("0.50 0.25 0.10 1/100 5\n"), Some([0.5, 0.25, 0.1]));
        assert_eq!(load("0.5 x"), None);
        assert_eq!((cores("cpu0 1 2\n"), network("")), (vec![], (0, 0)));
    }
}
