//! host-local: ranges, a choice, reservations on disk.
//!
//! An ADD goes `conf` (the configuration → a plan) → `allocate` (what is reserved, or undone) →
//! `store` (the network's `directory`, under its `lock`, with the `index` beside it). Whose turn it
//! is, `range` and `choice` say, which are pure.
//!
//! The directory is the truth, and it is what the reference plugin reads and writes too, under the
//! same lock. The index is ours alone, and can be lost at any time.

mod allocate;
mod boot;
mod choice;
mod conf;
mod directory;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod index;
mod lock;
mod mortal;
mod owner;
mod plugin;
mod range;
mod store;
mod survey;
#[cfg(test)]
mod testing;

pub use plugin::{HostLocal, reserved};
