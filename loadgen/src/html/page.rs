//! The page of one report.

use std::fmt::Write;
use std::ops::Range;

use crate::html::plot::{Line, Plot, Scale, figure, nines};
use crate::latency::Summary;
use crate::report::Report;
use crate::series::Point;

const STYLE: &str = include_str!("page.css");

/// Two points that are further apart than any percentile: the largest value stands behind.
const LAST_STEP: f64 = 0.3;

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut main = String::new();
    let title = format!("weir-loadgen {}", report.scenario);
    put(&mut main, format_args!("<h1>{}</h1>", escape(&title)));
    put(&mut main, format_args!("<p class=url>{}</p>", escape(&report.url)));
    verdict(&mut main, report);
    tiles(&mut main, report);
    main.push_str("<div class=plots>\n");
    for plot in plots(report) {
        figure_of(&mut main, &plot);
    }
    main.push_str("</div>\n<h2>Figures</h2>\n");
    let rows: Vec<(String, String)> = report.rows();
    table(&mut main, &rows);
    main.push_str("<h2>Run</h2>\n");
    table(&mut main, &run(report));
    document(&title, &main)
}

/// A page with the common head and style.
pub(crate) fn document(title: &str, main: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{main}</main>\n</body>\n</html>\n"
    )
}

/// Text that HTML takes as text.
pub(crate) fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// Writing to a `String` cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).ok();
    out.push('\n');
}

fn verdict(out: &mut String, report: &Report) {
    let broken = report.verdict.as_ref().map_or(0, |verdict| verdict.violations);
    let (class, text) = match (broken, report.invalid.is_empty()) {
        (1.., _) => ("bad", format!("Promise broken: {broken} violations")),
        (0, false) => ("bad", "Invalid: these figures must not be used".to_owned()),
        (0, true) if report.verdict.is_some() => {
            ("good", "Valid, every offset accounted for".to_owned())
        }
        (0, true) => ("good", "Valid".to_owned()),
    };
    put(out, format_args!("<p class=\"verdict {class}\">{}</p>", escape(&text)));
    let listed = report.verdict.iter().flat_map(|verdict| verdict.listed.iter().take(20));
    let mut lines: Vec<String> = report.invalid.iter().map(|why| why.text.clone()).collect();
    lines.extend(listed.map(ToString::to_string));
    lines.extend(report.notes.iter().map(|note| format!("Note: {note}")));
    if !lines.is_empty() {
        out.push_str("<ul>\n");
        for line in lines {
            put(out, format_args!("<li>{}</li>", escape(&line)));
        }
        out.push_str("</ul>\n");
    }
}

/// What flows in a run: how much a second, of what, and how late.
fn flow(report: &Report) -> Option<(f64, &'static str, Option<Summary>)> {
    let fanout = report.fanout.as_ref();
    let fanout = fanout.map(|all| (all.delivered_per_second, "deliveries/s", all.latency));
    let publish = report.sections.publish.as_ref();
    let publish = publish.map(|all| (all.accepted_per_second, "accepted/s", all.latency));
    let echo = report.sections.echo.as_ref();
    let echo = echo.map(|all| (all.answered_per_second, "answers/s", all.latency));
    fanout.or(publish).or(echo)
}

/// The figures that a reader looks for first.
fn tiles(out: &mut String, report: &Report) {
    let mut tiles = Vec::new();
    if let Some((per_second, unit, latency)) = flow(report) {
        tiles.push((figure(per_second), unit));
        if let Some(latency) = latency {
            tiles.push((format!("{} ms", figure(latency.p50_ms)), "latency p50"));
            tiles.push((format!("{} ms", figure(latency.p99_ms)), "latency p99"));
        }
    } else {
        tiles.push((figure(report.connect.per_second), "connections/s"));
        if let Some(handshake) = &report.connect.handshake {
            tiles.push((format!("{} ms", figure(handshake.p99_ms)), "handshake p99"));
        }
    }
    if let Some(recover) = &report.sections.recover {
        let p99 = |summary: Option<Summary>| summary.map(|summary| summary.p99_ms);
        let back = p99(recover.until_back).map(|ms| (ms, "back p99"));
        let served = p99(recover.until_served).map(|ms| (ms, "served p99"));
        let both = back.into_iter().chain(served);
        tiles.extend(both.map(|(ms, name)| (format!("{} ms", figure(ms)), name)));
        let worst = recover.rounds.iter().map(|round| round.served_seconds).reduce(f64::max);
        tiles.extend(worst.map(|s| (format!("{} s", figure(s)), "slowest storm, all served")));
    }
    if let Some(idle) = report.idle.as_ref().filter(|_| report.server.is_some()) {
        let bytes = idle.server_bytes_per_connection;
        let shown = bytes.map_or("not measurable".to_owned(), |bytes| format!("{bytes:.0} B"));
        tiles.push((shown, "server memory per connection"));
    }
    if let Some(server) = &report.server {
        tiles.push((format!("{:.2}", server.cores), "server cores"));
    }
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ready = report.connect.ready as f64;
    tiles.push((figure(ready), "connections"));
    out.push_str("<div class=tiles>\n");
    for (value, name) in tiles {
        put(out, format_args!("<div><b>{}</b>{name}</div>", escape(&value)));
    }
    out.push_str("</div>\n");
}

fn table(out: &mut String, rows: &[(String, String)]) {
    out.push_str("<table>\n");
    for (name, value) in rows {
        put(out, format_args!("<tr><th>{}<td>{}", escape(name), escape(value)));
    }
    out.push_str("</table>\n");
}

fn run(report: &Report) -> Vec<(String, String)> {
    let host = &report.host;
    let mib = host.memory_bytes >> 20;
    let sizes: Vec<String> =
        report.sizes.iter().map(|(name, size)| format!("{name} {size}")).collect();
    [
        ("command", report.command.join(" ")),
        ("sizes", sizes.join(", ")),
        ("CPU", format!("{}, {} cores", host.cpu, host.cores)),
        ("memory", format!("{mib} MiB")),
        ("kernel", host.kernel.clone()),
        ("generator", format!("weir-loadgen {}", report.version)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn figure_of(out: &mut String, plot: &Plot) {
    let Some(svg) = plot.svg() else { return };
    put(out, format_args!("<figure><figcaption>{}", escape(plot.title)));
    for (at, line) in plot.lines.iter().enumerate() {
        let name = escape(&line.name);
        put(out, format_args!("<span class=key><i class=line{at}></i>{name}</span>"));
    }
    if plot.band.is_some() {
        put(out, format_args!("<span class=key><i class=band></i>measured</span>"));
    }
    put(out, format_args!("</figcaption>\n{svg}</figure>"));
}

/// Every plot that this report has points for.
fn plots(report: &Report) -> Vec<Plot> {
    let mut plots = Vec::new();
    percentiles(&mut plots, report, ("Latency by percentile", &["latency"]));
    let points = &report.series.points;
    let over_time = |title, y_name, lines: &[(&str, Value)]| {
        let lines = lines.iter().map(|(name, value)| {
            let points = points.iter().filter_map(|p| Some((p.at_s, value(p)?)));
            Line { name: (*name).to_owned(), points: points.collect() }
        });
        let lines = lines.filter(|line| !line.points.is_empty()).collect();
        let (scale, band) = (Scale::Time, measured(points));
        Plot { title, x_name: "seconds", y_name, scale, lines, band }
    };
    if let Some((_, unit, _)) = flow(report) {
        let delivered: Value = |p| Some(p.delivered_per_second);
        plots.push(over_time("Throughput", unit, &[(report.words().done, delivered)]));
        let latencies: [(&str, Value); 2] = [("p50", |p| p.p50_ms), ("p99", |p| p.p99_ms)];
        plots.push(over_time("Latency over time", "ms", &latencies));
    }
    plots.push(over_time(
        "Memory",
        "MiB resident",
        &[
            ("server", |p| p.server_rss_bytes.map(mib)),
            ("generator", |p| Some(mib(p.client_rss_bytes))),
        ],
    ));
    plots.push(over_time(
        "CPU",
        "cores",
        &[("server", |p| p.server_cores), ("generator", |p| Some(p.client_cores))],
    ));
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ready: Value = |p| Some(p.ready.saturating_sub(p.away) as f64);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let away: Value = |p| Some(p.away as f64);
    let come_and_go = [("ready", ready), ("away", away)];
    let is_moving = points.iter().any(|point| point.away > 0);
    let lines = if is_moving { come_and_go.as_slice() } else { &come_and_go[..1] };
    plots.push(over_time("Connections", "connections", lines));
    percentiles(&mut plots, report, ("Opening by percentile", &["handshake", "until_ready"]));
    let returns = ["until_back", "until_served", "answered"];
    percentiles(&mut plots, report, ("Returns and commands by percentile", &returns));
    plots
}

/// What a line over time shows of a point.
type Value = fn(&Point) -> Option<f64>;

/// From the first to the last measured point.
fn measured(points: &[Point]) -> Option<Range<f64>> {
    let mut measured = points.iter().filter(|point| point.phase == "measure");
    let first = measured.next()?.at_s;
    Some(first..measured.next_back().map_or(first, |point| point.at_s))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn percentiles(plots: &mut Vec<Plot>, report: &Report, (title, names): (&'static str, &[&str])) {
    let wanted = report.distributions.iter().filter(|found| names.contains(&found.name));
    let lines: Vec<Line> = wanted
        .map(|found| {
            let mut last = 0.0;
            let points = found.steps.iter().map(|step| {
                last = if step.quantile < 1.0 { nines(step.quantile) } else { last + LAST_STEP };
                (last, step.ms)
            });
            Line { name: found.name.replace('_', " "), points: points.collect() }
        })
        .collect();
    if !lines.is_empty() {
        let (x_name, y_name, scale) = ("percentile", "ms", Scale::Percentiles);
        plots.push(Plot { title, x_name, y_name, scale, lines, band: None });
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
