//! A page handler and a VMM that it serves, of which one is ended.

use super::task::{Role, Said, Task};
use super::victim::{Moment, Victim};
use crate::campaign::CampaignOptions;
use crate::stored_guest::Failure;

/// Words after which a handler has listened and begun to serve.
const SERVING: u64 = 2;

/// A handler and its client.
pub(super) struct Pair<'o> {
    /// That of the one which is ended.
    task: Task,
    options: &'o CampaignOptions,
}

impl<'o> Pair<'o> {
    pub(super) fn new(task: Task, options: &'o CampaignOptions) -> Self {
        Self { task, options }
    }

    /// Ends one of the two at `moment`. Whatever is left of the two, another client then gets every
    /// page: of the same handler, or of one that takes the place of that which was ended.
    ///
    /// Tells whether a client noticed the end of its handler; what went wrong is the inner error.
    pub(super) fn end_one(&self, moment: Moment) -> Result<Result<bool, String>, Failure> {
        let mut handler = self.start(Role::Handler, false)?;
        handler.listen(1, self.options.timeout());
        let client = self.start(Role::Client, false)?;
        let mut is_gone = false;
        let mut problems = Vec::new();
        let mut note = |who: &str, problem: String| problems.push(format!("{who}: {problem}"));
        let timeout = self.options.timeout();
        if self.task.role == Role::Handler {
            let (ended, problem) = handler.end_at(moment.after(SERVING), timeout)?;
            if let Some(problem) = problem {
                note("the handler", ended.tell(problem));
            }
            let (ended, problem) = client.until_end(timeout)?;
            if let Some(problem) = problem {
                note("the client", ended.tell(problem));
            }
            is_gone = ended.heard.contains(&Said::Gone);
            handler = self.start(Role::Handler, false)?;
            handler.listen(1, timeout);
        } else {
            let (ended, problem) = client.end_at(moment, timeout)?;
            if let Some(problem) = problem {
                note("the client", ended.tell(problem));
            }
        }
        let (ended, problem) = self.start(Role::Client, true)?.until_end(timeout)?;
        if let Some(problem) = problem {
            note("the client afterwards", ended.tell(problem));
        }
        let (ended, problem) = handler.end_at(Moment::now(), timeout)?;
        if let Some(problem) = problem {
            note("the handler afterwards", ended.tell(problem));
        }
        if problems.is_empty() {
            return Ok(Ok(is_gone));
        }
        Ok(Err(problems.join("; ")))
    }

    fn start(&self, role: Role, once: bool) -> Result<Victim, Failure> {
        let task = Task {
            role,
            once,
            ..self.task.clone()
        };
        Ok(Victim::start(&task, self.options.sabotage())?)
    }
}
