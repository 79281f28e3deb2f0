//! Objects in memory, for tests: with calls that fail, stop, or happen although they failed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ListedObject, ObjectError, ObjectName, Objects};

/// Objects in memory. Clones share them.
///
/// Puts and deletes are numbered from 1, over all clones.
#[derive(Clone, Debug, Default)]
pub struct MemoryObjects {
    shared: Arc<Mutex<Shared>>,
}

/// What becomes of one put or delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It fails, and has not happened.
    Fails,
    /// It fails, and has happened.
    FailsDone,
    /// It, and every call after it, fails and does not happen: the process is dead.
    Dies,
}

#[derive(Debug, Default)]
struct Shared {
    objects: BTreeMap<ObjectName, Arc<[u8]>>,
    ignores_conditions: bool,
    changes: usize,
    plan: BTreeMap<usize, Step>,
    is_dead: bool,
}

impl MemoryObjects {
    /// No objects.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy with the same objects, whose calls are counted from 1 and do not fail.
    #[must_use]
    pub fn copy(&self) -> Self {
        let shared = self.lock();
        let copy = Shared {
            objects: shared.objects.clone(),
            ignores_conditions: shared.ignores_conditions,
            ..Shared::default()
        };
        Self {
            shared: Arc::new(Mutex::new(copy)),
        }
    }

    /// Lets a put replace an object without a word, as some stores do.
    pub fn set_ignores_conditions(&self, ignores_conditions: bool) {
        self.lock().ignores_conditions = ignores_conditions;
    }

    /// Says what becomes of put or delete `number`.
    pub fn plan(&self, number: usize, step: Step) {
        self.lock().plan.insert(number, step);
    }

    /// How many puts and deletes there were.
    #[must_use]
    pub fn change_count(&self) -> usize {
        self.lock().changes
    }

    /// The names of all objects.
    #[must_use]
    pub fn names(&self) -> Vec<ObjectName> {
        self.lock().objects.keys().cloned().collect()
    }

    /// The bytes of an object.
    #[must_use]
    pub fn bytes(&self, name: &ObjectName) -> Option<Vec<u8>> {
        self.lock().objects.get(name).map(|bytes| bytes.to_vec())
    }

    /// Puts bytes in the place of an object, behind everybody's back.
    pub fn tamper(&self, name: &ObjectName, bytes: Vec<u8>) {
        self.lock().objects.insert(name.clone(), bytes.into());
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic of a test thread leaves the map as it was between two calls.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Shared) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let mut shared = self.lock();
        shared.check_alive()?;
        shared.changes += 1;
        let number = shared.changes;
        match shared.plan.get(&number) {
            None => change(&mut shared),
            Some(Step::Fails) => Err(failed().into()),
            Some(Step::FailsDone) => {
                change(&mut shared)?;
                Err(failed().into())
            }
            Some(Step::Dies) => {
                shared.is_dead = true;
                shared.check_alive()
            }
        }
    }
}

impl Shared {
    fn check_alive(&self) -> Result<(), ObjectError> {
        if self.is_dead {
            return Err(io::Error::other("this process is dead").into());
        }
        Ok(())
    }
}

impl Objects for MemoryObjects {
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        self.change(|shared| {
            if shared.objects.contains_key(name) && !shared.ignores_conditions {
                return Err(ObjectError::Exists);
            }
            shared.objects.insert(name.clone(), bytes.into());
            Ok(())
        })
    }

    fn get(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<usize, ObjectError> {
        let bytes = {
            let shared = self.lock();
            shared.check_alive()?;
            let found = shared.objects.get(name).ok_or(ObjectError::NotFound)?;
            Arc::clone(found)
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).unwrap_or_default();
        let len = rest.len().min(out.len());
        for (target, byte) in out.iter_mut().zip(rest) {
            *target = *byte;
        }
        Ok(len)
    }

    fn list(&self, prefix: &ObjectName) -> Result<Vec<ListedObject>, ObjectError> {
        let shared = self.lock();
        shared.check_alive()?;
        let below = shared.objects.iter();
        let below = below.filter(|(name, _)| name.as_str().starts_with(prefix.as_str()));
        Ok(below
            .map(|(name, bytes)| ListedObject {
                name: name.clone(),
                len_bytes: bytes.len() as u64,
            })
            .collect())
    }

    fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.change(|shared| {
            shared.objects.remove(name);
            Ok(())
        })
    }
}

fn failed() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer came")
}
