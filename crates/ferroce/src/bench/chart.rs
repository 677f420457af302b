// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as a picture: what is left out of `--only` is left out of it.

use anyhow::{anyhow, Result};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plan::{bytes, grouped, Better, Driver, Exchange, OneSided, Quantity, Which, LARGEST};
use super::table::{Row, Spread};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Points = Vec<(f64, Spread)>;

/// The size of a chart, of which two are beside each other, in pixels.
const WIDTH: u32 = 600;
const HEIGHT: u32 = 420;
const TITLE: u32 = 76;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(225, 225, 225);

fn color(driver: Driver) -> RGBColor {
    match driver {
        Driver::Ferroce => RGBColor(206, 84, 34),
        Driver::Rxe | Driver::Ucx => RGBColor(60, 104, 160),
    }
}

/// Two drivers, which are compared.
type Both = [Driver; 2];

/// Draws what there is of charts, as SVG.
pub fn draw(rows: &[Row], drivers: Both, title: &str) -> Result<String> {
    type Chart = fn(&[Row], Both, &Area) -> Result<()>;
    let has = |of: fn(&Quantity) -> bool| rows.iter().any(|r| of(&r.quantity));
    let mut charts: Vec<Chart> = Vec::new();
    // One size makes no line.
    let mut sizes = rows.iter().filter_map(|row| match row.quantity {
        Quantity::Bandwidth { size, .. } => Some(size),
        _ => None,
    });
    let first = sizes.next();
    if sizes.any(|size| Some(size) != first) {
        charts.push(bandwidth);
    }
    if has(|q| matches!(q, Quantity::QueuePairRate { .. })) {
        charts.push(queue_pairs);
    }
    if has(|q| matches!(q, Quantity::Latency { .. } | Quantity::Pingpong)) {
        charts.push(latency);
    }
    if rows.iter().any(|r| r.ratio.is_some()) {
        charts.push(ratios);
    }
    let columns = charts.len().clamp(1, 2);
    let lines = charts.len().div_ceil(2).max(1);
    let size = (WIDTH * columns as u32, HEIGHT * lines as u32 + TITLE);
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (head, body) = root.split_vertically(TITLE);
        heading(&head, drivers, title)?;
        for (chart, area) in charts.iter().zip(body.split_evenly((lines, columns))) {
            chart(rows, drivers, &area)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(picture)
}

/// The title, and which color is whose.
fn heading(area: &Area, drivers: Both, title: &str) -> Result<()> {
    let text = |text: &str, place, size: u32| {
        let style = (FONT, size).into_font().color(&INK);
        area.draw(&Text::new(text.to_owned(), place, style))
    };
    text(title, (16, 16), 20).map_err(failed)?;
    for (x, driver) in [16, 116].into_iter().zip(drivers) {
        let square = Rectangle::new([(x, 48), (x + 12, 60)], color(driver).filled());
        area.draw(&square).map_err(failed)?;
        text(driver.name(), (x + 20, 47), 14).map_err(failed)?;
    }
    text("medians, and from the least to the greatest", (230, 47), 14).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the charts: {error}")
}

/// The values of a driver along an axis.
fn points(rows: &[Row], driver: Driver, x: impl Fn(&Quantity) -> Option<f64>) -> Points {
    rows.iter()
        .filter_map(|row| Some((x(&row.quantity)?, row.of(driver)?)))
        .collect()
}

/// From a tenth below to a tenth above all that is drawn, on a logarithmic axis.
fn range<'a>(values: impl Iterator<Item = &'a f64> + Clone) -> std::ops::Range<f64> {
    let min = values.clone().copied().fold(f64::MAX, f64::min);
    let max = values.copied().fold(f64::MIN_POSITIVE, f64::max);
    min / 1.4..max * 1.4
}

fn heights<'a>(series: impl Iterator<Item = &'a Points>) -> std::ops::Range<f64> {
    let values: Vec<f64> = series.flatten().flat_map(|(_, s)| [s.min, s.max]).collect();
    range(values.iter().filter(|v| **v > 0.0))
}

/// Positions along an axis, each with a label.
#[derive(Clone)]
struct Marks(std::ops::Range<f64>, Vec<f64>);

/// A logarithmic axis with the marks that are wanted, instead of powers of ten.
impl Ranged for Marks {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value / self.0.start).ln() / (self.0.end / self.0.start).ln();
        limit.0 + (f64::from(limit.1 - limit.0) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.1.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0.clone()
    }
}

/// Powers of ten.
fn decades(range: std::ops::Range<f64>) -> Marks {
    let from = range.start.log10().ceil() as i32;
    let to = range.end.log10().floor() as i32;
    let mut marks: Vec<f64> = (from..=to).map(|n| 10_f64.powi(n)).collect();
    if marks.len() < 3 {
        let between = (from - 1..=to).flat_map(|n| [2.0, 5.0].map(|m| m * 10_f64.powi(n)));
        marks.extend(between.filter(|m| range.contains(m)));
        marks.sort_by(f64::total_cmp);
    }
    Marks(range, marks)
}

fn label(value: f64) -> String {
    match value {
        1.0.. => grouped(value as u32),
        _ => format!("{value}"),
    }
}

/// A line through medians, with whiskers from the least to the greatest.
struct Line {
    color: RGBColor,
    /// Drawn with gaps.
    dashed: bool,
    points: Points,
}

fn lines(
    area: &Area,
    title: &str,
    x: Marks,
    x_label: &dyn Fn(&f64) -> String,
    series: &[Line],
) -> Result<()> {
    let height = heights(series.iter().map(|s| &s.points));
    let mut chart = builder(area, title)
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(x, decades(height))
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_label_formatter(x_label)
        .y_label_formatter(&|v| label(*v))
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .draw()
        .map_err(failed)?;
    for Line {
        color,
        dashed,
        points,
    } in series
    {
        let style = color.stroke_width(2);
        let medians = points.iter().map(|(x, s)| (*x, s.median));
        let drawn = if *dashed {
            chart.draw_series(DashedLineSeries::new(medians, 7, 5, style))
        } else {
            chart.draw_series(LineSeries::new(medians, style))
        };
        drawn.map_err(failed)?;
        let whiskers = points
            .iter()
            .map(|(x, s)| PathElement::new([(*x, s.min), (*x, s.max)], color.stroke_width(1)));
        chart.draw_series(whiskers).map_err(failed)?;
        let dots = points
            .iter()
            .map(|(x, s)| Circle::new((*x, s.median), 3, color.filled()));
        chart.draw_series(dots).map_err(failed)?;
    }
    Ok(())
}

fn builder<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(12)
        .margin_right(24)
        .caption(title, (FONT, 16).into_font().color(&INK));
    builder
}

fn bandwidth(rows: &[Row], drivers: Both, area: &Area) -> Result<()> {
    let mut series = Vec::new();
    for driver in drivers {
        for (what, dashed) in [(OneSided::Write, false), (OneSided::Read, true)] {
            let points = points(rows, driver, |quantity| match quantity {
                Quantity::Bandwidth { operation, size } if *operation == what => Some(*size as f64),
                _ => None,
            });
            if !points.is_empty() {
                series.push(Line {
                    color: color(driver),
                    dashed,
                    points,
                });
            }
        }
    }
    let memcpy = points(rows, Driver::Ferroce, |quantity| {
        (*quantity == Quantity::Memcpy { size: LARGEST }).then_some(LARGEST as f64)
    });
    if !memcpy.is_empty() {
        series.push(Line {
            color: INK,
            dashed: false,
            points: memcpy,
        });
    }
    let mut sizes: Vec<f64> = series.iter().flat_map(|s| &s.points).map(|p| p.0).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let marks = Marks(range(sizes.iter()), sizes);
    lines(
        area,
        "Bandwidth of writes (dashed: reads; black: memcpy), MiB/s",
        marks,
        &|size| bytes(*size as u64),
        &series,
    )
}

fn queue_pairs(rows: &[Row], drivers: Both, area: &Area) -> Result<()> {
    let series = drivers.map(|driver| Line {
        color: color(driver),
        dashed: false,
        points: points(rows, driver, |quantity| match quantity {
            Quantity::QueuePairRate { count } => Some(f64::from(*count)),
            _ => None,
        }),
    });
    let counts: Vec<f64> = series[0].points.iter().map(|p| p.0).collect();
    let marks = Marks(range(counts.iter()), counts);
    lines(
        area,
        "Messages of 8 B by number of queue pairs, thousands a second",
        marks,
        &|count| grouped(*count as u32),
        &series,
    )
}

/// Rows below each other, each with a name: row n is around n + 0.5.
#[derive(Clone)]
struct Slots(usize);

impl Ranged for Slots {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        // From the top down.
        let part = 1.0 - value / self.0 as f64;
        limit.0 + (f64::from(limit.1 - limit.0) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0).map(|n| n as f64 + 0.5).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        0.0..self.0 as f64
    }
}

type Slotted<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Marks, Slots>>;

fn slotted<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    x: std::ops::Range<f64>,
    names: &[String],
) -> Result<Slotted<'a, 'b>> {
    let mut chart = builder(area, title)
        .x_label_area_size(46)
        .y_label_area_size(170)
        .build_cartesian_2d(decades(x), Slots(names.len()))
        .map_err(failed)?;
    let name = |row: &f64| names.get(*row as usize).cloned().unwrap_or_default();
    chart
        .configure_mesh()
        .x_label_formatter(&|v| label(*v))
        .y_label_formatter(&name)
        .disable_y_mesh()
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

fn latency(rows: &[Row], drivers: Both, area: &Area) -> Result<()> {
    let wanted =
        |quantity: &Quantity| matches!(quantity, Quantity::Latency { .. } | Quantity::Pingpong);
    let rows: Vec<&Row> = rows.iter().filter(|r| wanted(&r.quantity)).collect();
    let names: Vec<String> = rows.iter().map(|r| r.quantity.to_string()).collect();
    let series = drivers.map(|driver| -> Points {
        let rows = rows.iter().enumerate();
        rows.filter_map(|(n, row)| Some((n as f64 + 0.5, row.of(driver)?)))
            .collect()
    });
    let title = match rows.iter().any(|r| r.quantity == Quantity::Pingpong) {
        true => "Latency of 8 B, and ping-pong, µs",
        false => "Latency of 8 B, µs",
    };
    let mut chart = slotted(area, title, heights(series.iter()), &names)?;
    for (driver, points) in drivers.into_iter().zip(&series) {
        // One a little above the other.
        let shift = match driver {
            Driver::Ferroce => -0.12,
            Driver::Rxe | Driver::Ucx => 0.12,
        };
        let color = color(driver);
        let whiskers = points.iter().map(|(y, s)| {
            let y = y + shift;
            PathElement::new([(s.min, y), (s.max, y)], color.stroke_width(2))
        });
        chart.draw_series(whiskers).map_err(failed)?;
        let dots = points
            .iter()
            .map(|(y, s)| Circle::new((s.median, y + shift), 5, color.filled()));
        chart.draw_series(dots).map_err(failed)?;
    }
    Ok(())
}

/// Which rows stand for their like, where there are many.
fn telling(quantity: &Quantity) -> bool {
    match quantity {
        Quantity::Bandwidth { size, .. } => [64 << 10, LARGEST].contains(size),
        Quantity::QueuePairRate { count } => *count > 1,
        Quantity::Latency { exchange, which } => {
            (exchange, which) == (&Exchange::Write, &Which::Percentile99)
                || *which == Which::Typical
        }
        Quantity::OfMemcpy { .. } | Quantity::OfOneQueuePair { .. } => false,
        other => other.better() != Better::Neither,
    }
}

fn ratios(rows: &[Row], [ours, theirs]: Both, area: &Area) -> Result<()> {
    let rows = rows
        .iter()
        .filter(|row| row.ratio.is_some() && (row.goal.is_some() || telling(&row.quantity)));
    let names: Vec<String> = rows.clone().map(|r| r.quantity.to_string()).collect();
    let ratios: Vec<f64> = rows.clone().filter_map(|r| Some(r.ratio?.median)).collect();
    let goals: Vec<(usize, f64)> = rows
        .enumerate()
        .filter_map(|(n, r)| Some((n, r.goal?)))
        .collect();
    let mut values = ratios.clone();
    values.extend(goals.iter().map(|(_, goal)| goal));
    values.push(1.0);
    let title = match goals[..] {
        [] => "How many times as good ferroce is",
        _ => "How many times as good ferroce is (black: the goal)",
    };
    let x = range(values.iter());
    // Room for the numbers.
    let mut chart = slotted(area, title, x.start..x.end * 1.6, &names)?;
    let bars = ratios.iter().enumerate().map(|(n, ratio)| {
        let driver = if *ratio >= 1.0 { ours } else { theirs };
        let y = n as f64;
        Rectangle::new([(1.0, y + 0.2), (*ratio, y + 0.8)], color(driver).filled())
    });
    chart.draw_series(bars).map_err(failed)?;
    let marks = goals.iter().map(|(n, goal)| {
        let y = *n as f64;
        PathElement::new([(*goal, y + 0.1), (*goal, y + 0.9)], INK.stroke_width(2))
    });
    chart.draw_series(marks).map_err(failed)?;
    let numbers = ratios.iter().enumerate().map(|(n, ratio)| {
        let text = match ratio {
            ..1.0 => format!("{ratio:.2}"),
            ..10.0 => format!("{ratio:.1}"),
            _ => format!("{ratio:.0}"),
        };
        let style = (FONT, 13).into_font().color(&INK);
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        EmptyElement::at((ratio.max(1.0), n as f64 + 0.5)) + Text::new(text, (6, 0), style)
    });
    chart.draw_series(numbers).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_marks_at_powers_of_ten_or_more_where_these_are_few() {
        assert_eq!(decades(0.5..2000.0).1, [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(decades(3.0..40.0).1, [5.0, 10.0, 20.0]);
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let spread = |median| {
            Some(Spread {
                median,
                min: median / 2.0,
                max: median * 2.0,
            })
        };
        let row = Row {
            quantity: Quantity::Pingpong,
            ferroce: spread(10.0),
            other: spread(100.0),
            ratio: spread(10.0),
            goal: None,
        };
        let picture = draw(std::slice::from_ref(&row), Driver::GUEST, "a title").unwrap();
        assert!(picture.contains("a title"));
        assert!(picture.contains("Latency"));
        assert!(!picture.contains("Bandwidth"));
        assert!(picture.contains("rdma_rxe") && !picture.contains("the goal"));
        let row = Row {
            goal: Some(0.5),
            ..row
        };
        let picture = draw(&[row], Driver::NATIVE, "a title").unwrap();
        assert!(picture.contains("UCX") && picture.contains("the goal"));
        let empty = draw(&[], Driver::GUEST, "a title").unwrap();
        assert!(empty.contains("a title"));
    }
}
