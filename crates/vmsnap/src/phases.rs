//! How long the phases of a command take: the spans that the engine tells of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::Subscriber;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The time in one phase.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Phase {
    /// Its name.
    pub(crate) name: &'static str,
    /// How often there was one.
    pub(crate) count: u64,
    /// How long they took together.
    pub(crate) total_ms: f64,
    /// The part of that in no phase below.
    pub(crate) own_ms: f64,
}

/// Sums the time in each phase. A clone sums into the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases(Arc<Mutex<BTreeMap<&'static str, Sum>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    total: Duration,
    below: Duration,
}

/// What is known of one span that is open.
#[derive(Clone, Copy, Debug, Default)]
struct Timing {
    entered: Option<Instant>,
    total: Duration,
    below: Duration,
}

impl Phases {
    /// Does `work`, and sums the phases of it on this thread.
    pub(crate) fn watch<T>(&self, work: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::registry().with(self.clone());
        tracing::subscriber::with_default(subscriber, work)
    }

    /// All phases, the longest first.
    pub(crate) fn all(&self) -> Vec<Phase> {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mut phases: Vec<Phase> = sums
            .iter()
            .map(|(&name, sum)| Phase {
                name,
                count: sum.count,
                total_ms: ms(sum.total),
                own_ms: ms(sum.total.saturating_sub(sum.below)),
            })
            .collect();
        phases.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms));
        phases
    }
}

impl<S> Layer<S> for Phases
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Timing::default());
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(timing) = span.extensions_mut().get_mut::<Timing>()
        {
            timing.entered = Some(Instant::now());
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(timing) = span.extensions_mut().get_mut::<Timing>()
            && let Some(entered) = timing.entered.take()
        {
            timing.total += entered.elapsed();
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let timing = span
            .extensions()
            .get::<Timing>()
            .copied()
            .unwrap_or_default();
        if let Some(above) = span.parent()
            && let Some(above) = above.extensions_mut().get_mut::<Timing>()
        {
            above.below += timing.total;
        }
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry(span.name()).or_default();
        sum.count += 1;
        sum.total += timing.total;
        sum.below += timing.below;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: ANA-10
    #[test]
    fn phases_are_counted_and_what_is_below_is_no_part_of_their_own() {
        let phases = Phases::default();
        let value = phases.watch(|| {
            for _ in 0..2 {
                let outer = tracing::info_span!("outer");
                let _outer = outer.enter();
                let inner = tracing::debug_span!("inner");
                let _inner = inner.enter();
                std::thread::sleep(Duration::from_millis(2));
            }
            7
        });
        assert_eq!(value, 7);
        let all = phases.all();
        let told: Vec<_> = all.iter().map(|phase| (phase.name, phase.count)).collect();
        assert_eq!(told, [("outer", 2), ("inner", 2)]);
        let (outer, inner) = (all[0], all[1]);
        assert!(
            inner.total_ms >= 4.0 && outer.total_ms >= inner.total_ms,
            "{all:?}"
        );
        assert!(
            outer.own_ms <= outer.total_ms - inner.total_ms + 0.001,
            "{all:?}"
        );
        assert!(
            (inner.own_ms - inner.total_ms).abs() < f64::EPSILON,
            "{all:?}"
        );
    }
}
