//! The MAC address of a device that nobody has given one yet.

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha256};
use weft_net::Mac;

/// The same for the same subnet and VNI, so that peers which knew the device before it was lost
/// know it again. Locally administered, unicast.
pub fn derived(subnet: IpNetwork, vni: u32) -> Mac {
    let digest = Sha256::digest(format!("weft vtep {subnet} {vni}"));
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&digest[..6]);
    bytes[0] = (bytes[0] | 0x02) & !0x01;
    Mac(bytes)
}
