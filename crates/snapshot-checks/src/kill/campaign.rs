//! Who is ended when, and the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use snapshot_memory::backend::FsBackend;
use snapshot_memory::skip::skip;
use snapshot_memory::{UffdContext, UffdOptions};
use snapshot_store::{OpenOptions, Store};

use super::judge::Judge;
use super::options::Options;
use super::served::Pair;
use super::task::{Role, Said, Task};
use super::victim::{Moment, Victim};
use crate::campaign::Tally;
use crate::random::Random;
use crate::stored_guest::{Failure, tell};

/// Ends processes, and looks at the store after each.
pub(super) fn run(options: &Options) -> Result<Tally, Failure> {
    let random = options.common.random();
    let place = options.common.place()?;
    let store = place.path().join("store");
    Store::create(
        Arc::new(FsBackend::create(&store)?),
        &OpenOptions::default(),
    )?;
    let kvm = tinyvm::kvm_available();
    if let Err(error) = &kvm {
        skip("kvm", &error.to_string());
    }
    let userfaultfd = UffdContext::new(UffdOptions::default());
    if let Err(error) = &userfaultfd {
        skip("uffd", &error.to_string());
    }
    let mut campaign = Campaign {
        options,
        store,
        has_kvm: kvm.is_ok(),
        has_userfaultfd: userfaultfd.is_ok(),
        random,
        judge: Judge::default(),
        tally: Tally::new("kills", "losses"),
        gone: 0,
        victims: BTreeMap::new(),
    };
    // A process that is waited for has its own time; this one is for the store.
    let watchdog = campaign.tally.watch(options.common.timeout() * 3)?;
    for number in 1..=options.count {
        watchdog.begins(format!("kill {number}"));
        campaign.round(number)?;
        if options.common.is_enough(&campaign.tally) {
            break;
        }
    }
    let victims = campaign.victims.iter();
    let victims: Vec<String> = victims
        .map(|(role, count)| format!("{role:?} {count}"))
        .collect();
    let published = campaign.judge.count();
    let gone = campaign.gone;
    println!(
        "victims: {}; published: {published}; ends of handlers noticed: {gone}",
        victims.join(", ")
    );
    Ok(campaign.tally)
}

struct Campaign<'o> {
    options: &'o Options,
    store: PathBuf,
    has_kvm: bool,
    has_userfaultfd: bool,
    random: Random,
    judge: Judge,
    tally: Tally,
    /// Handlers whose end their client noticed: it was served by them.
    gone: u64,
    /// How often each was ended.
    victims: BTreeMap<Role, u64>,
}

impl Campaign<'_> {
    fn round(&mut self, number: u64) -> Result<(), Failure> {
        let roles = [
            Role::Vmm,
            Role::Vmm,
            Role::Writer,
            Role::Handler,
            Role::Client,
        ];
        let mut role = self.random.pick(&roles).copied().unwrap_or(Role::Vmm);
        let served = match role {
            Role::Handler | Role::Client if self.has_userfaultfd => {
                self.judge.pick(&mut self.random)
            }
            _ => None,
        };
        if served.is_none() && role != Role::Writer {
            role = Role::Vmm;
        }
        let task = Task {
            role,
            store: self.store.clone(),
            kvm: self.has_kvm && self.random.is_one_in(2),
            seed: self.random.next(),
            socket: served.map(|_| self.store.with_file_name("pages.sock")),
            snapshot: served,
            once: false,
        };
        let moment = Moment::choose(&mut self.random);
        self.tally.tries();
        *self.victims.entry(role).or_default() += 1;
        if served.is_some() {
            let pair = Pair::new(task, &self.options.common);
            match pair.end_one(moment)? {
                Ok(is_gone) => self.gone += u64::from(is_gone),
                Err(problem) => self.lost(number, role, &problem),
            }
        } else {
            self.end(number, &task, moment)?;
        }
        if let Err(error) = self.judge.look(&self.store) {
            self.lost(number, role, &tell(&*error));
        }
        Ok(())
    }

    /// Ends a victim that is alone with the store.
    fn end(&mut self, number: u64, task: &Task, moment: Moment) -> Result<(), Failure> {
        let victim = Victim::start(task, self.options.common.sabotage())?;
        let (ended, problem) = victim.end_at(moment, self.options.common.timeout())?;
        for said in &ended.heard {
            if let Said::Published(id) = said {
                self.judge.announced(*id);
            }
        }
        if let Some(problem) = problem {
            self.lost(number, task.role, &ended.tell(problem));
        }
        Ok(())
    }

    fn lost(&mut self, number: u64, role: Role, problem: &str) {
        self.tally
            .differs(&format!("kill {number}, {role:?}: {problem}"));
    }
}
