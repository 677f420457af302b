// SPDX-License-Identifier: MIT OR Apache-2.0
//! From samples to medians, and to tables of them.

use anyhow::Result;
use comfy_table::{presets, CellAlignment, Table};
use serde::Serialize;
use statrs::statistics::{Data, Max, Min, OrderStatistics};

use super::plan::{Better, Driver, OneSided, Quantity, Sample, LARGEST};

/// The middle of several values, and how far they are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of no values.
    fn of(values: Vec<f64>) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mut data = Data::new(values);
        Some(Self {
            median: data.median(),
            min: data.min(),
            max: data.max(),
        })
    }
}

/// A row: what ferroce did, and the other one.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub quantity: Quantity,
    pub ferroce: Option<Spread>,
    pub other: Option<Spread>,
    /// How many times as good ferroce was in each round.
    pub ratio: Option<Spread>,
    /// The least ratio that ferroce is to have.
    pub goal: Option<f64>,
}

impl Row {
    /// A driver's values.
    pub fn of(&self, driver: Driver) -> Option<Spread> {
        match driver {
            Driver::Ferroce => self.ferroce,
            Driver::Rxe | Driver::Ucx => self.other,
        }
    }
}

/// Puts the rows of ferroce and another together, in the order in which they were
/// measured first. Beside UCX they have goals, and the ratio of many queue pairs is
/// that to one.
pub fn rows(samples: &[Sample], other: Driver) -> Vec<Row> {
    let mut all = Vec::new();
    for sample in samples {
        all.push(sample.clone());
        all.extend(derived(sample, samples));
    }
    let samples = all;
    let mut quantities: Vec<&Quantity> = Vec::new();
    for sample in &samples {
        if !quantities.contains(&&sample.quantity) {
            quantities.push(&sample.quantity);
        }
    }
    quantities
        .into_iter()
        .map(|quantity| {
            let of = |driver| {
                samples
                    .iter()
                    .filter(move |s| s.quantity == *quantity && s.driver == driver)
            };
            let spread = |driver| Spread::of(of(driver).map(|s| s.value).collect());
            let ratios = of(Driver::Ferroce).filter_map(|ours| {
                if let Quantity::OfOneQueuePair { .. } = quantity
                    && other == Driver::Ucx
                {
                    return Some(ours.value / 100.0);
                }
                let theirs = of(other).find(|s| s.round == ours.round)?.value;
                match quantity.better() {
                    Better::Higher => Some(ours.value / theirs),
                    Better::Lower => Some(theirs / ours.value),
                    Better::Neither => None,
                }
            });
            Row {
                quantity: quantity.clone(),
                ferroce: spread(Driver::Ferroce),
                other: spread(other),
                ratio: Spread::of(ratios.filter(|r| r.is_finite()).collect()),
                goal: (other == Driver::Ucx)
                    .then(|| quantity.native_goal())
                    .flatten(),
            }
        })
        .collect()
}

/// What follows from a sample and another one of the same device and round.
fn derived(sample: &Sample, samples: &[Sample]) -> Option<Sample> {
    let (quantity, whole) = match sample.quantity {
        Quantity::Bandwidth {
            operation: OneSided::Write,
            size: size @ LARGEST,
        } => (Quantity::OfMemcpy { size }, Quantity::Memcpy { size }),
        Quantity::QueuePairRate { count } if count > 1 => (
            Quantity::OfOneQueuePair { count },
            Quantity::QueuePairRate { count: 1 },
        ),
        _ => return None,
    };
    let whole = samples
        .iter()
        .find(|s| s.quantity == whole && (s.driver, s.round) == (sample.driver, sample.round))?;
    Some(Sample {
        quantity,
        value: 100.0 * sample.value / whole.value,
        ..sample.clone()
    })
}

/// A number with three digits that count: "0.012", "12.3", "9,876", "12.3k".
fn number(value: f64) -> String {
    let (value, suffix) = match value {
        1e6.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        1e3.. => return super::plan::grouped(value.round() as u32),
        _ => (value, ""),
    };
    let decimals = match value {
        0.0 => 0,
        v if v < 0.001 => return "<0.001".to_owned(),
        v if v < 1.0 => 3,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{suffix}")
}

/// Medians, the least, the greatest, and ratios; and goals if there are any.
pub fn figures(rows: &[Row], other: Driver) -> Option<String> {
    let rows: Vec<_> = rows
        .iter()
        .filter(|r| r.quantity.explains().is_none())
        .collect();
    let other = other.name().to_uppercase();
    let mut header = vec![
        "MEASURED", "UNIT", "FERROCE", "min-max", &other, "min-max", "RATIO",
    ];
    let has_goals = rows.iter().any(|r| r.goal.is_some());
    if has_goals {
        header.extend(["GOAL", "MET"]);
    }
    table(&header, 2, &rows, |row| {
        let mut cells = vec![row.quantity.to_string(), row.quantity.unit().to_owned()];
        for spread in [&row.ferroce, &row.other] {
            let range = |s: Spread| format!("{}-{}", number(s.min), number(s.max));
            cells.push(median(spread));
            cells.push(spread.map_or(String::new(), range));
        }
        let ratio = row.ratio.map(|r| r.median);
        cells.push(ratio.map_or(String::new(), number));
        if has_goals {
            let met = row.goal.zip(ratio).map(|(goal, ratio)| ratio >= goal);
            cells.push(row.goal.map_or(String::new(), number));
            cells.push(
                met.map_or("", |met| if met { "yes" } else { "no" })
                    .to_owned(),
            );
        }
        cells
    })
}

/// Where the time goes, medians: for each size of messages a table.
pub fn explanations(rows: &[Row], other: Driver) -> Vec<(u64, String)> {
    let mut all: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.quantity.explains()?, row)))
        .collect();
    // The sizes and their parts, and in each part that is of shares the greatest
    // one first.
    let greatest = |row: &Row| {
        let median = |spread: &Option<Spread>| spread.map_or(0.0, |s| s.median);
        median(&row.ferroce).max(median(&row.other))
    };
    all.sort_by(
        |((size, part, _), row), ((other_size, other_part, _), other)| {
            let order = size.cmp(other_size).then(part.cmp(other_part));
            match part {
                0 => order,
                _ => order.then(greatest(other).total_cmp(&greatest(row))),
            }
        },
    );
    all.chunk_by(|a, b| a.0 .0 == b.0 .0)
        .filter_map(|rows| {
            let rows: Vec<&Row> = rows.iter().map(|(_, row)| *row).collect();
            let size = rows.first()?.quantity.explains()?.0;
            let other = other.name().to_uppercase();
            let header = ["WHAT", "FERROCE", &other];
            let table = table(&header, 1, &rows, |row| {
                let unit = match row.quantity.unit() {
                    "" => String::new(),
                    unit => format!(" {unit}"),
                };
                let cell = |spread: &Option<Spread>| match spread {
                    Some(s) => number(s.median) + &unit,
                    None => "-".to_owned(),
                };
                let name = row.quantity.explains().unwrap_or_default().2;
                vec![name, cell(&row.ferroce), cell(&row.other)]
            });
            Some((size, table?))
        })
        .collect()
}

fn median(spread: &Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |s| number(s.median))
}

/// `None` without rows. The first columns, `left` of them, are text.
fn table(
    header: &[&str],
    left: usize,
    rows: &[&Row],
    cells: impl Fn(&Row) -> Vec<String>,
) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.iter().map(|row| cells(row)));
    for (index, column) in table.column_iter_mut().enumerate() {
        // A median and its range belong together.
        let gap = if header.get(index + 1) == Some(&"min-max") {
            1
        } else {
            2
        };
        column.set_padding((0, gap));
        if index >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Some(table.trim_fmt())
}

/// The CSV file.
pub fn csv(rows: &[Row], other: Driver) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    let mut header = vec!["measured".to_owned(), "unit".to_owned()];
    for of in ["ferroce", &other.name().to_lowercase(), "ratio"] {
        header.extend(["median", "min", "max"].map(|which| format!("{of}_{which}")));
    }
    writer.write_record(header)?;
    for row in rows {
        writer.serialize(Record::from(row))?;
    }
    Ok(writer.into_inner().map_err(|e| e.into_error())?)
}

/// A row of the CSV file, whose header [`csv()`] writes.
#[derive(Debug, Serialize)]
struct Record {
    measured: String,
    unit: &'static str,
    ferroce_median: Option<f64>,
    ferroce_min: Option<f64>,
    ferroce_max: Option<f64>,
    other_median: Option<f64>,
    other_min: Option<f64>,
    other_max: Option<f64>,
    ratio_median: Option<f64>,
    ratio_min: Option<f64>,
    ratio_max: Option<f64>,
}

impl From<&Row> for Record {
    fn from(row: &Row) -> Self {
        let all = |spread: &Option<Spread>| match spread {
            Some(s) => (Some(s.median), Some(s.min), Some(s.max)),
            None => (None, None, None),
        };
        let (ferroce_median, ferroce_min, ferroce_max) = all(&row.ferroce);
        let (other_median, other_min, other_max) = all(&row.other);
        let (ratio_median, ratio_min, ratio_max) = all(&row.ratio);
        Self {
            measured: row.quantity.to_string(),
            unit: row.quantity.unit(),
            ferroce_median,
            ferroce_min,
            ferroce_max,
            other_median,
            other_min,
            other_max,
            ratio_median,
            ratio_min,
            ratio_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Exchange, Which};
    use super::*;

    fn sample(quantity: Quantity, driver: Driver, round: u32, value: f64) -> Sample {
        Sample {
            quantity,
            driver,
            round,
            value,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_pairs_and_above_one_where_ferroce_is_better() {
        let samples: Vec<Sample> = [(10.0, 20.0), (30.0, 90.0), (20.0, 20.0)]
            .into_iter()
            .enumerate()
            .flat_map(|(round, (ours, theirs))| {
                let round = round as u32;
                [
                    sample(Quantity::Pingpong, Driver::Ferroce, round, ours),
                    sample(Quantity::Pingpong, Driver::Rxe, round, theirs),
                ]
            })
            .collect();
        let rows = rows(&samples, Driver::Rxe);
        assert_eq!(rows.len(), 1);
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(rows[0].ferroce, spread(20.0, 10.0, 30.0));
        assert_eq!(rows[0].other, spread(20.0, 20.0, 90.0));
        assert_eq!(rows[0].ratio, spread(2.0, 1.0, 3.0));
    }

    #[test]
    fn many_queue_pairs_are_compared_with_one_of_the_same_round() {
        let rate = |count, value| {
            let quantity = Quantity::QueuePairRate { count };
            sample(quantity, Driver::Ferroce, 0, value)
        };
        let samples = [rate(1, 200.0), rate(1000, 50.0), rate(10, 100.0)];
        let beside_rxe = rows(&samples, Driver::Rxe);
        assert_eq!(beside_rxe.len(), 5);
        let of_one = &beside_rxe[2];
        assert_eq!(of_one.quantity, Quantity::OfOneQueuePair { count: 1000 });
        assert_eq!(of_one.ferroce.unwrap().median, 25.0);
        assert_eq!(of_one.other, None);
        assert_eq!(of_one.ratio, None);
        // Beside UCX that is a ratio, which has a goal.
        let of_one = &rows(&samples, Driver::Ucx)[2];
        assert_eq!(of_one.ratio.unwrap().median, 0.25);
        assert_eq!(of_one.goal, Some(0.8));
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let all = [
            0.0,
            0.01234,
            1.234,
            12.34,
            123.4,
            9876.5,
            12_345.0,
            1_234_567.8,
        ];
        let texts = [
            "0", "0.012", "1.23", "12.3", "123", "9,877", "12.3k", "1.23M",
        ];
        assert_eq!(all.map(number), texts);
        assert_eq!(number(0.0001), "<0.001");
    }
    #[test]
    fn a_goal_is_met_by_a_latency_that_is_low_enough() {
        let quantity = Quantity::Latency {
            exchange: Exchange::Send,
            which: Which::Typical,
        };
        for (ours, met) in [(2.9, "yes"), (3.1, "no")] {
            let samples = [
                sample(quantity.clone(), Driver::Ferroce, 0, ours),
                sample(quantity.clone(), Driver::Ucx, 0, 2.0),
            ];
            let text = figures(&rows(&samples, Driver::Ucx), Driver::Ucx).unwrap();
            assert!(text.contains("UCX"), "{text}");
            assert!(text.ends_with(&format!(" 0.667  {met:>3}")), "{text}");
        }
    }
}
