//! Durations and sizes as people write them, and back.

const DURATIONS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// The milliseconds of `250ms`, `5s`, `10m`, `1h` or `0`; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (number, unit) = split(text);
    let (_, scale) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// A duration in the largest unit that holds it exactly.
pub(super) fn show_duration(ms: u64) -> String {
    show(ms, &DURATIONS)
}

/// The bytes of `1024`, `64KiB`, `16MiB` or `1GiB`; `None` for anything else.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let number = number.parse::<u64>().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, scale) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*scale)
}

/// A size in the largest unit that holds it exactly.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

/// Digits in front, and what follows them.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn show(number: u64, units: &[(&str, u64)]) -> String {
    match units.iter().find(|(_, scale)| number > 0 && number.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", number / scale),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_written() {
        for (text, ms) in [("0", 0), ("250ms", 250), ("5s", 5000), ("10m", 600_000)] {
            assert_eq!(parse_duration(text), Some(ms), "{text}");
            assert_eq!(show_duration(ms), text);
        }
        assert_eq!(parse_duration("1h"), Some(3_600_000));
        for (text, bytes) in [("0", 0), ("1000", 1000), ("64KiB", 65_536), ("16MiB", 16 << 20)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(parse_size("1GiB"), Some(1 << 30));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "5", "s", "1.5s", "-1s", "+1s", "5 s", "5S", "99999999999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "1 KiB", "1kb", "1MB", "18446744073709551615GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
