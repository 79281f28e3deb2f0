//! What a line of a chart says.

use plotters::style::RGBColor;

use crate::bar;
use crate::report::millis;
use crate::row::Row;

/// One line: a contestant of a case, or a pair of them.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Line {
    pub(super) label: String,
    /// Whether it is the first of its case.
    pub(super) is_first: bool,
    pub(super) who: Who,
    pub(super) low: f64,
    pub(super) middle: f64,
    pub(super) high: f64,
    /// What the design asks for.
    pub(super) asked: Option<f64>,
    pub(super) figure: String,
}

/// Whose figure it is: what its colour says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Ours,
    Peer,
    Limit,
    Bar,
}

impl Who {
    /// Colours that are told apart without red and green.
    pub(super) fn colour(self) -> RGBColor {
        match self {
            Self::Ours => RGBColor(0, 114, 178),
            Self::Peer => RGBColor(230, 159, 0),
            Self::Limit => RGBColor(110, 110, 110),
            Self::Bar => RGBColor(204, 60, 120),
        }
    }
}

/// Everybody's time: ours first, then the rivals of the case.
pub(super) fn times(rows: &[&Row]) -> Vec<Line> {
    let mut lines = Vec::new();
    for rows in rows.chunk_by(|a, b| a.case == b.case) {
        let time = |label: String, who, ms: f64| Line {
            label,
            is_first: who == Who::Ours,
            who,
            low: ms,
            middle: ms,
            high: ms,
            asked: None,
            figure: format!("{} ms", millis(ms)),
        };
        let ours = format!("{}: vmsnap", rows[0].case);
        lines.push(time(ours, Who::Ours, rows[0].ours_ms));
        for rival in rows.iter().filter_map(|row| row.against()) {
            let who = if rival.is_limit {
                Who::Limit
            } else {
                Who::Peer
            };
            lines.push(time(rival.name.to_owned(), who, rival.ms));
        }
    }
    lines
}

/// The ratio of each pair.
pub(super) fn ratios(rows: &[&Row]) -> Vec<Line> {
    let cases = rows.chunk_by(|a, b| a.case == b.case);
    let lines = cases.flat_map(|rows| rows.iter().enumerate().filter_map(ratio));
    lines.collect()
}

fn ratio((number, row): (usize, &&Row)) -> Option<Line> {
    let rival = row.against()?;
    let pairs = rival.pairs;
    let mark = if pairs.unstable { " unstable" } else { "" };
    Some(Line {
        label: format!("{}: {}", row.case, rival.name),
        is_first: number == 0,
        who: if rival.is_limit {
            Who::Limit
        } else {
            Who::Peer
        },
        low: pairs.p25,
        middle: pairs.median,
        high: pairs.p75,
        asked: bar::ratio(&row.case, rival.name, rival.is_limit),
        figure: format!("{:.2}{mark}", pairs.median),
    })
}

/// A label of an axis, without digits that say nothing.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
