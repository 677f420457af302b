// SPDX-License-Identifier: MIT OR Apache-2.0
//! From samples to medians, and to tables of them.

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

/// A row: what both devices did.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub quantity: Quantity,
    pub ferroce: Option<Spread>,
    pub rxe: Option<Spread>,
    /// How many times as good ferroce was in each round.
    pub ratio: Option<Spread>,
}

/// Puts the rows together, in the order in which they were measured first.
pub fn rows(samples: &[Sample]) -> Vec<Row> {
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
                let theirs = of(Driver::Rxe).find(|s| s.round == ours.round)?.value;
                match quantity.better() {
                    Better::Higher => Some(ours.value / theirs),
                    Better::Lower => Some(theirs / ours.value),
                    Better::Neither => None,
                }
            });
            Row {
                quantity: quantity.clone(),
                ferroce: spread(Driver::Ferroce),
                rxe: spread(Driver::Rxe),
                ratio: Spread::of(ratios.filter(|r| r.is_finite()).collect()),
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

/// Medians, the least, the greatest, and ratios.
pub fn figures(rows: &[Row]) -> Option<String> {
    let rows: Vec<_> = rows
        .iter()
        .filter(|r| r.quantity.explains().is_none())
        .collect();
    let header = [
        "MEASURED", "UNIT", "FERROCE", "min-max", "RDMA_RXE", "min-max", "RATIO",
    ];
    table(&header, 2, &rows, |row| {
        let mut cells = vec![row.quantity.to_string(), row.quantity.unit().to_owned()];
        for spread in [&row.ferroce, &row.rxe] {
            let range = |s: Spread| format!("{}-{}", number(s.min), number(s.max));
            cells.push(median(spread));
            cells.push(spread.map_or(String::new(), range));
        }
        cells.push(row.ratio.map_or(String::new(), |r| number(r.median)));
        cells
    })
}

/// Where the time goes, medians: for each size of messages a table.
pub fn explanations(rows: &[Row]) -> Vec<(u64, String)> {
    let mut all: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.quantity.explains()?, row)))
        .collect();
    // The sizes and their parts, and in each part that is of shares the greatest
    // one first.
    let greatest = |row: &Row| {
        let median = |spread: &Option<Spread>| spread.map_or(0.0, |s| s.median);
        median(&row.ferroce).max(median(&row.rxe))
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
            let header = ["WHAT", "FERROCE", "RDMA_RXE"];
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
                vec![name, cell(&row.ferroce), cell(&row.rxe)]
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

/// A row of the CSV file.
#[derive(Debug, Serialize)]
pub struct Record {
    measured: String,
    unit: &'static str,
    ferroce_median: Option<f64>,
    ferroce_min: Option<f64>,
    ferroce_max: Option<f64>,
    rdma_rxe_median: Option<f64>,
    rdma_rxe_min: Option<f64>,
    rdma_rxe_max: Option<f64>,
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
        let (rdma_rxe_median, rdma_rxe_min, rdma_rxe_max) = all(&row.rxe);
        let (ratio_median, ratio_min, ratio_max) = all(&row.ratio);
        Self {
            measured: row.quantity.to_string(),
            unit: row.quantity.unit(),
            ferroce_median,
            ferroce_min,
            ferroce_max,
            rdma_rxe_median,
            rdma_rxe_min,
            rdma_rxe_max,
            ratio_median,
            ratio_min,
            ratio_max,
        }
    }
}

#[cfg(test)]
mod tests {
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
        let rows = rows(&samples);
        assert_eq!(rows.len(), 1);
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(rows[0].ferroce, spread(20.0, 10.0, 30.0));
        assert_eq!(rows[0].rxe, spread(20.0, 20.0, 90.0));
        assert_eq!(rows[0].ratio, spread(2.0, 1.0, 3.0));
    }

    #[test]
    fn many_queue_pairs_are_compared_with_one_of_the_same_round() {
        let rate = |count, value| {
            let quantity = Quantity::QueuePairRate { count };
            sample(quantity, Driver::Ferroce, 0, value)
        };
        let rows = rows(&[rate(1, 200.0), rate(1000, 50.0), rate(10, 100.0)]);
        assert_eq!(rows.len(), 5);
        let of_one = &rows[2];
        assert_eq!(of_one.quantity, Quantity::OfOneQueuePair { count: 1000 });
        assert_eq!(of_one.ferroce.unwrap().median, 25.0);
        assert_eq!(of_one.rxe, None);
        assert_eq!(of_one.ratio, None);
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
}
