//! Root keys wrapped as age files: for recipients, or for a passphrase.

use std::fmt;
use std::io::{Read, Write};

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};

use crate::error::VaultError;
use crate::vault::KeyKeeper;

/// Wraps keys for recipients of age, and unwraps them with identities of age. Either may be empty.
#[derive(Clone, Default)]
pub struct RecipientKeeper {
    recipients: Vec<x25519::Recipient>,
    identities: Vec<x25519::Identity>,
}

/// Wraps and unwraps keys with a passphrase.
#[derive(Clone)]
pub struct PassphraseKeeper {
    passphrase: SecretString,
    work_factor: u8,
}

impl RecipientKeeper {
    /// Neither recipients nor identities.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a recipient: `age1…`.
    pub fn recipient(mut self, text: &str) -> Result<Self, VaultError> {
        let recipient = text.trim().parse().map_err(|_| VaultError::Input {
            // What was given may be a secret that was put in the wrong place.
            what: "a recipient of age begins with age1".to_owned(),
        })?;
        self.recipients.push(recipient);
        Ok(self)
    }

    /// Adds an identity: `AGE-SECRET-KEY-1…`.
    pub fn identity(mut self, text: &str) -> Result<Self, VaultError> {
        let identity = text.trim().parse().map_err(|_| VaultError::Input {
            what: "an identity of age begins with AGE-SECRET-KEY-1".to_owned(),
        })?;
        self.identities.push(identity);
        Ok(self)
    }
}

impl PassphraseKeeper {
    /// A passphrase, which is not empty.
    pub fn new(passphrase: String) -> Result<Self, VaultError> {
        if passphrase.is_empty() {
            return Err(VaultError::Input {
                what: "a passphrase has at least one character".to_owned(),
            });
        }
        Ok(Self {
            passphrase: SecretString::from(passphrase),
            work_factor: WORK_FACTOR,
        })
    }
}

impl KeyKeeper for RecipientKeeper {
    fn wrap(&self, root: &[u8; 32]) -> Result<Vec<u8>, VaultError> {
        let recipients = self.recipients.iter();
        let recipients = recipients.map(|recipient| recipient as &dyn age::Recipient);
        let encryptor =
            Encryptor::with_recipients(recipients).map_err(|error| failed(WRAP, error))?;
        write_all(encryptor, root)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Option<[u8; 32]>, VaultError> {
        let decryptor = Decryptor::new_buffered(wrapped).map_err(|error| failed(UNWRAP, error))?;
        if decryptor.is_scrypt() {
            return Ok(None);
        }
        let identities = self.identities.iter();
        let identities = identities.map(|identity| identity as &dyn age::Identity);
        read_all(decryptor.decrypt(identities))
    }
}

impl KeyKeeper for PassphraseKeeper {
    fn wrap(&self, root: &[u8; 32]) -> Result<Vec<u8>, VaultError> {
        let mut recipient = scrypt::Recipient::new(self.passphrase.clone());
        recipient.set_work_factor(self.work_factor);
        let only = std::iter::once(&recipient as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(only).map_err(|error| failed(WRAP, error))?;
        write_all(encryptor, root)
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Option<[u8; 32]>, VaultError> {
        let decryptor = Decryptor::new_buffered(wrapped).map_err(|error| failed(UNWRAP, error))?;
        if !decryptor.is_scrypt() {
            return Ok(None);
        }
        let mut identity = scrypt::Identity::new(self.passphrase.clone());
        identity.set_max_work_factor(MAX_WORK_FACTOR);
        read_all(decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)))
    }
}

fn write_all(encryptor: Encryptor, root: &[u8; 32]) -> Result<Vec<u8>, VaultError> {
    let mut wrapped = Vec::new();
    let written = encryptor.wrap_output(&mut wrapped).and_then(|mut writer| {
        writer.write_all(root)?;
        writer.finish().map(drop)
    });
    written.map_err(|error| failed(WRAP, error))?;
    Ok(wrapped)
}

/// The key that a reader gives; `None` where none of the keys that were tried fits.
fn read_all(reader: Result<impl Read, DecryptError>) -> Result<Option<[u8; 32]>, VaultError> {
    let mut reader = match reader {
        // Which of the two it is depends on the kind of key.
        Err(DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed) => return Ok(None),
        // Not told in its own words, which reckon with factors that are possible.
        Err(DecryptError::ExcessiveWork { .. }) => {
            return Err(VaultError::Host {
                what: "unwrap a key: its passphrase asks for more work than is allowed",
                source: None,
            });
        }
        reader => reader.map_err(|error| failed(UNWRAP, error))?,
    };
    let mut root = [0; 32];
    reader
        .read_exact(&mut root)
        .map_err(|error| failed(UNWRAP, error))?;
    let more = reader
        .read(&mut [0])
        .map_err(|error| failed(UNWRAP, error))?;
    if more > 0 {
        return Err(VaultError::Host {
            what: "unwrap a key: it has more than 32 bytes",
            source: None,
        });
    }
    Ok(Some(root))
}

fn failed(
    what: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> VaultError {
    VaultError::Host {
        what,
        source: Some(Box::new(source)),
    }
}

impl fmt::Debug for RecipientKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RecipientKeeper");
        debug.field("recipients", &self.recipients.len());
        debug.field("identities", &self.identities.len()).finish()
    }
}

impl fmt::Debug for PassphraseKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassphraseKeeper")
    }
}

const WRAP: &str = "wrap a key";
const UNWRAP: &str = "unwrap a key";

/// 2^17 blocks of 1 KiB: 128 MiB, and half a second.
const WORK_FACTOR: u8 = 17;

/// What somebody else's wrapping may ask for: 1 GiB, and some seconds.
const MAX_WORK_FACTOR: u8 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Guest, archive, restored};
    use crate::{
        ErrorKind, MemoryObjects, ObjectKind, ObjectName, Objects, ScopeName, Sealing, Vault,
    };

    fn passphrase(text: &str) -> PassphraseKeeper {
        PassphraseKeeper {
            work_factor: 2,
            ..PassphraseKeeper::new(text.to_owned()).unwrap()
        }
    }

    fn identity() -> (RecipientKeeper, RecipientKeeper) {
        let identity = x25519::Identity::generate();
        let to = RecipientKeeper {
            recipients: vec![identity.to_public()],
            identities: Vec::new(),
        };
        let with = RecipientKeeper {
            recipients: Vec::new(),
            identities: vec![identity],
        };
        (to, with)
    }

    #[test]
    fn a_key_comes_back_to_whom_it_was_wrapped_for_and_to_nobody_else() {
        let root = [7; 32];
        let (to, with) = identity();
        let (_, other) = identity();
        let for_recipient = to.wrap(&root).unwrap();
        let for_passphrase = passphrase("correct").wrap(&root).unwrap();
        assert_eq!(with.unwrap(&for_recipient).unwrap(), Some(root));
        assert_eq!(
            passphrase("correct").unwrap(&for_passphrase).unwrap(),
            Some(root)
        );
        assert_eq!(other.unwrap(&for_recipient).unwrap(), None);
        assert_eq!(passphrase("wrong").unwrap(&for_passphrase).unwrap(), None);
        assert_eq!(with.unwrap(&for_passphrase).unwrap(), None);
        assert_eq!(passphrase("correct").unwrap(&for_recipient).unwrap(), None);
        assert!(RecipientKeeper::new().wrap(&root).is_err());
    }

    // spec: VKY-03
    #[test]
    fn a_passphrase_that_asks_for_too_much_work_is_refused() {
        let wrapped = passphrase("correct").wrap(&[7; 32]).unwrap();
        let text = String::from_utf8_lossy(&wrapped[..wrapped.len() - 64]).into_owned();
        let line = text
            .lines()
            .find(|line| line.starts_with("-> scrypt"))
            .unwrap();
        let greedy = line.replace(" 2", " 21");
        assert_ne!(line, greedy);
        let at = text.find(line).unwrap();
        let mut bytes = wrapped[..at].to_vec();
        bytes.extend(greedy.as_bytes());
        bytes.extend(&wrapped[at + line.len()..]);
        assert!(passphrase("correct").unwrap(&bytes).is_err());
    }

    // spec: VKY-01, VKY-02
    #[test]
    fn a_damaged_key_does_not_hide_the_others_and_a_domain_is_never_without_one() {
        let (to, with) = identity();
        let scope = ScopeName::default_scope();
        for number in 1..=3 {
            let objects = MemoryObjects::new();
            objects.plan(number, crate::Step::Dies);
            let shared = std::sync::Arc::new(objects.clone());
            let made = Vault::open_or_create(shared)
                .and_then(|vault| vault.create_domain(&scope, &Sealing::Sealed(&to)));
            assert!(made.is_err(), "call {number}");
            let left = objects.copy();
            let heads = left
                .names()
                .into_iter()
                .filter_map(|name| name.as_domain_head());
            for id in heads {
                let keys = left.list(&ObjectName::folder(ObjectKind::Key, id)).unwrap();
                assert!(!keys.is_empty(), "call {number}");
            }
        }
        let objects = MemoryObjects::new();
        let vault = Vault::open_or_create(std::sync::Arc::new(objects.clone())).unwrap();
        let made = vault.create_domain(&scope, &Sealing::Sealed(&to)).unwrap();
        for _ in 0..3 {
            vault.share_key(made.id(), &with, &to).unwrap();
        }
        for key in vault.keys(made.id()).unwrap().into_iter().take(3) {
            let name = ObjectName::of(ObjectKind::Key, made.id(), key);
            let mut bytes = objects.bytes(&name).unwrap();
            bytes[80] ^= 1;
            objects.tamper(&name, bytes);
        }
        assert!(vault.scope(&scope, Some(&with)).is_ok());
    }

    // spec: VKY-04, VKY-06, VKY-07
    #[test]
    fn rotating_shuts_the_old_key_out_of_the_vault_and_destroying_all_keys_everybody() {
        let objects = MemoryObjects::new();
        let vault = Vault::open_or_create(std::sync::Arc::new(objects.clone())).unwrap();
        let scope = ScopeName::new("tenant").unwrap();
        let (old, (to, with)) = (passphrase("old"), identity());
        let domain = vault.create_domain(&scope, &Sealing::Sealed(&old)).unwrap();
        let guest = Guest::new(32, 1);
        let archived = archive(&domain, 1, &guest, None).unwrap();
        let old_key = vault.keys(domain.id()).unwrap()[0];
        vault.share_key(domain.id(), &old, &to).unwrap();
        vault.destroy_key(domain.id(), old_key).unwrap();
        let refused = vault.scope(&scope, Some(&old)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Key);
        let opened = vault.scope(&scope, Some(&with)).unwrap();
        assert_eq!(restored(&opened, archived.id).unwrap(), guest.image());
        // Who kept the domain open has the root key: rotating does not take it from him.
        assert_eq!(restored(&domain, archived.id).unwrap(), guest.image());
        for key in vault.keys(domain.id()).unwrap() {
            vault.destroy_key(domain.id(), key).unwrap();
        }
        for keeper in [&old as &dyn KeyKeeper, &with] {
            assert_eq!(
                vault.scope(&scope, Some(keeper)).unwrap_err().kind(),
                ErrorKind::Key
            );
        }
        let (listed, _) = vault.domains().unwrap();
        assert!(
            listed
                .iter()
                .any(|found| found.id == domain.id() && found.is_sealed)
        );
    }

    // spec: VKY-05
    #[test]
    fn no_plaintext_and_no_key_is_in_a_sealed_domain() {
        let objects = MemoryObjects::new();
        let vault = Vault::open_or_create(std::sync::Arc::new(objects.clone())).unwrap();
        let keeper = passphrase("correct horse");
        let scope = ScopeName::default_scope();
        let domain = vault
            .create_domain(&scope, &Sealing::Sealed(&keeper))
            .unwrap();
        let guest = Guest::new(16, 1);
        archive(&domain, 1, &guest, None).unwrap();
        let page = &guest.image()[..64];
        for name in objects.names() {
            let bytes = objects.bytes(&name).unwrap();
            let holds = |secret: &[u8]| bytes.windows(secret.len()).any(|found| found == secret);
            assert!(!holds(page), "{name} holds memory");
            assert!(!holds(b"correct horse"), "{name} holds the passphrase");
            assert!(!holds(domain.secrets().object_key()), "{name} holds a key");
        }
        let printed = format!("{keeper:?} {domain:?}");
        assert!(!printed.contains("correct horse"), "{printed}");
    }
}
