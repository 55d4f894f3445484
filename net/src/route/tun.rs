//! TUN devices: what the kernel tells about them. They are made by opening /dev/net/tun, and not
//! by a message.

use crate::message::Attribute;

/// What a TUN or TAP device is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tun {
    /// It carries Ethernet frames, and not IP packets.
    pub tap: bool,
    /// Stays when nobody holds a queue of it.
    pub persistent: bool,
    /// Of a kind that several may hold a queue of; decided when it is made.
    pub multi_queue: bool,
    /// Queues that somebody holds; told of devices with several only.
    pub queues: Option<u32>,
}

impl Tun {
    pub(super) fn read(data: Attribute<'_>) -> Option<Self> {
        let mut tun = Self::default();
        for attribute in data.nested() {
            let on = || attribute.as_u8().map(|byte| byte != 0);
            match attribute.kind {
                IFLA_TUN_TYPE => tun.tap = attribute.as_u8()? == TAP,
                IFLA_TUN_PERSIST => tun.persistent = on()?,
                IFLA_TUN_MULTI_QUEUE => tun.multi_queue = on()?,
                IFLA_TUN_NUM_QUEUES => tun.queues = Some(attribute.as_u32()?),
                _ => {}
            }
        }
        Some(tun)
    }
}

const TAP: u8 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
