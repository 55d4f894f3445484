//! Packets as values: what is inside them, how they are cut, joined and answered, and whose they
//! are. Pure: no system call, no clock, and nothing allocated per packet.

pub mod checksum;
pub mod coalesce;
pub mod ecn;
pub mod fuzz;
pub mod hop;
pub mod icmp;
pub mod inner;
mod malformed;
pub mod peers;
#[cfg(test)]
mod sample;
pub mod segment;
pub mod virtio;

pub use malformed::Malformed;

pub const ICMPV4: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// The big-endian number at `at`, which the caller has seen to be there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// A length as a header's field. What the kernel hands out and takes is at most 65,535 long.
fn field(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
