//! What stands before each packet of a TUN with IFF_VNET_HDR: which work is still to be done on it.

/// `struct virtio_net_hdr`, in the byte order of the machine (TUNSETVNETLE is never asked for).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    pub flags: u8,
    pub gso_type: u8,
    /// What the kernel calls the length of all headers, and does not always keep to.
    pub hdr_len: u16,
    /// The payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksum starts, counted from the packet's first byte.
    pub csum_start: u16,
    /// Where the checksum belongs, counted from `csum_start`.
    pub csum_offset: u16,
}

/// The field at `csum_start + csum_offset` holds the pseudo-header's sum, and the rest is missing.
pub const NEEDS_CSUM: u8 = 1;
/// The checksum was verified. The kernel's TUN takes it for nothing.
pub const DATA_VALID: u8 = 2;

pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
/// UDP cut into IP fragments: never asked for.
pub const GSO_UDP: u8 = 3;
pub const GSO_TCPV6: u8 = 4;
/// UDP cut into datagrams (USO), since Linux 6.2.
pub const GSO_UDP_L4: u8 = 5;
/// Beside a TCP type: the first segment carries CWR, which the others must not.
pub const GSO_ECN: u8 = 0x80;

impl Header {
    pub const LENGTH: usize = 10;

    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// What was read from a TUN: the header and the packet behind it.
    pub fn split(read: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = read.split_first_chunk()?;
        Some((Self::from_bytes(*header), packet))
    }

    pub fn needs_checksum(self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_read_shorter_than_the_header_is_none() {
        assert_eq!(Header::split(&[0; 9]), None);
        assert_eq!(Header::split(&[0; 10]), Some((Header::default(), &[][..])));
    }

    #[test]
    fn the_fields_lie_where_the_kernel_has_them() {
        let header = Header {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4 | GSO_ECN,
            hdr_len: 52,
            gso_size: 1448,
            csum_start: 20,
            csum_offset: 16,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[..2], [1, 0x81]);
        for (at, value) in [(2, 52_u16), (4, 1448), (6, 20), (8, 16)] {
            assert_eq!(bytes[at..at + 2], value.to_ne_bytes());
        }
    }

    proptest! {
        #[test]
        fn a_header_survives_being_written_and_read(bytes: [u8; 10]) {
            prop_assert_eq!(Header::from_bytes(bytes).to_bytes(), bytes);
        }
    }
}
