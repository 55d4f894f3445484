//! Sets and maps: what their keys and values are made of, and their elements.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::object::{Value, Verdict};

/// A value's type: its number is nft's, for listing; its length is what the kernel counts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataType {
    pub(super) number: u32,
    pub(super) len: u32,
}

impl DataType {
    pub const IPV4: Self = Self { number: 7, len: 4 };
    pub const IPV6: Self = Self { number: 8, len: 16 };
    pub const ETHER: Self = Self { number: 9, len: 6 };
    /// A layer-4 protocol number.
    pub const PROTO: Self = Self { number: 12, len: 1 };
    /// A port.
    pub const SERVICE: Self = Self { number: 13, len: 2 };
    pub const MARK: Self = Self { number: 19, len: 4 };
    pub const IFNAME: Self = Self {
        number: 41,
        len: 16,
    };

    pub const fn ip(is_ipv6: bool) -> Self {
        if is_ipv6 { Self::IPV6 } else { Self::IPV4 }
    }

    /// Whether its bytes are in the machine's order.
    pub(super) fn is_host_order(self) -> bool {
        self == Self::MARK || self == Self::IFNAME
    }

    /// `TYPE_BITS` is 6: the numbers of a concatenation stand one after another.
    pub(super) fn concatenated(types: &[Self]) -> Self {
        if let [single] = types {
            return *single;
        }
        types
            .iter()
            .fold(Self { number: 0, len: 0 }, |sum, next| Self {
                number: sum.number << 6 | next.number,
                len: sum.len + next.len.next_multiple_of(4),
            })
    }
}

/// The bytes of a concatenated key or value. A single field stands as it is, several are padded.
pub fn concat(fields: &[&[u8]]) -> Vec<u8> {
    if let [single] = fields {
        return single.to_vec();
    }
    let mut bytes = Vec::with_capacity(fields.iter().map(|f| f.len().next_multiple_of(4)).sum());
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// An address in network byte order, for keys and values.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An interface name as registers and keys hold it: sixteen bytes, zero-filled.
pub fn ifname(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// What a set is made of.
#[derive(Debug, Clone, Copy)]
pub struct SetSpec<'a> {
    pub key: &'a [DataType],
    pub data: SetData<'a>,
    /// Whether the elements are ranges: see [`Element::network`] and [`Element::until`].
    pub interval: bool,
    /// Whether elements may expire: see [`Element::lasting`] and
    /// [`NftSocket::retire_owned`](super::NftSocket::retire_owned).
    pub mortal: bool,
    pub comment: &'a str,
}

impl<'a> SetSpec<'a> {
    pub const fn set(key: &'a [DataType]) -> Self {
        Self {
            key,
            data: SetData::None,
            interval: false,
            mortal: false,
            comment: "",
        }
    }

    pub const fn map(key: &'a [DataType], data: &'a [DataType]) -> Self {
        Self {
            key,
            data: SetData::Values(data),
            interval: false,
            mortal: false,
            comment: "",
        }
    }

    pub const fn verdict_map(key: &'a [DataType]) -> Self {
        Self {
            key,
            data: SetData::Verdicts,
            interval: false,
            mortal: false,
            comment: "",
        }
    }

    pub const fn interval(self) -> Self {
        Self {
            interval: true,
            ..self
        }
    }

    pub const fn mortal(self) -> Self {
        Self {
            mortal: true,
            ..self
        }
    }

    pub const fn comment(self, comment: &'a str) -> Self {
        Self { comment, ..self }
    }

    /// `enum nft_set_flags`.
    pub(super) fn flags(&self) -> u32 {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const CONCAT: u32 = 0x80;
        let is_map = !matches!(self.data, SetData::None);
        [
            (self.interval, INTERVAL),
            (is_map, MAP),
            (self.mortal, TIMEOUT),
            (self.is_range_of_fields(), CONCAT),
        ]
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .sum()
    }

    pub(super) fn is_range_of_fields(&self) -> bool {
        self.interval && self.key.len() > 1
    }
}

#[derive(Debug, Clone, Copy)]
pub enum SetData<'a> {
    None,
    Values(&'a [DataType]),
    Verdicts,
}

/// An element as it is written.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    pub(super) key: &'a [u8],
    pub(super) end: Option<&'a [u8]>,
    pub(super) value: Value<'a>,
    pub(super) comment: &'a str,
    pub(super) flags: u32,
    pub(super) lifetime: Option<Duration>,
}

/// None at all would mean for ever.
const SHORTEST_LIFE: Duration = Duration::from_millis(1);
/// `NFT_SET_ELEM_INTERVAL_END`: this key is the first one past a range.
pub(super) const INTERVAL_END: u32 = 1;

impl<'a> Element<'a> {
    pub const fn new(key: &'a [u8]) -> Self {
        Self {
            key,
            end: None,
            value: Value::None,
            comment: "",
            flags: 0,
            lifetime: None,
        }
    }

    pub const fn value(self, value: &'a [u8]) -> Self {
        Self {
            value: Value::Bytes(value),
            ..self
        }
    }

    pub const fn verdict(self, verdict: Verdict<'a>) -> Self {
        Self {
            value: Value::Verdict(verdict),
            ..self
        }
    }

    /// nft shows it as `comment`, and whoever owns the element can be read from it.
    pub const fn comment(self, comment: &'a str) -> Self {
        Self { comment, ..self }
    }

    /// Gone after that time; in a mortal set.
    pub const fn lasting(self, lifetime: Duration) -> Self {
        Self {
            lifetime: Some(lifetime),
            ..self
        }
    }

    /// Gone as soon as the kernel's clock can tell; with the value it has.
    pub(super) const fn expiring(self) -> Self {
        self.lasting(SHORTEST_LIFE)
    }

    pub(super) const fn holding(self, value: Value<'a>) -> Self {
        Self { value, ..self }
    }

    /// The last key of the range, in an interval set whose key is a concatenation.
    pub const fn until(self, last: &'a [u8]) -> Self {
        Self {
            end: Some(last),
            ..self
        }
    }

    /// The first key past the range, in an interval set with a plain key.
    pub const fn past(key: &'a [u8]) -> Self {
        Self {
            key,
            end: None,
            value: Value::None,
            comment: "",
            flags: INTERVAL_END,
            lifetime: None,
        }
    }
}

/// The keys of a network in a plain interval set: the first address of it, and the first past it.
/// There is nothing past a network that reaches the end of the address space.
pub fn network_bounds(network: IpNetwork) -> (Vec<u8>, Option<Vec<u8>>) {
    let first = octets(network.network());
    let mut past = octets(network.broadcast());
    for byte in past.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return (first, Some(past));
        }
    }
    (first, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_fields_are_padded_and_a_single_one_is_not() {
        assert_eq!(
            concat(&[&[6], &[10, 0, 0, 1], &[0, 80]]),
            [6, 0, 0, 0, 10, 0, 0, 1, 0, 80, 0, 0]
        );
        assert_eq!(concat(&[&[0, 80]]), [0, 80]);
        let key = DataType::concatenated(&[DataType::PROTO, DataType::IPV4, DataType::SERVICE]);
        assert_eq!((key.number, key.len), ((12 << 12) | (7 << 6) | 13, 12));
    }

    #[test]
    fn a_network_at_the_end_of_the_address_space_has_nothing_past_it() {
        let bounds = |text: &str| network_bounds(text.parse().unwrap());
        assert_eq!(
            bounds("10.1.255.0/24"),
            (vec![10, 1, 255, 0], Some(vec![10, 2, 0, 0]))
        );
        assert_eq!(bounds("240.0.0.0/4"), (vec![240, 0, 0, 0], None));
    }
}
