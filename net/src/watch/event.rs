//! What rtnetlink tells of changes.

use std::fmt;

use crate::mac::Mac;
use crate::message::{Attributes, Message, u32_at};
use crate::route::{
    Address, FdbEntry, Neighbour, NeighbourState, RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH,
    RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, Route, read_address,
    read_fdb, read_neighbour, read_routes,
};

/// Something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The netlink port of who did it: its process's id, for most programs. Zero if the kernel
    /// did, and wherever it does not say who: for a VXLAN's forwarding entries, for most settings
    /// of links, and for routes that go with their link (which are not told of at all in IPv4).
    pub by: u32,
    pub news: News,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// There is a link, or it changed, or it is gone.
    Link {
        index: u32,
        name: Name,
        up: bool,
        lower_up: bool,
        mtu: u32,
        mac: Option<Mac>,
        gone: bool,
    },
    Address {
        address: Address,
        gone: bool,
    },
    /// Told once for each next hop.
    Route {
        route: Route,
        gone: bool,
    },
    Neighbour {
        neighbour: Neighbour,
        gone: bool,
    },
    Fdb {
        entry: FdbEntry,
        gone: bool,
    },
    /// Events were lost: anything may have changed.
    Overrun,
}

/// A link's name, at most 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; 16],
}

impl Event {
    pub(super) const OVERRUN: Self = Self {
        by: 0,
        news: News::Overrun,
    };

    /// Appends what the message tells; nothing if it is not of interest or makes no sense.
    pub(crate) fn read(message: &Message<'_>, routes: &mut Vec<Route>, events: &mut Vec<Self>) {
        let by = message.port;
        let payload = message.payload;
        let news = match message.message_type {
            RTM_NEWLINK => read_link(payload, false),
            RTM_DELLINK => read_link(payload, true),
            RTM_NEWADDR => address(payload, false),
            RTM_DELADDR => address(payload, true),
            RTM_NEWNEIGH => neighbour(payload, false, by),
            RTM_DELNEIGH => neighbour(payload, true, by),
            RTM_NEWROUTE | RTM_DELROUTE => {
                let gone = message.message_type == RTM_DELROUTE;
                routes.clear();
                let _ = read_routes(payload, routes);
                let news = |&route: &Route| News::Route { route, gone };
                events.extend(routes.iter().map(news).map(|news| Self { by, news }));
                return;
            }
            _ => None,
        };
        events.extend(news.map(|news| Self { by, news }));
    }
}

fn read_link(payload: &[u8], gone: bool) -> Option<News> {
    if *payload.first()? == AF_BRIDGE {
        return None;
    }
    let flags = u32_at(payload, 8)?;
    let (mut name, mut mtu, mut mac) = (Name { bytes: [0; 16] }, 0, None);
    for attribute in Attributes::after(payload, LINK_HEADER) {
        match attribute.kind {
            IFLA_ADDRESS => mac = Mac::from_bytes(attribute.value),
            IFLA_IFNAME => name = Name::read(attribute.value),
            IFLA_MTU => mtu = attribute.as_u32()?,
            _ => {}
        }
    }
    Some(News::Link {
        index: u32_at(payload, 4)?,
        name,
        up: flags & IFF_UP != 0,
        lower_up: flags & IFF_LOWER_UP != 0,
        mtu,
        mac,
        gone,
    })
}

fn address(payload: &[u8], gone: bool) -> Option<News> {
    read_address(payload)?.map(|address| News::Address { address, gone })
}

fn neighbour(payload: &[u8], gone: bool, by: u32) -> Option<News> {
    if *payload.first()? == AF_BRIDGE {
        return read_fdb(payload)?.map(|entry| News::Fdb { entry, gone });
    }
    read_neighbour(payload)?.map(|neighbour| News::Neighbour {
        neighbour,
        // Who deletes a neighbour has it fail first, and only that is told with his port.
        gone: gone || (by != 0 && neighbour.state == NeighbourState::Failed),
    })
}

impl Name {
    fn read(value: &[u8]) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes[..15].iter_mut().zip(value) {
            *to = *from;
        }
        Self { bytes }
    }

    /// Nothing if it is not UTF-8, which no name of ours is.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|b| *b == 0).unwrap_or(0);
        std::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

const AF_BRIDGE: u8 = 7;
const LINK_HEADER: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 0x10000;

/// On bytes that a little-endian kernel sent, kept as seeds for fuzzing.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::message::Messages;
    use crate::route::RouteKind;

    macro_rules! told {
        ($seed:literal) => {
            read_all(include_bytes!(concat!(
                "../../../fuzz/seeds/netlink/",
                $seed
            )))
        };
    }

    fn read_all(datagram: &[u8]) -> Vec<Event> {
        let (mut routes, mut events) = (Vec::new(), Vec::new());
        for message in Messages::of(datagram) {
            Event::read(&message, &mut routes, &mut events);
        }
        events
    }

    #[test]
    fn a_deleted_neighbour_is_gone_as_soon_as_somebody_has_it_fail() {
        let events = told!("event-neighbour-gone");
        let gone = |event: &Event| match event.news {
            News::Neighbour { neighbour, gone } => (event.by != 0, neighbour.mac, gone),
            other => panic!("{other:?}"),
        };
        let all: Vec<_> = events.iter().map(gone).collect();
        assert_eq!(all, [(true, None, true), (false, None, true)]);
    }

    #[test]
    fn a_forwarding_entry_tells_its_far_end_with_port_and_number() {
        let [event] = told!("event-fdb")[..] else {
            panic!("one event")
        };
        let News::Fdb { entry, gone: false } = event.news else {
            panic!("{event:?}")
        };
        assert_eq!(entry.mac, Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(entry.remote, Some([192, 0, 2, 9].into()));
        assert_eq!((entry.port, entry.vni), (Some(4789), Some(7)));
        assert_eq!(entry.state, NeighbourState::Permanent);
    }

    #[test]
    fn a_route_tells_all_that_is_compared() {
        let [event] = told!("event-route-gone")[..] else {
            panic!("one event")
        };
        let News::Route { route, gone: true } = event.news else {
            panic!("{event:?}")
        };
        assert_eq!(route.destination.to_string(), "10.1.1.0/24");
        assert_eq!(route.gateway, Some([10, 1, 1, 0].into()));
        assert_eq!((route.protocol, route.onlink), (84, true));
        assert!(route.table == Route::MAIN_TABLE && route.priority.is_none());
        assert!(route.link.is_some() && !route.multipath && event.by != 0);

        let [first, second] = told!("event-route-hops")[..] else {
            panic!("two hops")
        };
        for (event, last) in [(first, 3), (second, 4)] {
            let News::Route { route, .. } = event.news else {
                panic!("{event:?}")
            };
            assert!(route.multipath);
            assert_eq!(route.gateway, Some([192, 0, 2, last].into()));
        }
        let [blackhole] = told!("event-route-blackhole")[..] else {
            panic!("one event")
        };
        let News::Route { route, .. } = blackhole.news else {
            panic!("{blackhole:?}")
        };
        assert_eq!(route.kind, RouteKind::Blackhole);
    }

    #[test]
    fn a_link_tells_its_name_mtu_and_address() {
        let News::Link {
            name, mtu, mac, up, ..
        } = told!("event-link")[0].news
        else {
            panic!("no link")
        };
        assert_eq!(
            (name.to_string().as_str(), mtu, up),
            ("flannel.1", 1400, true)
        );
        assert!(mac.is_some());
        let gone = |event: &Event| matches!(event.news, News::Link { gone: true, .. });
        assert!(told!("event-link-gone").iter().any(gone));
    }

    #[test]
    fn a_name_without_end_is_cut() {
        assert_eq!(Name::read(&[b'x'; 40]).as_str(), "x".repeat(15));
        assert_eq!(Name::read(&[]).as_str(), "");
        assert_eq!(Name::read(&[0xff, 0]).as_str(), "");
    }
}
