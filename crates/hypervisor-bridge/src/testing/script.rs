//! What happened, in order; and where something is to go wrong.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StepError;
use snapshot_memory::Cancel;

/// How a step goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// It returns an error.
    Error,
    /// It panics.
    Panic,
    /// It succeeds, and somebody asks for the end meanwhile.
    Cancel,
}

/// A record of steps that all fakes of a test share. Clones are the same record.
#[derive(Clone, Debug, Default)]
pub struct Script {
    state: Arc<Mutex<State>>,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct State {
    reached: Vec<String>,
    broken: Option<(String, Break)>,
}

impl Script {
    /// A record in which the step `name` goes wrong, the first time that it is reached.
    #[must_use]
    pub fn breaking(name: &str, how: Break) -> Self {
        let script = Self::default();
        script.lock().broken = Some((name.to_owned(), how));
        script
    }

    /// The flag that [`Break::Cancel`] sets.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Records a step, and breaks it if the script says so.
    #[expect(clippy::panic, reason = "the panic is what is tested")]
    pub fn reach(&self, name: &str) -> Result<(), StepError> {
        let mut state = self.lock();
        state.reached.push(name.to_owned());
        let broken = state.broken.take_if(|(at, _)| at == name);
        drop(state);
        match broken.map(|(_, how)| how) {
            None => Ok(()),
            Some(Break::Error) => Err(format!("scripted failure of {name}").into()),
            Some(Break::Panic) => panic!("scripted panic of {name}"),
            Some(Break::Cancel) => {
                self.cancel.ask();
                Ok(())
            }
        }
    }

    /// Every step so far.
    #[must_use]
    pub fn reached(&self) -> Vec<String> {
        self.lock().reached.clone()
    }

    /// How often a step was reached.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        let reached = self.reached();
        reached.iter().filter(|step| *step == name).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
