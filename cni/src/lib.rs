//! The CNI protocol: what a runtime says to a plugin, and what the plugin answers.
//!
//! Reading goes `process` → `env` + `conf` → `Call`; answering goes `Outcome` → `process`.
//! All but `process` and `delegate` are pure functions of their input.

mod args;
mod attachments;
mod call;
mod conf;
mod delegate;
mod env;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod outcome;
mod plugin;
mod process;
mod version;

pub use args::Args;
pub use attachments::{Attachment, Attachments};
pub use call::Call;
pub use conf::Conf;
pub use delegate::Delegate;
pub use env::{Environment, Verb};
pub use error::{Code, Error, Result};
pub use json::Object;
pub use outcome::{Address, Dns, Interface, Outcome, Route};
pub use plugin::Plugin;
pub use process::{ABOUT_VERSION, run};
pub use version::Version;
