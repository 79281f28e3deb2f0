//! Which vault a command means, which scope of it, and the keys to that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use snapshot_format::VmName;
use snapshot_memory::backend::FsBackend;
use snapshot_store::{Reference, Store};
use snapshot_vault::{
    ArchivedCopies, ArchivedSnapshot, Domain, ErrorKind, FolderObjects, KeyKeeper,
    PassphraseKeeper, RecipientKeeper, ScopeName, Vault, VaultError,
};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::input::read_file;

/// Which vault, which scope of it, and the keys to that.
#[derive(Args, Clone, Debug)]
pub(crate) struct VaultOptions {
    /// The folder of the vault; without it, that of the VM's policy, or `vault` in the folder of the store
    #[arg(long, value_name = "PATH", env = "VMSNAP_VAULT")]
    vault: Option<PathBuf>,

    /// What is kept apart from all else, a tenant; `default` without it
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    scope: Option<ScopeName>,

    #[command(flatten)]
    pub(crate) keys: KeyOptions,
}

/// What opens a sealed scope.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct KeyOptions {
    /// The age identities that open a sealed scope, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    identity: Option<PathBuf>,

    /// The passphrase that opens a sealed scope: the first line of the file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Whether anything is put or deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    Reads,
    Writes,
    /// Writes, and makes a vault where there is none.
    Makes,
}

/// A vault and what was opened of it.
#[derive(Debug)]
pub(crate) struct OpenVault {
    pub(crate) path: PathBuf,
    pub(crate) vault: Vault,
    pub(crate) scope: ScopeName,
    keeper: Option<Box<dyn KeyKeeper>>,
}

impl VaultOptions {
    /// The same with what the policy of `vm` says, where no vault is named.
    pub(crate) fn by_policy(
        &self,
        context: &Context,
        store: &Store,
        vm: &VmName,
    ) -> Result<Self, Failure> {
        if self.vault.is_some() {
            return Ok(self.clone());
        }
        let policy = store.policy(vm);
        let policy = policy.map_err(|error| context.failure(&error))?;
        let Some(place) = policy.archive else {
            return Ok(self.clone());
        };
        let wrong = |message: String| Failure::usage(message).hint("set the policy anew");
        let named = place.scope.as_deref().map(scope).transpose();
        Ok(Self {
            vault: Some(place.vault.into()),
            scope: self.scope.clone().or(named.map_err(wrong)?),
            keys: self.keys.clone(),
        })
    }

    /// Where the vault is.
    pub(crate) fn path(&self, context: &Context) -> Result<PathBuf, Failure> {
        match &self.vault {
            Some(path) => Ok(path.clone()),
            None => match context.store.as_deref() {
                Some(store) => Ok(store.join("vault")),
                None => Err(Failure::usage("no vault is named")
                    .hint("give --vault PATH, or set VMSNAP_VAULT")),
            },
        }
    }

    /// Whether a vault is named, and not only taken from the folder of the store.
    pub(crate) fn is_named(&self) -> bool {
        self.vault.is_some()
    }

    /// Opens the vault to read where one is named, or lies in the folder of the store; `None` where
    /// neither is so, or the one in the folder cannot be opened.
    pub(crate) fn open_if_there(&self, context: &Context) -> Result<Option<OpenVault>, Failure> {
        let opened = self.open(context, Use::Reads);
        if self.is_named() {
            return opened.map(Some);
        }
        Ok(opened.ok())
    }

    pub(crate) fn open(&self, context: &Context, used: Use) -> Result<OpenVault, Failure> {
        let path = self.path(context)?;
        let backend = match used {
            Use::Makes => FsBackend::create(&path),
            Use::Reads | Use::Writes => FsBackend::open(&path),
        };
        let backend = backend.map_err(|error| match error.kind() {
            // As of a folder that is there, and is no vault.
            io::ErrorKind::NotFound => failure(&VaultError::no_vault(), &path),
            _ => Failure::io("open the vault", &path, &error),
        })?;
        let backend = Arc::new(backend);
        let failed = |error: VaultError| failure(&error, &path);
        let objects = match used {
            Use::Reads => FolderObjects::read_only(backend),
            // Opening one to write leaves something in it: it must be a vault first.
            Use::Writes => {
                let look = Arc::new(FolderObjects::read_only(Arc::clone(&backend) as _));
                Vault::open(look).map_err(failed)?;
                folder(backend, &path)?
            }
            Use::Makes => folder(backend, &path)?,
        };
        let objects = Arc::new(objects);
        let vault = match used {
            Use::Makes => Vault::open_or_create(objects),
            Use::Reads | Use::Writes => Vault::open(objects),
        };
        Ok(OpenVault {
            vault: vault.map_err(failed)?,
            scope: self.scope.clone().unwrap_or_else(ScopeName::default_scope),
            keeper: self.keys.keeper()?,
            path,
        })
    }
}

fn folder(backend: Arc<FsBackend>, path: &Path) -> Result<FolderObjects, Failure> {
    FolderObjects::open(backend)
        .map_err(|error| Failure::because(exit_of(error.kind()), &error).at(path))
}

impl KeyOptions {
    /// What the options say; `None` where they say nothing.
    pub(crate) fn keeper(&self) -> Result<Option<Box<dyn KeyKeeper>>, Failure> {
        if let Some(path) = &self.passphrase_file {
            return Ok(Some(Box::new(passphrase(path)?)));
        }
        let Some(path) = &self.identity else {
            return Ok(None);
        };
        let mut keeper = RecipientKeeper::new();
        for line in text("identity file", path)?.lines() {
            if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                keeper = keeper
                    .identity(line)
                    .map_err(|error| failure(&error, path))?;
            }
        }
        Ok(Some(Box::new(keeper)))
    }

    /// The keeper of a passphrase, if one was given: it wraps as well as it unwraps.
    pub(crate) fn passphrase(&self) -> Result<Option<PassphraseKeeper>, Failure> {
        self.passphrase_file.as_deref().map(passphrase).transpose()
    }
}

/// A keeper that wraps for age recipients.
pub(crate) fn recipients(texts: &[String]) -> Result<RecipientKeeper, Failure> {
    let keeper = texts
        .iter()
        .try_fold(RecipientKeeper::new(), |keeper, text| {
            keeper.recipient(text)
        });
    keeper.map_err(|error| Failure::because(exit_of(error.kind()), &error))
}

/// The keeper of the passphrase that stands in a file.
pub(crate) fn passphrase(path: &Path) -> Result<PassphraseKeeper, Failure> {
    let text = text("passphrase file", path)?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    PassphraseKeeper::new(line).map_err(|error| failure(&error, path))
}

impl OpenVault {
    pub(crate) fn failure(&self, error: &VaultError) -> Failure {
        failure(error, &self.path)
    }

    /// What opens sealed scopes.
    pub(crate) fn keeper(&self) -> Option<&dyn KeyKeeper> {
        self.keeper.as_deref()
    }

    /// Every domain of the scope that can be opened: at least one.
    pub(crate) fn domains(&self) -> Result<Vec<Domain>, Failure> {
        let (summaries, _) = self.vault.domains().map_err(|error| self.failure(&error))?;
        let mut domains = Vec::new();
        for summary in summaries.iter().filter(|found| found.scope == self.scope) {
            match self.vault.domain(summary.id, self.keeper()) {
                Ok(domain) => domains.push(domain),
                Err(error) if error.kind() == ErrorKind::Key => {}
                Err(error) => return Err(self.failure(&error)),
            }
        }
        if domains.is_empty() {
            // It says why: there is none, or there is no key to it.
            let refused = self.vault.scope(&self.scope, self.keeper());
            domains.push(refused.map_err(|error| self.failure(&error))?);
        }
        Ok(domains)
    }

    /// The archives of the scope, as copies from which a store is repaired.
    pub(crate) fn copies(&self) -> Result<ArchivedCopies, Failure> {
        let name = format!("archives of {}", self.path.display());
        ArchivedCopies::open(&name, &self.domains()?).map_err(|error| self.failure(&error))
    }

    /// The archive that a reference means, and the domain that it is in.
    pub(crate) fn find(
        &self,
        reference: &Reference,
    ) -> Result<(Domain, ArchivedSnapshot), Failure> {
        let mut missing = None;
        for domain in self.domains()? {
            let catalog = domain.catalog().map_err(|error| self.failure(&error))?;
            match catalog.resolve(reference) {
                Ok(found) => return Ok((domain, found.clone())),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // Damage may be what hides it.
                    missing = catalog.damaged.into_iter().next().map(|(_, damage)| damage);
                    missing = missing.or(Some(error));
                }
                Err(error) => return Err(self.failure(&error)),
            }
        }
        let missing = missing.unwrap_or(VaultError::NotFound {
            what: format!("an archive of {reference}"),
        });
        Err(self.failure(&missing))
    }
}

/// An error of the vault at `path`, in the words of the command line.
pub(crate) fn failure(error: &VaultError, path: &Path) -> Failure {
    let failure = Failure::because(exit_of(error.kind()), error);
    let failure = match error.object() {
        Some(name) => failure.concerning(&path.join(name.to_string())),
        None => failure.concerning(path),
    };
    match error.kind() {
        ErrorKind::Key => failure.hint("give --identity or --passphrase-file"),
        ErrorKind::Exists => failure.hint("give another name with --name, or --no-name"),
        _ => failure,
    }
}

/// How a run ends that an error of this kind stopped.
pub(crate) fn exit_of(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::Usage => Exit::Usage,
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::Corrupt => Exit::Corrupt,
        ErrorKind::Incompatible => Exit::Incompatible,
        ErrorKind::Busy => Exit::Busy,
        ErrorKind::NoSpace => Exit::NoSpace,
        ErrorKind::DurabilityUncertain => Exit::DurabilityUncertain,
        ErrorKind::TooNew => Exit::TooNew,
        ErrorKind::Key => Exit::KeyNeeded,
        ErrorKind::Exists => Exit::Exists,
        ErrorKind::Refused => Exit::Refused,
        ErrorKind::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

pub(crate) fn scope(text: &str) -> Result<ScopeName, String> {
    ScopeName::new(text).map_err(|error| error.to_string())
}

fn text(what: &str, path: &Path) -> Result<String, Failure> {
    let bytes = read_file(what, path, MAX_KEY_FILE_BYTES)?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("the {what} is no text")).at(path))
}

const MAX_KEY_FILE_BYTES: u64 = 64 << 10;
