//! The real binary, in directories of its own.

mod bad_input;
mod chain;
mod copies;
mod limits;
mod planted;
mod privileges;
mod sandbox;
mod schemas;
mod signals;
