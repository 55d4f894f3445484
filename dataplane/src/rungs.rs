//! The ways down: every offload that may be missing, and the word said once when it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Which of the fast ways may be tried at all. What the kernel refuses is left out at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rungs {
    /// A virtio header before each packet of the TUN, without which there are no superpackets.
    pub vnet_header: bool,
    /// TCP superpackets.
    pub tso: bool,
    /// UDP superpackets: since Linux 6.2.
    pub uso: bool,
    /// Many datagrams of one size in one send (UDP_SEGMENT).
    pub gso: bool,
    /// Many sends in one system call.
    pub send_many: bool,
    /// Many datagrams of one size in one receive (UDP_GRO).
    pub gro: bool,
    /// Many receives in one system call.
    pub receive_many: bool,
    /// Socket buffers beyond what an ordinary process may have.
    pub large_buffers: bool,
    /// Flows leave from several source ports.
    pub spread: bool,
}

impl Rungs {
    pub const FAST: Self = Self {
        vnet_header: true,
        tso: true,
        uso: true,
        gso: true,
        send_many: true,
        gro: true,
        receive_many: true,
        large_buffers: true,
        spread: true,
    };
    /// Flannel's way: one packet a system call, from one port.
    pub const PLAIN: Self = Self {
        vnet_header: false,
        tso: false,
        uso: false,
        gso: false,
        send_many: false,
        gro: false,
        receive_many: false,
        large_buffers: false,
        spread: false,
    };
}

impl Default for Rungs {
    fn default() -> Self {
        Self::FAST
    }
}

/// Something that the kernel does not grant. The path goes on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Notice {
    AnswersRefused,
    BuffersSmall,
    /// Somebody deleted the TUN: the packet threads have ended.
    DeviceGone,
    FilterRefused,
    GroRefused,
    GsoRefused,
    ReceiveManyRefused,
    SendManyRefused,
    SpreadRefused,
    TsoRefused,
    UsoRefused,
    VnetHeaderRefused,
}

impl Notice {
    pub const ALL: [Self; 12] = [
        Self::AnswersRefused,
        Self::BuffersSmall,
        Self::DeviceGone,
        Self::FilterRefused,
        Self::GroRefused,
        Self::GsoRefused,
        Self::ReceiveManyRefused,
        Self::SendManyRefused,
        Self::SpreadRefused,
        Self::TsoRefused,
        Self::UsoRefused,
        Self::VnetHeaderRefused,
    ];

    /// A label for a metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::AnswersRefused => "answers_refused",
            Self::BuffersSmall => "buffers_small",
            Self::DeviceGone => "device_gone",
            Self::FilterRefused => "filter_refused",
            Self::GroRefused => "gro_refused",
            Self::GsoRefused => "gso_refused",
            Self::ReceiveManyRefused => "receive_many_refused",
            Self::SendManyRefused => "send_many_refused",
            Self::SpreadRefused => "spread_refused",
            Self::TsoRefused => "tso_refused",
            Self::UsoRefused => "uso_refused",
            Self::VnetHeaderRefused => "vnet_header_refused",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AnswersRefused => {
                "no raw socket (grant CAP_NET_RAW): ICMP errors are not sent to pods"
            }
            Self::BuffersSmall => {
                "socket buffers are small (grant CAP_NET_ADMIN or raise net.core.rmem_max): \
                 bursts may be lost"
            }
            Self::DeviceGone => "the TUN was deleted: no packet moves until it is made again",
            Self::FilterRefused => {
                "no filter on the socket: a flood by strangers takes the place of peers' packets"
            }
            Self::GroRefused => "the kernel has no UDP_GRO (Linux 5.0): packets arrive one by one",
            Self::GsoRefused => {
                "the way out refuses UDP_SEGMENT (its device lacks checksum offload, or the \
                 kernel is older than 4.18): packets leave one by one"
            }
            Self::ReceiveManyRefused => "no recvmmsg: one receive a system call",
            Self::SendManyRefused => "no sendmmsg: one send a system call",
            Self::SpreadRefused => {
                "no further sending sockets: all flows leave from one source port"
            }
            Self::TsoRefused => "the TUN refuses TCP superpackets: packets come one by one",
            Self::UsoRefused => {
                "the TUN refuses UDP superpackets (Linux 6.2): UDP packets come one by one"
            }
            Self::VnetHeaderRefused => {
                "the TUN refuses virtio headers: one packet a system call, no superpackets"
            }
        })
    }
}

/// Tells the embedding program of each notice once, and remembers which were given.
#[derive(Clone)]
pub struct Notices {
    shared: Arc<Shared>,
}

struct Shared {
    given: AtomicU32,
    tell: Box<dyn Fn(Notice) + Send + Sync>,
}

impl Notices {
    pub fn new(tell: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                given: AtomicU32::new(0),
                tell: Box::new(tell),
            }),
        }
    }

    pub fn given(&self) -> impl Iterator<Item = Notice> + use<> {
        let given = self.shared.given.load(Ordering::Relaxed);
        Notice::ALL
            .into_iter()
            .filter(move |notice| given & bit(*notice) != 0)
    }

    pub(crate) fn give(&self, notice: Notice) {
        let before = self.shared.given.fetch_or(bit(notice), Ordering::Relaxed);
        if before & bit(notice) == 0 {
            (self.shared.tell)(notice);
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given()).finish()
    }
}

/// The rungs that may give way while packets flow.
#[derive(Debug)]
pub(crate) struct Footing {
    pub(crate) gso: Rung,
    pub(crate) send_many: Rung,
    pub(crate) receive_many: Rung,
    pub(crate) notices: Notices,
}

impl Footing {
    pub(crate) fn new(rungs: Rungs, notices: Notices) -> Self {
        Self {
            gso: Rung::new(rungs.gso, Notice::GsoRefused),
            send_many: Rung::new(rungs.send_many, Notice::SendManyRefused),
            receive_many: Rung::new(rungs.receive_many, Notice::ReceiveManyRefused),
            notices,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Rung {
    holds: AtomicBool,
    notice: Notice,
}

impl Rung {
    fn new(holds: bool, notice: Notice) -> Self {
        Self {
            holds: AtomicBool::new(holds),
            notice,
        }
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    pub(crate) fn gives_way(&self, notices: &Notices) {
        self.holds.store(false, Ordering::Relaxed);
        notices.give(self.notice);
    }
}

fn bit(notice: Notice) -> u32 {
    1 << notice as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_notice_is_told_once_and_remembered() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let notices = Notices::new({
            let told = Arc::clone(&told);
            move |notice| told.lock().unwrap().push(notice)
        });
        let footing = Footing::new(Rungs::FAST, notices.clone());
        assert!(footing.gso.holds());
        footing.gso.gives_way(&notices);
        footing.gso.gives_way(&notices);
        assert!(!footing.gso.holds() && footing.send_many.holds());
        assert_eq!(*told.lock().unwrap(), [Notice::GsoRefused]);
        assert_eq!(notices.given().collect::<Vec<_>>(), [Notice::GsoRefused]);
    }

    #[test]
    fn every_notice_has_its_own_bit_and_name() {
        let mut bits = 0;
        for notice in Notice::ALL {
            assert_eq!(bits & bit(notice), 0, "{}", notice.name());
            bits |= bit(notice);
        }
    }
}
