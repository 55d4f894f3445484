//! The connections the kernel tracks: found by what they first asked for, and forgotten.
//!
//! A forgotten connection is tracked anew with its next packet, and translated by the rules that
//! stand then. Until it is, a flow of UDP goes on to wherever it was led when it began.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::batch::Batch;
use crate::error::{Error, Result, Why};
use crate::nft::octets;
use crate::nft::wire::{Attrs, Writer};
use crate::socket::{Protocol, Socket};

/// Speaks for the network namespace the thread was in when it was opened.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

/// Which connections: those of one IP version that are like all that is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    pub is_ipv6: bool,
    /// `IPPROTO_*`. A port without a protocol is not looked at.
    pub protocol: Option<u8>,
    /// Where the first packet wanted to go, before any translation.
    pub original_port: Option<u16>,
    pub original_address: Option<IpAddr>,
    /// Who answers, after all translation: the pod behind a mapped port.
    pub reply_source: Option<IpAddr>,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Zero for protocols without ports.
    pub source_port: u16,
    pub destination_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub original: Tuple,
    pub reply: Tuple,
    /// The attributes that name it, as the kernel wants them back.
    identity: Vec<u8>,
}

impl Conntrack {
    /// For the network namespace the calling thread is in.
    pub fn open() -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Protocol::Netfilter)?,
        })
    }

    pub fn list(&mut self, filter: &Filter) -> Result<Vec<Connection>> {
        self.list_any(filter.is_ipv6, &[*filter])
    }

    /// Forgets the connections that pass any of the filters, and returns how many there were.
    pub fn delete(&mut self, filters: &[Filter]) -> Result<usize> {
        let mut deleted = 0;
        for is_ipv6 in [false, true] {
            let wanted: Vec<_> = filters
                .iter()
                .copied()
                .filter(|filter| filter.is_ipv6 == is_ipv6)
                .collect();
            if !wanted.is_empty() {
                let found = self.list_any(is_ipv6, &wanted)?;
                deleted += self.delete_found(is_ipv6, &found)?;
            }
        }
        Ok(deleted)
    }

    /// A listing goes through the hash table of the whole machine: 12 ms where it has 262,144
    /// buckets, however few of them are taken. A namespace that tracks nothing is spared this.
    fn list_any(&mut self, is_ipv6: bool, filters: &[Filter]) -> Result<Vec<Connection>> {
        if self.count()? == 0 {
            return Ok(Vec::new());
        }
        let request = request(&common(filters));
        let doing = format!("list tracked {} connections", version(is_ipv6));
        self.socket
            .dump(GET, &doing, request.bytes(), |payload, found| {
                // Kernels before 5.8 ignore the filter and send everything.
                found.extend(
                    Connection::parse(payload)
                        .filter(|found| filters.iter().any(|filter| filter.matches(found))),
                );
                Some(())
            })
    }

    fn count(&mut self) -> Result<u32> {
        let doing = "count tracked connections";
        let mut batch = Batch::new();
        batch.get(GET_STATS, doing.into(), |out| {
            out.extend_from_slice(Writer::payload(0, 0).bytes());
        });
        let stats = self.socket.run_one(&mut batch)?;
        Attrs::of(&stats)
            .be32(CTA_STATS_GLOBAL_ENTRIES)
            .ok_or_else(|| Error::new(doing, Why::Garbled("no number of entries")))
    }

    fn delete_found(&mut self, is_ipv6: bool, found: &[Connection]) -> Result<usize> {
        let mut batch = Batch::new();
        for connection in found {
            let doing = format!("forget the connection {}", connection.original);
            batch.change(DELETE, 0, doing, |out| {
                out.extend_from_slice(Writer::payload(family(is_ipv6), 0).bytes());
                out.extend_from_slice(&connection.identity);
            });
        }
        let mut deleted = 0;
        for outcome in self.socket.run(&mut batch)? {
            match outcome {
                Ok(_) => deleted += 1,
                // It ended by itself in the meantime.
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

impl Filter {
    fn matches(&self, connection: &Connection) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let Connection {
            original, reply, ..
        } = connection;
        fits(self.protocol, original.protocol)
            && (self.protocol.is_none() || fits(self.original_port, original.destination_port))
            && fits(self.original_address, original.destination)
            && fits(self.reply_source, reply.source)
            && original.destination.is_ipv6() == self.is_ipv6
    }
}

impl Connection {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let attrs = Attrs::of(payload);
        let mut identity = Writer::default();
        for (kind, value) in attrs.iter() {
            if [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE].contains(&kind) {
                identity.attr(kind, value);
            }
        }
        Some(Self {
            original: Tuple::parse(attrs.inside(CTA_TUPLE_ORIG))?,
            reply: Tuple::parse(attrs.inside(CTA_TUPLE_REPLY))?,
            identity: identity.into_bytes(),
        })
    }
}

impl Tuple {
    fn parse(tuple: Attrs<'_>) -> Option<Self> {
        let (ip, protocol) = (tuple.inside(CTA_TUPLE_IP), tuple.inside(CTA_TUPLE_PROTO));
        let address = |v4, v6| address(ip.find(v4).or_else(|| ip.find(v6))?);
        Some(Self {
            source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
            protocol: protocol.u8(CTA_PROTO_NUM)?,
            source_port: protocol.be16(CTA_PROTO_SRC_PORT).unwrap_or(0),
            destination_port: protocol.be16(CTA_PROTO_DST_PORT).unwrap_or(0),
        })
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        } = self;
        write!(
            f,
            "{source} port {source_port} to {destination} port {destination_port}"
        )?;
        write!(f, ", protocol {protocol}")
    }
}

/// What all filters agree on, as far as the kernel can look: it takes only one.
fn common(filters: &[Filter]) -> Filter {
    fn same<T: PartialEq + Copy>(
        filters: &[Filter],
        field: impl Fn(&Filter) -> Option<T>,
    ) -> Option<T> {
        let first = field(filters.first()?)?;
        filters
            .iter()
            .all(|filter| field(filter) == Some(first))
            .then_some(first)
    }
    let protocol = same(filters, |filter| filter.protocol);
    Filter {
        is_ipv6: filters.first().is_some_and(|filter| filter.is_ipv6),
        protocol,
        original_port: protocol.and_then(|_| same(filters, |filter| filter.original_port)),
        original_address: same(filters, |filter| filter.original_address)
            .filter(|address| kernel_can_compare(*address)),
        reply_source: same(filters, |filter| filter.reply_source)
            .filter(|address| kernel_can_compare(*address)),
    }
}

/// Asked for an IPv6 address, the kernel (5.8 to 6.18 at least) leaves out just the connections
/// that have it: its comparison is the wrong way round. All are looked at here again in any case.
fn kernel_can_compare(address: IpAddr) -> bool {
    address.is_ipv4()
}

fn request(filter: &Filter) -> Writer {
    let mut w = Writer::payload(family(filter.is_ipv6), 0);
    let (mut original, mut reply) = (0u32, 0u32);

    let tuple = w.nest(CTA_TUPLE_ORIG);
    if let Some(address) = filter.original_address {
        original |= FLAG_IP_DST;
        write_address(&mut w, address, CTA_IP_V4_DST, CTA_IP_V6_DST);
    }
    if let Some(number) = filter.protocol {
        original |= FLAG_PROTO_NUM;
        let protocol = w.nest(CTA_TUPLE_PROTO);
        w.u8(CTA_PROTO_NUM, number);
        if let Some(port) = filter.original_port {
            original |= FLAG_PROTO_DST_PORT;
            w.be16(CTA_PROTO_DST_PORT, port);
        }
        w.end(protocol);
    }
    w.end(tuple);
    if let Some(address) = filter.reply_source {
        reply |= FLAG_IP_SRC;
        let tuple = w.nest(CTA_TUPLE_REPLY);
        write_address(&mut w, address, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
        w.end(tuple);
    }

    let flags = w.nest(CTA_FILTER);
    w.attr(CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
    w.attr(CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes());
    w.end(flags);
    w
}

fn write_address(w: &mut Writer, address: IpAddr, v4: u16, v6: u16) {
    let ip = w.nest(CTA_TUPLE_IP);
    w.attr(if address.is_ipv6() { v6 } else { v4 }, &octets(address));
    w.end(ip);
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

/// `AF_INET` or `AF_INET6`.
fn family(is_ipv6: bool) -> u8 {
    if is_ipv6 { 10 } else { 2 }
}

fn version(is_ipv6: bool) -> &'static str {
    if is_ipv6 { "IPv6" } else { "IPv4" }
}

/// `IPCTNL_MSG_CT_GET`, `_DELETE` and `_GET_STATS` of `NFNL_SUBSYS_CTNETLINK`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const GET_STATS: u16 = 1 << 8 | 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Which fields of a tuple count, in the machine's byte order.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FLAG_IP_SRC: u32 = 1;
const FLAG_IP_DST: u32 = 1 << 1;
const FLAG_PROTO_NUM: u32 = 1 << 3;
const FLAG_PROTO_DST_PORT: u32 = 1 << 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UDP: u8 = 17;

    fn to_port(port: u16) -> Filter {
        Filter {
            protocol: Some(UDP),
            original_port: Some(port),
            ..Filter::default()
        }
    }

    #[test]
    fn the_kernel_is_asked_for_what_all_filters_agree_on() {
        assert_eq!(common(&[to_port(53)]), to_port(53));
        let both = common(&[to_port(53), to_port(54)]);
        assert_eq!(
            both,
            Filter {
                original_port: None,
                ..to_port(53)
            }
        );
        let tcp = Filter {
            protocol: Some(6),
            ..to_port(53)
        };
        assert_eq!(common(&[to_port(53), tcp]), Filter::default());
    }

    #[test]
    fn the_kernel_is_never_asked_for_an_ipv6_address() {
        let of = |address: &str| Filter {
            is_ipv6: address.contains(':'),
            reply_source: Some(address.parse().unwrap()),
            ..to_port(53)
        };
        assert_eq!(common(&[of("10.1.0.5")]), of("10.1.0.5"));
        let asked = Filter {
            is_ipv6: true,
            ..to_port(53)
        };
        assert_eq!(common(&[of("fd01::5")]), asked);
    }

    proptest! {
        #[test]
        fn whatever_the_kernel_sends_is_read_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let _ = Connection::parse(&bytes);
            let mut w = Writer::payload(2, 0);
            for tuple in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
                let open = w.nest(tuple);
                w.attr(CTA_TUPLE_IP, &bytes);
                w.attr(CTA_TUPLE_PROTO, &bytes);
                w.end(open);
            }
            let _ = Connection::parse(w.bytes());
        }

        #[test]
        fn a_request_carries_every_field_it_is_given(
            is_ipv6: bool, protocol: Option<u8>, port: Option<u16>, source: Option<u128>
        ) {
            let reply_source = source.map(|bits| if is_ipv6 {
                IpAddr::from(bits.to_be_bytes())
            } else {
                IpAddr::from(<[u8; 4]>::try_from(&bits.to_be_bytes()[..4]).unwrap())
            });
            let filter = Filter {
                is_ipv6, protocol, original_port: port, reply_source, ..Filter::default()
            };
            let w = request(&filter);
            let attrs = Attrs::of(w.bytes());
            let wanted = attrs.inside(CTA_TUPLE_ORIG).inside(CTA_TUPLE_PROTO);
            prop_assert_eq!(wanted.u8(CTA_PROTO_NUM), protocol);
            prop_assert_eq!(wanted.be16(CTA_PROTO_DST_PORT), protocol.and(port));
            let ip = attrs.inside(CTA_TUPLE_REPLY).inside(CTA_TUPLE_IP);
            let found = ip.iter().find_map(|(_, bytes)| address(bytes));
            prop_assert_eq!(found, reply_source);
        }
    }
}
