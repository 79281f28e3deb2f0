//! Counters and timers on another host.
