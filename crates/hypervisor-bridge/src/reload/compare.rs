//! Two sets of sections, field by field.

use std::collections::BTreeMap;

use snapshot_format::{DecodeError, SectionKind, SectionPayload, StateView};

use super::fields::{Fields, bytes_as_fields, fields_of};
use super::{Difference, Moving, ReloadReport};

/// Sections by kind and instance.
type Sections<'s> = BTreeMap<(SectionKind, u32), &'s SectionPayload>;

/// Compares sections that were saved with sections that were captured later.
///
/// Payloads of different versions are the same if all that they say is.
pub fn compare_sections(
    saved: &[SectionPayload],
    again: &[SectionPayload],
    moving: &[Moving],
) -> Result<ReloadReport, DecodeError> {
    let (saved, again) = (by_name(saved), by_name(again));
    let mut report = ReloadReport::default();
    for (name, section) in &saved {
        match again.get(name) {
            Some(other) => compare(section, other, moving, &mut report)?,
            None => report.differ(*name, "the section", Some("there"), None),
        }
        report.sections += 1;
    }
    for name in again.keys().filter(|name| !saved.contains_key(name)) {
        report.differ(*name, "the section", None, Some("there"));
    }
    Ok(report)
}

fn by_name(sections: &[SectionPayload]) -> Sections<'_> {
    let sections = sections.iter();
    sections
        .map(|section| ((section.kind, section.instance), section))
        .collect()
}

fn compare(
    saved: &SectionPayload,
    again: &SectionPayload,
    moving: &[Moving],
    report: &mut ReloadReport,
) -> Result<(), DecodeError> {
    let name = (saved.kind, saved.instance);
    let (before, after) = (fields(saved)?, fields(again)?);
    let found = report.differences.len();
    for (field, value) in &before {
        let other = after.get(field);
        if other != Some(value) {
            report.differ(name, field, Some(value), other.map(String::as_str));
        }
    }
    for (field, value) in after
        .iter()
        .filter(|(field, _)| !before.contains_key(*field))
    {
        report.differ(name, field, None, Some(value));
    }
    report.fields += before.len();
    let differ = saved.version == again.version && saved.bytes != again.bytes;
    if report.differences.len() == found && differ {
        // No view of it shows where: that must not pass for equal.
        report.differ(
            name,
            "a field without a name",
            Some("one value"),
            Some("another"),
        );
    }
    for difference in report.differences.iter_mut().skip(found) {
        let mut moving = moving.iter().filter(|moving| moving.section == saved.kind);
        let reason = moving.find(|moving| covers(moving, difference));
        difference.allowed = reason.map(|moving| moving.why);
    }
    Ok(())
}

/// What a section says, by the names of its fields.
fn fields(section: &SectionPayload) -> Result<Fields, DecodeError> {
    match StateView::of(section) {
        Some(view) => Ok(fields_of(&view?)),
        None => Ok(bytes_as_fields("bytes", &section.bytes)),
    }
}

fn covers(moving: &Moving, difference: &Difference) -> bool {
    let number = |text: &Option<String>| {
        let text = text.as_deref()?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    matches(moving.field, &difference.field)
        && (moving.bits == u64::MAX
            || number(&difference.saved)
                .zip(number(&difference.again))
                .is_some_and(|(saved, again)| (saved ^ again) & !moving.bits == 0))
}

/// Whether `pattern` stands for `field`: as it is, or with one `*` for any text.
fn matches(pattern: &str, field: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == field,
        Some((start, end)) => field
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
    }
}

impl ReloadReport {
    fn differ(
        &mut self,
        (kind, instance): (SectionKind, u32),
        field: &str,
        saved: Option<&str>,
        again: Option<&str>,
    ) {
        self.differences.push(Difference {
            section: kind.to_string(),
            instance,
            field: field.to_owned(),
            saved: saved.map(str::to_owned),
            again: again.map(str::to_owned),
            allowed: None,
        });
    }
}
