//! Why bytes are no packet that may go further.

/// One variant for each reason, so that each can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    #[error("an empty packet")]
    Empty,
    #[error("neither IPv4 nor IPv6")]
    Version,
    #[error("shorter than its IP header")]
    HeaderTruncated,
    #[error("an IPv4 header length below 20 bytes")]
    HeaderLength,
    #[error("a total length that does not hold the IP header")]
    LengthBelowHeader,
    #[error("a total length beyond the packet's end")]
    LengthBeyondEnd,
    #[error("an IPv6 extension header beyond the packet's end")]
    ExtensionTruncated,
    #[error("more IPv6 extension headers than any real packet has")]
    ExtensionsTooMany,
    #[error("a TCP or UDP header that is cut off or too short")]
    TransportTruncated,
    #[error("a checksum outside of the packet's payload")]
    ChecksumOutside,
    #[error("a kind of segmentation that was never asked for")]
    SegmentationUnknown,
    #[error("a segment size of zero")]
    SegmentationSize,
    #[error("a kind of segmentation that does not fit the protocol")]
    SegmentationMismatch,
    #[error("a fragment that asks to be segmented")]
    SegmentationOfFragment,
}

impl Malformed {
    pub const ALL: [Self; 14] = [
        Self::Empty,
        Self::Version,
        Self::HeaderTruncated,
        Self::HeaderLength,
        Self::LengthBelowHeader,
        Self::LengthBeyondEnd,
        Self::ExtensionTruncated,
        Self::ExtensionsTooMany,
        Self::TransportTruncated,
        Self::ChecksumOutside,
        Self::SegmentationUnknown,
        Self::SegmentationSize,
        Self::SegmentationMismatch,
        Self::SegmentationOfFragment,
    ];
}
