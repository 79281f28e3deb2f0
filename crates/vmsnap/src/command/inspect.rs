//! `vmsnap inspect FILE`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use snapshot_format::{
    ErrorKind, HeaderView, Inspection, inspect, inspect_ends, limits, table_range,
};
use snapshot_memory::backend::ReadFile;

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, place, printable};
use crate::input::InputFile;
use crate::quantity::show_bytes;
use crate::table::{draw, table};

/// Shows what can be read of a file, whatever version wrote it and whatever happened to it.
#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// A file of a snapshot, or the store's own
    file: PathBuf,
}

#[derive(Serialize)]
struct Inspected {
    path: String,
    #[serde(flatten)]
    inspection: Inspection,
}

impl Inspect {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let input = InputFile::open("file", &self.file)?;
        let inspection =
            look(&input).map_err(|error| Failure::io("read the file", &self.file, &error))?;
        let exit = match &inspection.error {
            None => Exit::Done,
            Some(problem) => match problem.kind {
                ErrorKind::TooNew | ErrorKind::Unsupported => Exit::TooNew,
                _ => Exit::Corrupt,
            },
        };
        let inspected = Inspected {
            path: self.file.display().to_string(),
            inspection,
        };
        let answer = context.answer("vmsnap.inspect.v1", &inspected, |inspected| {
            tell(&self.file, &inspected.inspection)
        })?;
        Ok(answer.ending(exit))
    }
}

/// Looks at all of a small file, and at header and section table of a large one.
fn look(input: &InputFile) -> std::io::Result<Inspection> {
    let read = |offset: u64, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        input.read_exact_at(offset, &mut bytes).map(|()| bytes)
    };
    let len = input.len_bytes;
    if len <= limits::MAX_ENVELOPE_BYTES {
        return Ok(inspect(&read(0, len)?, len));
    }
    let head = read(0, HEAD_BYTES.min(len))?;
    let table = match table_range(&head) {
        Some(range) if range.start <= range.end && range.end <= len => {
            let wanted = range.end - range.start;
            read(range.start, wanted.min(limits::MAX_ENVELOPE_BYTES))?
        }
        _ => Vec::new(),
    };
    Ok(inspect_ends(&head, &table, len))
}

/// More than any header.
const HEAD_BYTES: u64 = 4096;

fn tell(path: &Path, inspection: &Inspection) -> String {
    let size = show_bytes(inspection.file_len);
    let mut lines = vec![format!("{}: {size}", path.display())];
    if let Some(header) = &inspection.header {
        lines.extend(header_lines(header));
    }
    let problem = inspection.error.as_ref().map(|problem| {
        let place = place(&problem.message, problem.offset);
        let (message, hint) = (&problem.message, problem.hint);
        printable(&format!("problem    {message}{place}; {hint}")) + "\n"
    });
    let head: String = lines.iter().map(|line| printable(line) + "\n").collect();
    head + &sections(inspection) + &problem.unwrap_or_default()
}

fn header_lines(header: &HeaderView) -> Vec<String> {
    let state = if header.sound {
        "sound"
    } else {
        "damaged: nothing above can be believed"
    };
    let (format, readable_from) = (header.format, header.readable_from);
    let mut lines = vec![
        format!("kind       {}", header.kind),
        format!("format     {format}, readable from {readable_from}"),
        format!("arch       {}", header.arch),
        format!("id         {}", header.id),
    ];
    lines.extend(header.parent.map(|parent| format!("parent     {parent}")));
    lines.push(format!("writer     {}", header.writer));
    lines.push(format!("header     {state}"));
    lines
}

fn sections(inspection: &Inspection) -> String {
    if inspection.sections.is_empty() {
        return String::new();
    }
    let mut rows = table(&[
        "SECTION",
        ">INSTANCE",
        ">VERSION",
        "CODEC",
        ">OFFSET",
        ">BYTES",
        "DIGEST",
    ]);
    for section in &inspection.sections {
        let digest = match section.sound {
            Some(true) => "sound",
            Some(false) => "damaged",
            None => "not read",
        };
        rows.add_row([
            printable(&section.kind),
            section.instance.to_string(),
            section.version.to_string(),
            printable(&section.codec),
            section.offset.to_string(),
            section.stored_len.to_string(),
            digest.to_owned(),
        ]);
    }
    draw(&rows)
}
