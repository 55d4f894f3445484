//! What a link's device does by itself, such as computing checksums: its features, read and
//! switched over generic netlink.

use crate::batch::Batch;
use crate::error::{Error, Result, Why};
use crate::message::{Attribute, Attributes};
use crate::nft::wire::Writer;
use crate::socket::{Protocol, Socket};
use crate::sysctl::Outcome;

/// The device, or what stands in for it, computes the checksums of what it sends. On a VXLAN
/// device over a driver or kernel that does this wrongly, TCP stalls until it is off.
pub const TX_CHECKSUM: &str = "tx-checksum-ip-generic";

/// Speaks for the network namespace the thread was in when it was opened.
#[derive(Debug)]
pub struct Ethtool {
    socket: Socket,
    family: u16,
}

impl Ethtool {
    /// In the namespace the calling thread is in. `is_not_found()` on kernels before 5.6.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::open(Protocol::Generic)?;
        let mut w = Writer::payload(CTRL_CMD_GETFAMILY, 0);
        w.name(CTRL_ATTR_FAMILY_NAME, "ethtool");
        let mut batch = Batch::new();
        let doing = "look for the kernel's ethtool";
        batch.get(GENL_ID_CTRL, doing.into(), |out| {
            out.extend_from_slice(w.bytes());
        });
        let reply = socket.run_one(&mut batch)?;
        let family = read_family(&reply)
            .ok_or_else(|| Error::new(doing, Why::Garbled("a family without number")))?;
        Ok(Self { socket, family })
    }

    /// Whether the feature is on; one that the kernel does not know is not.
    pub fn feature(&mut self, link: u32, name: &str) -> Result<bool> {
        let mut w = Writer::payload(FEATURES_GET, 0);
        header(&mut w, link, 0);
        let mut batch = Batch::new();
        batch.get(
            self.family,
            format!("read the features of link {link}"),
            |out| {
                out.extend_from_slice(w.bytes());
            },
        );
        let reply = self.socket.run_one(&mut batch)?;
        Ok(is_active(&reply, name))
    }

    /// Switches a feature unless it is so. EOPNOTSUPP if the device goes on as before: not
    /// everything can be switched on everything.
    pub fn set_feature(&mut self, link: u32, name: &str, on: bool) -> Result<Outcome> {
        if self.feature(link, name)? == on {
            return Ok(Outcome::Unchanged);
        }
        let mut w = Writer::payload(FEATURES_SET, 0);
        header(&mut w, link, FLAG_OMIT_REPLY);
        let wanted = w.nest(FEATURES_WANTED);
        let bits = w.nest(BITSET_BITS);
        let bit = w.nest(BITSET_BIT);
        w.name(BIT_NAME, name);
        if on {
            w.attr(BIT_VALUE, &[]);
        }
        w.end(bit);
        w.end(bits);
        w.end(wanted);
        let state = if on { "on" } else { "off" };
        let doing = format!("switch {state} {name} of link {link}");
        let mut batch = Batch::new();
        batch.change(self.family, 0, doing.clone(), |out| {
            out.extend_from_slice(w.bytes());
        });
        self.socket.run_one(&mut batch)?;
        if self.feature(link, name)? != on {
            return Err(Error::new(doing, rustix::io::Errno::OPNOTSUPP));
        }
        Ok(Outcome::Changed)
    }
}

fn header(w: &mut Writer, link: u32, flags: u32) {
    let header = w.nest(FEATURES_HEADER);
    w.attr(HEADER_LINK, &link.to_ne_bytes());
    w.attr(HEADER_FLAGS, &flags.to_ne_bytes());
    w.end(header);
}

fn read_family(reply: &[u8]) -> Option<u16> {
    Attributes::after(reply, GENERIC_HEADER)
        .find(|attribute| attribute.kind == CTRL_ATTR_FAMILY_ID)?
        .as_u16()
}

/// The kernel lists what is on, by name.
fn is_active(reply: &[u8], name: &str) -> bool {
    Attributes::after(reply, GENERIC_HEADER)
        .filter(|attribute| attribute.kind == FEATURES_ACTIVE)
        .flat_map(|active| active.nested())
        .filter(|attribute| attribute.kind == BITSET_BITS)
        .flat_map(|bits| bits.nested())
        .any(|bit| is_named(bit, name))
}

fn is_named(bit: Attribute<'_>, name: &str) -> bool {
    bit.nested()
        .any(|attribute| attribute.kind == BIT_NAME && attribute.as_text() == name)
}

/// Reads a payload as each of the answers that there are.
pub(crate) fn read_as_anything(payload: &[u8]) {
    let _ = (read_family(payload), is_active(payload, TX_CHECKSUM));
}

/// `struct genlmsghdr`
const GENERIC_HEADER: usize = 4;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_LINK: u16 = 1;
const HEADER_FLAGS: u16 = 3;
const FLAG_OMIT_REPLY: u32 = 2;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// On bytes that a little-endian kernel sent, kept as seeds for fuzzing.
#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::message::Messages;

    fn payload(datagram: &[u8]) -> &[u8] {
        Messages::of(datagram).next().expect("a message").payload
    }

    #[test]
    fn what_is_on_is_told_from_what_could_be() {
        let features = include_bytes!("../../fuzz/seeds/netlink/ethtool-features");
        assert!(is_active(payload(features), TX_CHECKSUM));
        // The device could, but nobody wants it.
        assert!(!is_active(payload(features), "rx-gro-list"));
        assert!(!is_active(payload(features), "tx-checksum"));
        let family = include_bytes!("../../fuzz/seeds/netlink/generic-family");
        assert!(read_family(payload(family)).is_some());
    }
}
