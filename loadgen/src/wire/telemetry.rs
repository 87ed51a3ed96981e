//! Data as a producer of telemetry writes it: a snapshot of a machine's metrics, objects with the
//! same fields, whose figures change from one event to the next.

use crate::wire::payload;

/// What is measured of each part of the machine, its unit, and the figure's range in hundredths.
const METRICS: [(&str, &str, u64); 8] = [
    ("cpu.user", "percent", 10_000),
    ("cpu.system", "percent", 10_000),
    ("cpu.temperature", "celsius", 9_500),
    ("disk.read", "mb_per_second", 90_000),
    ("disk.write", "mb_per_second", 90_000),
    ("net.received", "mb_per_second", 125_000),
    ("net.sent", "mb_per_second", 125_000),
    ("memory.used", "percent", 10_000),
];
/// A row is never shorter.
const ROW_BYTES_MIN: usize = 90;
/// The least data that holds a row and its marks.
pub(crate) const BYTES_MIN: u32 = 400;

/// One metric, in hundredths of its unit.
#[derive(Debug)]
struct Row {
    /// The row's text up to its figures.
    head: String,
    range: u64,
    value: u64,
    min: u64,
    max: u64,
    sum: u64,
    samples: u64,
}

/// A machine and its metrics.
#[derive(Debug)]
pub(crate) struct Telemetry {
    rows: Vec<Row>,
    dice: fastrand::Rng,
}

impl Telemetry {
    /// A machine with as many metrics as fit into so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        // Runs of the same shape publish the same figures.
        let mut dice = fastrand::Rng::with_seed(0x5EED);
        let row = |nth: usize| {
            let (name, unit, range) = METRICS[nth % METRICS.len()];
            let part = nth / METRICS.len();
            let value = dice.u64(range / 10..range);
            let head = format!(r#"{{"name":"{name}","part":{part},"unit":"{unit}","value":"#);
            Row { head, range, value, min: value, max: value, sum: value, samples: 1 }
        };
        let rows = (0..bytes / ROW_BYTES_MIN).map(row).collect();
        Self { rows, dice }
    }

    /// Appends an object of `bytes` bytes, or as many as its marks need, with the next figures.
    pub(crate) fn push(&mut self, marks: &[(&str, u64)], bytes: usize, out: &mut Vec<u8>) {
        let start = out.len();
        payload::push_marks(marks, out);
        out.extend_from_slice(br#""host":"node-17","metrics":["#);
        let first = out.len();
        for row in &mut self.rows {
            row.measure(&mut self.dice);
            let before = out.len();
            if before > first {
                out.push(b',');
            }
            row.push(out);
            // What closes the object is to follow.
            if out.len() - start + br#"],"fill":""}"#.len() > bytes {
                out.truncate(before);
                break;
            }
        }
        out.extend_from_slice(b"],");
        payload::push_fill(bytes.saturating_sub(out.len() - start), out);
    }
}

impl Row {
    /// The figure goes up or down by up to a fiftieth of its range.
    fn measure(&mut self, dice: &mut fastrand::Rng) {
        let step = self.range / 50;
        let moved = (self.value + dice.u64(0..=2 * step)).saturating_sub(step);
        self.value = moved.min(self.range);
        self.min = self.min.min(self.value);
        self.max = self.max.max(self.value);
        self.sum += self.value;
        self.samples += 1;
    }

    fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.as_bytes());
        push_hundredths(self.value, out);
        let mean = self.sum / self.samples;
        for (name, figure) in [("min", self.min), ("max", self.max), ("mean", mean)] {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            push_hundredths(figure, out);
        }
        out.extend_from_slice(b",\"samples\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.samples).as_bytes());
        out.push(b'}');
    }
}

/// A number with two decimals.
fn push_hundredths(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number / 100).as_bytes());
    let rest = number % 100;
    let [tens, ones] = [rest / 10, rest % 10].map(|digit| b'0' + digit.to_le_bytes()[0]);
    out.extend_from_slice(&[b'.', tens, ones]);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::Value;

    use super::*;

    fn event(telemetry: &mut Telemetry, bytes: usize) -> (Value, Vec<u8>) {
        let mut out = b"before".to_vec();
        telemetry.push(&[("ts", 42), ("seq", 7), ("ch", 0)], bytes, &mut out);
        let text = out.split_off(6);
        (serde_json::from_slice(&text).expect("JSON"), text)
    }

    #[test]
    fn telemetry_is_json_to_the_byte_and_begins_with_its_marks() {
        for bytes in [BYTES_MIN as usize, 1_000, 4_001, 64_000] {
            let mut telemetry = Telemetry::new(bytes);
            for _ in 0..10 {
                let (read, text) = event(&mut telemetry, bytes);
                assert_eq!(text.len(), bytes);
                assert!(text.starts_with(br#"{"ts":42,"seq":7,"ch":0,"#));
                let rows = read["metrics"].as_array().expect("rows");
                let fill = read["fill"].as_str().expect("text");
                assert!(!rows.is_empty() && fill.len() < 150, "{} filled", fill.len());
            }
        }
    }

    #[test]
    fn every_figure_changes_and_stays_in_its_range() {
        let mut telemetry = Telemetry::new(64_000);
        let (first, _) = event(&mut telemetry, 64_000);
        let (second, _) = event(&mut telemetry, 64_000);
        let rows = |event: &Value| event["metrics"].as_array().expect("rows").clone();
        let changed = rows(&first)
            .iter()
            .zip(&rows(&second))
            .filter(|(before, after)| before["value"] != after["value"])
            .count();
        assert!(rows(&first).len() > 400 && changed * 10 > rows(&first).len() * 9, "{changed}");
        for _ in 0..200 {
            event(&mut telemetry, 64_000);
        }
        for row in rows(&event(&mut telemetry, 64_000).0) {
            let [min, mean, max] = ["min", "mean", "max"].map(|name| row[name].as_f64());
            assert!(min <= mean && mean <= max && max <= Some(1_250.0), "{row}");
        }
    }

    #[test]
    fn it_is_no_easier_to_compress_than_telemetry_is() {
        let (_, text) = event(&mut Telemetry::new(64_000), 64_000);
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&text).expect("memory");
        let packed = encoder.finish().expect("memory").len();
        // Fields repeat and figures do not.
        assert!((8_000..20_000).contains(&packed), "{packed} bytes");
    }
}
