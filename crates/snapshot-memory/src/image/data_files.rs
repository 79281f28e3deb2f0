//! The data files of an image, each opened when it is wanted for the first time.

use std::fmt;
use std::sync::{Arc, OnceLock};

use snapshot_format::DataFileRef;

use super::data_file::DataFile;
use super::error::ImageError;
use super::spare::Spares;

/// Opens the data files of one image.
///
/// Calls may come from several threads at once, also for the same file: what is opened twice is
/// used once.
pub trait OpenDataFile: Send + Sync + fmt::Debug {
    /// Opens a data file, with all the checks that it takes to be the one that is named.
    fn open(&self, data: &DataFileRef) -> Result<DataFile, ImageError>;
}

/// The data files of an image, oldest first.
#[derive(Debug)]
pub(super) struct DataFiles {
    references: Vec<DataFileRef>,
    slots: Vec<OnceLock<DataFile>>,
    /// `None` where every one of them is open.
    opener: Option<Box<dyn OpenDataFile>>,
    spares: Arc<Spares>,
}

impl DataFiles {
    /// Files that are open.
    pub(super) fn open(files: Vec<DataFile>) -> Result<Self, ImageError> {
        let spares = Arc::default();
        let references = files.iter().map(DataFile::reference).collect();
        let admitted = files.into_iter().enumerate();
        let admitted = admitted.map(|(place, file)| Ok(admit(file, place, &spares)?.into()));
        Ok(Self {
            references,
            slots: admitted.collect::<Result<_, ImageError>>()?,
            opener: None,
            spares,
        })
    }

    /// Files of which none is open yet.
    pub(super) fn on_demand(references: Vec<DataFileRef>, opener: Box<dyn OpenDataFile>) -> Self {
        Self {
            slots: references.iter().map(|_| OnceLock::new()).collect(),
            references,
            opener: Some(opener),
            spares: Arc::default(),
        }
    }

    pub(super) fn references(&self) -> &[DataFileRef] {
        &self.references
    }

    /// The file at `place`, opened where it is not open yet.
    pub(super) fn get(&self, place: usize) -> Result<&DataFile, ImageError> {
        let none = || ImageError::NoSuchFile {
            file: u16::try_from(place + 1).unwrap_or(u16::MAX),
            found: self.references.len(),
        };
        let found = self.slots.get(place).zip(self.references.get(place));
        let (slot, reference) = found.ok_or_else(none)?;
        if let Some(file) = slot.get() {
            return Ok(file);
        }
        let opener = self.opener.as_ref().ok_or_else(none)?;
        let file = admit(opener.open(reference)?, place, &self.spares)?;
        // Whoever was faster opened the same file.
        Ok(slot.get_or_init(|| file))
    }

    #[cfg(test)]
    pub(super) fn into_open(self) -> Vec<DataFile> {
        let slots = self.slots.into_iter();
        slots.filter_map(OnceLock::into_inner).collect()
    }
}

/// Refuses a file that belongs at another place of its chain.
fn admit(mut file: DataFile, place: usize, spares: &Arc<Spares>) -> Result<DataFile, ImageError> {
    let (expected, found) = (place + 1, file.root.file);
    if usize::from(found) != expected {
        return Err(ImageError::FileNumber {
            file: file.names.map.clone(),
            expected,
            found,
        });
    }
    file.spares = Arc::clone(spares);
    Ok(file)
}
