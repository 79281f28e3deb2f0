//! What the store promises, through its public interface.

mod cache;
mod concurrency;
mod damage;
mod feature;
mod lifecycle;
mod model;
mod on_demand;
mod plugged;
mod preparation;
mod refresher;
mod relayout;
mod rig;
mod working_set;
