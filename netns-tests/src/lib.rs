//! The test world: private namespaces on one kernel, CNI plugins run as a
//! runtime runs them, faults as calls, and a look at what was left behind.
//!
//! ```no_run
//! use weft_netns::{Attachment, Chain, Cni, in_world};
//!
//! # let conflist = serde_json::json!({});
//! // in a #[test]:
//! in_world(|world| {
//!     let pod = world.netns("pod");
//!     let chain = Chain::new(&Cni::weft(), conflist);
//!     let attachment = Attachment::new("pod-1", &pod);
//!     chain.add(&attachment).ok();
//!     pod.exec("ip addr show eth0");
//!     chain.del(&attachment).ok();
//! });
//! ```
//!
//! What the library needs and cannot get is a failed test: its functions panic
//! and say what they were doing, so that a test reads as the story it tells.
pub mod apiserver;
mod chain;
mod cni;
mod command;
mod faults;
mod leftovers;
mod namespace;
mod ping;
mod private_dir;
mod reexec;
mod responder;
mod skip;
mod syscalls;
mod wait;
mod world;

pub use chain::{Chain, Run};
pub use cni::{Attachment, Call, Cni, Failure, Verb};
pub use command::{Cmd, Done, Running};
pub use faults::{Outcome, Trace, kill_at_syscall, trace};
pub use leftovers::{Difference, Snapshot, Watch};
pub use namespace::Netns;
pub use ping::{ping, wait_until_answers};
pub use reexec::{in_rootless_world, in_world};
pub use responder::{TcpResponder, UdpResponder, ask_tcp, ask_udp};
pub use skip::{Need, skip_unless};
pub use wait::{wait_for, wait_until};
pub use world::{Kind, World};
