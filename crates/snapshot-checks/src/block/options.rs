//! The command line of `crash-block`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::mount::FileSystem;
use clap::Parser;

/// Cuts the power of the real command at every sync and every change of a name, on real file
/// systems.
#[derive(Parser, Clone, Debug)]
#[command(name = "crash-block")]
pub struct Options {
    /// File systems to cut on, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ext4,xfs,btrfs"
    )]
    pub(crate) fs: Vec<FileSystem>,

    /// Fewer commands and fewer cuts
    #[arg(long)]
    pub(crate) quick: bool,

    /// How memory is to lie in its data file [default: as the command chooses]
    #[arg(long, value_name = "LAYOUT")]
    layout: Option<String>,

    /// How memory is to be written [default: as the command chooses]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,

    /// The command to cut [default: vmsnap beside this program]
    #[arg(long, value_name = "PATH")]
    vmsnap: Option<PathBuf>,

    /// Switches a deliberate defect on; the command must be built with the feature `sabotage`
    #[arg(long, value_name = "NAME")]
    pub(crate) sabotage: Option<String>,

    /// Where the loop files lie, sparse and gone in the end [default: memory, /dev/shm]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

impl Options {
    /// The command to cut.
    pub(crate) fn vmsnap(&self) -> PathBuf {
        self.vmsnap.clone().unwrap_or_else(|| {
            let here = std::env::current_exe().unwrap_or_default();
            here.with_file_name("vmsnap")
        })
    }

    /// What every import is told of how to write.
    pub(crate) fn ways(&self) -> Vec<OsString> {
        let layout = self.layout.iter().flat_map(|layout| ["--layout", layout]);
        let engine = self.engine.iter().flat_map(|engine| ["--engine", engine]);
        layout.chain(engine).map(OsString::from).collect()
    }

    /// Where the loop files lie. What is below the loop devices need not be durable, only quick.
    pub(crate) fn dir(&self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        match &self.dir {
            Some(dir) => dir.clone(),
            None if memory.is_dir() => memory.to_owned(),
            None => std::env::temp_dir(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn all_file_systems_are_cut_unless_some_are_named() {
        let all = Options::try_parse_from(["crash-block"]).unwrap();
        assert_eq!(all.fs, FileSystem::value_variants());
        let one = Options::try_parse_from(["crash-block", "--fs", "xfs,ext4"]).unwrap();
        assert_eq!(one.fs, [FileSystem::Xfs, FileSystem::Ext4]);
        Options::try_parse_from(["crash-block", "--fs", "fat"]).unwrap_err();
    }

    #[test]
    fn imports_choose_by_themselves_unless_they_are_told() {
        let ways = |arguments: &[&str]| {
            let arguments = ["crash-block"].iter().chain(arguments);
            Options::try_parse_from(arguments).unwrap().ways()
        };
        assert!(ways(&[]).is_empty());
        let told = ["--layout", "packed", "--engine", "direct"];
        assert_eq!(ways(&told), told);
    }
}
