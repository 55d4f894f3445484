//! The etcd registry against real etcd: one member or three, over links that are slow, dead or
//! half dead, with certificates and passwords.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod access;
mod answers;
mod basics;
mod certificates;
mod outages;
mod proxy;
mod server;
mod storms;
