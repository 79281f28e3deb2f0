//! restic and borg, as Debian has them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::plan::Phase;
use super::repository::Repository;
use crate::error::BenchError;

/// The name of the file that both images have, as one that grows old has.
const NAME: &str = "guest.img";

/// A program that keeps files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tool {
    Restic,
    Borg,
}

impl Tool {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Restic, Self::Borg];

    /// Its name, which is that of the program.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Borg => "borg",
        }
    }

    /// What it says of its version; `None` where it cannot be run.
    pub(super) fn version(self) -> Option<String> {
        let argument = match self {
            Self::Restic => "version",
            Self::Borg => "--version",
        };
        let output = Command::new(self.name()).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }
}

/// The two images as files, each in a directory of its own.
pub(super) struct Inputs {
    directories: [PathBuf; 2],
}

impl Inputs {
    /// Writes them below `parent`.
    pub(super) fn write(parent: &Path, images: [&[u8]; 2]) -> Result<Self, BenchError> {
        let directories = ["first", "second"].map(|name| parent.join(name));
        for (directory, image) in directories.iter().zip(images) {
            fs::create_dir(directory).map_err(BenchError::at("create", directory))?;
            let path = directory.join(NAME);
            fs::write(&path, image).map_err(BenchError::at("write", &path))?;
        }
        Ok(Self { directories })
    }
}

/// A repository of one of them.
pub(super) struct PeerRepository<'a> {
    tool: Tool,
    inputs: &'a Inputs,
    directory: PathBuf,
    /// What it keeps beside its repository.
    own: PathBuf,
    target: PathBuf,
    restored: PathBuf,
}

impl<'a> PeerRepository<'a> {
    /// A new one in `parent`, which is empty.
    pub(super) fn new(tool: Tool, inputs: &'a Inputs, parent: &Path) -> Result<Self, BenchError> {
        let [directory, own, target] =
            ["repository", "own", "target"].map(|name| parent.join(name));
        for directory in [&own, &target] {
            fs::create_dir(directory).map_err(BenchError::at("create", directory))?;
        }
        let repository = Self {
            tool,
            inputs,
            restored: target.join(NAME),
            directory,
            own,
            target,
        };
        let init: &[&str] = match tool {
            // The one that compresses.
            Tool::Restic => &["init", "--repository-version", "2"],
            Tool::Borg => &["init", "--encryption", "none"],
        };
        repository.call(init, &repository.own)?;
        Ok(repository)
    }

    /// Runs the program to its end, in a directory.
    fn call(&self, arguments: &[&str], directory: &Path) -> Result<Duration, BenchError> {
        let cannot = |reason: String| BenchError::Peer {
            program: self.tool.name(),
            reason,
        };
        let mut command = Command::new(self.tool.name());
        command
            .args(arguments)
            .current_dir(directory)
            .envs(self.environment())
            .stdin(Stdio::null());
        let start = Instant::now();
        let output = command
            .output()
            .map_err(|error| cannot(error.to_string()))?;
        let took = start.elapsed();
        if output.status.success() {
            return Ok(took);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(cannot(format!("{}: {}", arguments.join(" "), text.trim())))
    }

    fn environment(&self) -> [(&'static str, &OsStr); 6] {
        [
            ("RESTIC_REPOSITORY", self.directory.as_os_str()),
            ("RESTIC_PASSWORD", OsStr::new("password")),
            ("RESTIC_CACHE_DIR", self.own.as_os_str()),
            ("BORG_REPO", self.directory.as_os_str()),
            ("BORG_BASE_DIR", self.own.as_os_str()),
            ("HOME", self.own.as_os_str()),
        ]
    }
}

impl Repository for PeerRepository<'_> {
    fn run(&mut self, phase: Phase) -> Result<Duration, BenchError> {
        let [first, second] = &self.inputs.directories;
        let borg_create = |archive| {
            let chunks = ["--chunker-params", "fixed,65536", "--compression", "lz4"];
            [&["create"][..], &chunks, &[archive, NAME]].concat()
        };
        match (self.tool, phase) {
            (Tool::Restic, Phase::Ingest) => self.call(&["backup", "--quiet", NAME], first),
            (Tool::Restic, Phase::Diff) => self.call(&["backup", "--quiet", NAME], second),
            (Tool::Restic, Phase::Verify) => {
                self.call(&["check", "--quiet", "--read-data"], &self.own)
            }
            (Tool::Restic, Phase::Restore) => {
                let restore = ["restore", "--quiet", "latest", "--target", "."];
                self.call(&restore, &self.target)
            }
            (Tool::Borg, Phase::Ingest) => self.call(&borg_create("::first"), first),
            (Tool::Borg, Phase::Diff) => self.call(&borg_create("::second"), second),
            (Tool::Borg, Phase::Verify) => self.call(&["check", "--verify-data"], &self.own),
            (Tool::Borg, Phase::Restore) => {
                self.call(&["extract", "--sparse", "::second"], &self.target)
            }
        }
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn restored(&self) -> &Path {
        &self.restored
    }
}
