//! The plots of a page: values in, SVG text out. Colours are names that the page's style sheet
//! replaces, so that a plot is readable on light and on dark.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// Text and axes; the style sheet looks for `#010101`.
const INK: RGBColor = RGBColor(1, 1, 1);
/// The mesh: `#020202`.
const GRID: RGBColor = RGBColor(2, 2, 2);
/// What was measured, behind the lines: `#040404`.
const BAND: RGBColor = RGBColor(4, 4, 4);
/// Lines, in the order of the legend: `#030300`, `#030301` and so on.
const LINE: [RGBColor; 3] = [RGBColor(3, 3, 0), RGBColor(3, 3, 1), RGBColor(3, 3, 2)];

const SIZE: (u32, u32) = (640, 300);

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What a plot shows.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x_name: &'static str,
    pub(crate) y_name: &'static str,
    pub(crate) scale: Scale,
    pub(crate) lines: Vec<Line>,
    /// The part of x that was measured.
    pub(crate) band: Option<Range<f64>>,
}

/// What the axes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// x is the number of nines of a percentile, y rises by powers of ten.
    Percentiles,
    /// x is seconds, y begins at 0.
    Time,
}

impl Plot {
    /// The SVG element; `None` when there is nothing to draw.
    pub(crate) fn svg(&self) -> Option<String> {
        let mut text = String::new();
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let x_max = points().map(|(x, _)| x).fold(0.0, f64::max);
        let x_min = points().map(|(x, _)| x).fold(x_max, f64::min);
        let y_max = points().map(|(_, y)| y).fold(0.0, f64::max);
        let y_min = points().map(|(_, y)| y).fold(y_max, f64::min);
        if points().count() < 2 || x_max <= x_min {
            return None;
        }
        match self.scale {
            Scale::Percentiles => {
                let bottom = 10_f64.powf(y_min.max(1e-3).log10().floor());
                let top = 10_f64.powf(y_max.max(1e-3).log10().ceil()).max(bottom * 10.0);
                self.draw(&root, x_min..x_max, (bottom..top).log_scale())
            }
            Scale::Time => {
                let top = if y_max > 0.0 { y_max * 1.1 } else { 1.0 };
                self.draw(&root, 0.0..x_max, 0.0..top)
            }
        }?;
        drop(root);
        Some(text)
    }

    fn draw<Y>(&self, root: &DrawingArea<SVGBackend<'_>, Shift>, x: Range<f64>, y: Y) -> Option<()>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .margin_right(20)
            .x_label_area_size(42)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)
            .ok()?;
        let style = ("sans-serif", 15).into_font().color(&INK);
        let x_label = |x: &f64| match self.scale {
            Scale::Percentiles => percentile(*x),
            Scale::Time => figure(*x),
        };
        if let Some(band) = &self.band {
            let (_, y) = (chart.x_range(), chart.y_range());
            let corners = [(band.start, y.start), (band.end, y.end)];
            chart.draw_series([Rectangle::new(corners, BAND.filled())]).ok()?;
        }
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(style.clone())
            .axis_desc_style(style)
            .x_desc(self.x_name)
            .y_desc(self.y_name)
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&x_label)
            .y_label_formatter(&|y| figure(*y))
            .draw()
            .ok()?;
        for (line, colour) in self.lines.iter().zip(LINE) {
            let style = colour.stroke_width(2);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style)).ok()?;
        }
        root.present().ok()
    }
}

/// The x of a share of values: how many nines it has.
pub(crate) fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// What stands below a whole number of nines.
fn percentile(nines: f64) -> String {
    let whole = nines.round();
    if (nines - whole).abs() > 0.01 {
        return String::new();
    }
    let share = 100.0 - 100.0 * 10_f64.powf(-whole);
    format!("{}%", (share * 1e6).round() / 1e6)
}

/// A number as an axis shows it: short.
pub(crate) fn figure(number: f64) -> String {
    let (number, unit) = match number.abs() {
        size if size >= 1e9 => (number / 1e9, "G"),
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let digits = match number.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{number:.digits$}");
    let short = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{short}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(scale: Scale, points: &[(f64, f64)]) -> Plot {
        let line = Line { name: "a".into(), points: points.to_vec() };
        let (title, x_name, y_name) = ("t", "x", "y");
        Plot { title, x_name, y_name, scale, lines: vec![line], band: Some(1.0..2.0) }
    }

    #[test]
    fn a_plot_is_svg_with_colours_that_the_page_knows() {
        for scale in [Scale::Percentiles, Scale::Time] {
            let svg = plot(scale, &[(0.0, 0.5), (1.0, 20.0), (3.0, 7.0)]).svg().expect("a plot");
            assert!(svg.starts_with("<svg") && svg.contains("</svg>"), "{svg}");
            for colour in ["#010101", "#020202", "#030300", "#040404"] {
                assert!(svg.contains(colour), "{colour}: {svg}");
            }
        }
    }

    #[test]
    fn nothing_or_one_point_is_no_plot() {
        assert_eq!(plot(Scale::Time, &[]).svg(), None);
        assert_eq!(plot(Scale::Time, &[(1.0, 1.0)]).svg(), None);
        assert!(plot(Scale::Time, &[(0.0, 0.0), (1.0, 0.0)]).svg().is_some(), "all zero");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.05, 3.0, 999.0, 12_000.0, 3_450_000.0, 2e9].map(figure);
        assert_eq!(shown, ["0", "0.05", "3", "999", "12k", "3.45M", "2G"]);
        let shares = [0.0, 1.0, 2.0, 3.0, 0.5].map(percentile);
        assert_eq!(shares, ["0%", "90%", "99%", "99.9%", ""]);
    }
}
