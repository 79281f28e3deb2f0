//! The rows of the suites with rivals as SVG charts: the same rows give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::combinators::LogCoord;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::BenchError;
use crate::place::PlaceKind;
use crate::plan::PLANS;
use crate::report::Report;
use crate::row::Row;
use line::{Line, Who};

mod line;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

const WIDTH: u32 = 960;
const LINE_HEIGHT: u32 = 20;
const HEAD_HEIGHT: u32 = 64;
const FOOT_HEIGHT: u32 = 48;
const LABEL_WIDTH: u32 = 250;
const FONT: &str = "sans-serif";

/// What a chart shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Medians of everybody.
    Times,
    /// Medians and quartiles of the ratios, and the bars.
    Ratios,
}

/// Draws a chart of times and one of ratios, for each group of cases, into the directory `dir`;
/// their paths.
pub(crate) fn draw(report: &Report, dir: &Path) -> Result<Vec<PathBuf>, BenchError> {
    fs::create_dir_all(dir).map_err(BenchError::at("create", dir))?;
    let mut paths = Vec::new();
    for (name, rows) in groups(&report.rows) {
        for (kind, ending) in [(Kind::Times, ""), (Kind::Ratios, "-ratios")] {
            let path = dir.join(format!("{name}{ending}.svg"));
            let svg = svg(kind, &rows).map_err(|error| BenchError::Chart {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            fs::write(&path, svg).map_err(BenchError::at("write", &path))?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The rows with rivals by the name of their chart: cases with a bar and variants apart, each file
/// system apart.
fn groups(rows: &[Row]) -> BTreeMap<String, Vec<&Row>> {
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.against().is_some()) {
        let lazy = match (row.suite.as_str(), row.case.starts_with("first-")) {
            ("restore", true) => Some("restore-first"),
            ("restore", false) => Some("restore-warm"),
            ("live", _) => Some("live"),
            ("store", _) => Some("store"),
            _ => None,
        };
        if let Some(name) = lazy {
            groups.entry(name.to_owned()).or_default().push(row);
            continue;
        }
        let suffix = suffix(&row.case);
        let plain = row.case.strip_suffix(suffix).unwrap_or(&row.case);
        let Some(plan) = PLANS.iter().find(|plan| plan.name == plain) else {
            continue;
        };
        let set = if plan.is_default { "" } else { "-variants" };
        let group = groups.entry(format!("memory{set}{suffix}")).or_default();
        group.push(row);
    }
    groups
}

fn suffix(case: &str) -> &'static str {
    let suffixes = PlaceKind::value_variants().iter().map(|kind| kind.suffix());
    let mut own = suffixes.filter(|suffix| !suffix.is_empty() && case.ends_with(suffix));
    own.next().unwrap_or_default()
}

fn svg(kind: Kind, rows: &[&Row]) -> Result<String, Box<dyn std::error::Error>> {
    let lines = match kind {
        Kind::Times => line::times(rows),
        Kind::Ratios => line::ratios(rows),
    };
    let count = u32::try_from(lines.len() + cases(&lines))?;
    let mut text = String::new();
    {
        let size = (WIDTH, HEAD_HEIGHT + count * LINE_HEIGHT + FOOT_HEIGHT);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD_HEIGHT);
        draw_head(&head, kind, rows)?;
        draw_body(&body, kind, &lines)?;
        root.present()?;
    }
    Ok(text)
}

/// How many lines begin a case: there is room above each of them.
fn cases(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.is_first).count()
}

/// The title and what the colours mean.
fn draw_head(area: &Area<'_>, kind: Kind, rows: &[&Row]) -> Drawn {
    let first = rows.first();
    let mib = first.and_then(|row| row.count("mem_bytes")).unwrap_or(0) >> 20;
    let place = first.and_then(|row| row.file_system.as_deref());
    let place = place.unwrap_or("an unknown file system");
    let time = match kind {
        Kind::Times => "Time",
        Kind::Ratios => "Ratios of the times",
    };
    let title = match first.map(|row| row.suite.as_str()) {
        Some("restore") => format!("{time} to bring guest memory back, from {place}"),
        Some("store") => format!("{time} to archive, check and bring back {mib} MiB on {place}"),
        Some("live") => format!("{time} that a guest stands still while it is frozen to {place}"),
        _ => format!("{time} to write guest memory: {mib} MiB on {place}"),
    };
    area.draw(&Text::new(title, (16, 10), (FONT, 18)))?;
    let legend: &[(Who, &str)] = match kind {
        Kind::Times => &[
            (Who::Ours, "vmsnap"),
            (Who::Peer, "peer"),
            (Who::Limit, "limit of the machine"),
        ],
        Kind::Ratios => &[
            (Who::Peer, "peer ÷ vmsnap (more is better)"),
            (Who::Limit, "vmsnap ÷ limit (1 is perfect)"),
            (Who::Bar, "what the design asks for"),
        ],
    };
    let mut x = 16;
    for (who, label) in legend {
        area.draw(&Rectangle::new(
            [(x, 40), (x + 12, 52)],
            who.colour().filled(),
        ))?;
        area.draw(&Text::new((*label).to_owned(), (x + 18, 40), (FONT, 13)))?;
        x += 48 + 7 * i32::try_from(label.chars().count())?;
    }
    Ok(())
}

fn draw_body(area: &Area<'_>, kind: Kind, lines: &[Line]) -> Drawn {
    let rows = f64::from(u32::try_from(lines.len() + cases(lines))?);
    let (low, high) = bounds(lines);
    let mut chart = ChartBuilder::on(area)
        .set_label_area_size(LabelAreaPosition::Left, LABEL_WIDTH)
        .set_label_area_size(LabelAreaPosition::Bottom, FOOT_HEIGHT)
        .margin_right(16)
        .build_cartesian_2d((low..high).log_scale(), 0.0..rows)?;
    let axis = match kind {
        Kind::Times => "milliseconds, median, logarithmic (less is better)",
        Kind::Ratios => "ratio, median and quartiles of the rounds, logarithmic",
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|value| line::plain(*value))
        .x_desc(axis)
        .label_style((FONT, 13))
        .draw()?;
    let mut at = rows;
    for line in lines {
        at -= if line.is_first { 2.0 } else { 1.0 };
        draw_line(&chart, kind, line, (low, at))?;
    }
    Ok(())
}

/// One line, whose lower edge is at `corner`: its name left of the axis, and its figure.
fn draw_line(chart: &Chart<'_, '_>, kind: Kind, line: &Line, corner: (f64, f64)) -> Drawn {
    let area = chart.plotting_area();
    let (low, at) = corner;
    let middle = at + 0.5;
    let colour = line.who.colour();
    match kind {
        Kind::Times => {
            let bar = [(low, at + 0.15), (line.middle, at + 0.85)];
            area.draw(&Rectangle::new(bar, colour.filled()))?;
        }
        Kind::Ratios => {
            let whisker = [(line.low, at + 0.36), (line.high, at + 0.64)];
            area.draw(&Rectangle::new(whisker, colour.mix(0.45).filled()))?;
            area.draw(&Circle::new((line.middle, middle), 5, colour.filled()))?;
        }
    }
    if let Some(asked) = line.asked {
        let mark = [(asked, at + 0.05), (asked, at + 0.95)];
        let style = Who::Bar.colour().stroke_width(3);
        area.draw(&PathElement::new(mark, style))?;
    }
    let beside = |at: (f64, f64), text: &str, shift: i32, side: HPos| {
        let style = TextStyle::from((FONT, 13)).pos(Pos::new(side, VPos::Center));
        let text = Text::new(text.to_owned(), (shift, 0), style);
        area.draw(&(EmptyElement::at(at) + text))
    };
    beside((low, middle), &line.label, -8, HPos::Right)?;
    let right = line.high.max(line.asked.unwrap_or(line.high));
    beside((right, middle), &line.figure, 8, HPos::Left)?;
    Ok(())
}

/// The ends of the axis: something below the smallest, and room for a figure above the largest.
fn bounds(lines: &[Line]) -> (f64, f64) {
    let low = lines
        .iter()
        .map(|line| line.low.min(line.asked.unwrap_or(line.low)));
    let high = lines
        .iter()
        .map(|line| line.high.max(line.asked.unwrap_or(line.high)));
    let low = low.fold(f64::INFINITY, f64::min).max(1e-6);
    let high = high.fold(0.0, f64::max).max(low);
    (low * 0.7, high * (high / low).powf(0.25).max(1.5))
}

#[cfg(test)]
mod tests;
