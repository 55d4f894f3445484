//! Memory that begins where a cache line does, as the kernel's pages do: it copies a third faster to cold
//! memory from what lies alike within a line.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A number of bytes, zeros at first, from the start of a cache line on.
pub(crate) struct Buffer {
    /// The bytes, with room to move them to a line's start.
    bytes: Box<[u8]>,
    start: usize,
    length: usize,
}

/// What is moved between memory and a processor at a time, on most.
pub(crate) const LINE: usize = 64;

impl Buffer {
    pub(crate) fn new(length: usize) -> Self {
        let bytes = vec![0; length + LINE - 1].into_boxed_slice();
        // An address that cannot be told leaves the bytes where they are: slower, as right.
        let start = bytes.as_ptr().align_offset(LINE).min(LINE - 1);
        Self {
            bytes,
            start,
            length,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_a_line_and_has_its_length() {
        for length in [1, 63, 64, 65, 4096, 65_536] {
            let mut buffer = Buffer::new(length);
            assert_eq!(buffer.as_ptr().addr() % LINE, 0);
            assert_eq!(buffer.len(), length);
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
    }
}
