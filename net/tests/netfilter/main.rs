//! nftables and conntrack on the real kernel, each test in a network namespace of its own, compared
//! with what the nft and conntrack programs show.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;
mod conntrack;
mod golden;
mod race;
mod read;
mod watch;
