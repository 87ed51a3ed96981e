//! Slices and marks of a run, whatever its length.

use super::*;

fn mark(number: u64, delivered: u64) -> Mark {
    let own = Sample { rss_bytes: 1 << 20, cpu_ns: number * SLICE / 2, system_ns: 0 };
    let total = Total { delivered, ..Total::default() };
    Mark { number, at: number * SLICE, phase: Phase::Measure, total, server: Some(own), own }
}

#[test]
fn each_slice_has_its_own_latencies_and_rates() {
    let (mut one, mut two) = (Slices::new(), Slices::new());
    for (number, millis) in [(10, 1), (11, 5)] {
        one.record(number * SLICE + 1, millis * 1_000_000);
        two.record((number + 1) * SLICE - 1, millis * 1_000_000);
    }
    let mut marks = Marks::default();
    for (number, delivered) in [(10, 0), (11, 100), (12, 300), (13, 300)] {
        marks.add(mark(number, delivered));
    }
    let series = marks.series([&one, &two].into_iter(), 10 * SLICE);
    let points = &series.points;
    assert_eq!((series.every_ms, points.len()), (200.0, 3));
    assert_eq!(points.iter().map(|p| p.at_s).collect::<Vec<_>>(), [0.2, 0.4, 0.6]);
    let rates: Vec<_> = points.iter().map(|p| p.delivered_per_second).collect();
    assert_eq!(rates, [500.0, 1_000.0, 0.0]);
    let medians: Vec<_> = points.iter().map(|p| p.p50_ms.map(f64::round)).collect();
    assert_eq!(medians, [Some(1.0), Some(5.0), None]);
    assert_eq!((points[0].client_cores, points[0].server_cores), (0.5, Some(0.5)));
}

#[test]
fn a_long_run_keeps_every_value_in_fewer_slices() {
    let (mut slices, mut marks) = (Slices::new(), Marks::default());
    let last = 10 * SLICES_MAX as u64;
    for number in 1..=last {
        slices.record(number * SLICE + 7, 1_000_000);
        marks.add(mark(number, number));
    }
    assert!(slices.done.len() < SLICES_MAX);
    let mut all = BTreeMap::new();
    slices.pour(slices.shift, &mut all);
    assert_eq!(all.values().map(Histogram::len).sum::<u64>(), last);
    let series = marks.series([&slices].into_iter(), 0);
    assert!((SLICES_MAX / 4..=SLICES_MAX).contains(&series.points.len()));
    assert!(series.every_ms > 2_000.0, "{}", series.every_ms);
    assert!(series.points.iter().skip(1).all(|point| point.p50_ms.is_some()));
}

#[test]
fn nothing_recorded_is_an_empty_series() {
    let series = Marks::default().series([].into_iter(), 0);
    assert!(series.points.is_empty());
}
