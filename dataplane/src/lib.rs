//! The userspace packet path: TUN queues, UDP batches, segmenting and coalescing, the peer table.

pub mod packet;
