//! Which boot of the machine this is, and since when: pods of an earlier one are gone.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// This boot of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// Nothing where the kernel does not say: then nothing is ever taken for an earlier boot's.
    pub(crate) id: Option<BootId>,
    pub(crate) started: Started,
}

pub(crate) type BootId = [u8; 16];

/// When this boot began, in nanoseconds since 1970. Asked for only where it matters.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Started {
    AskTheKernel,
    #[cfg(test)]
    At(i64),
}

impl Boot {
    pub(crate) fn current() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            id: parse_id(&text),
            started: Started::AskTheKernel,
        }
    }

    /// What is older than this time was surely made before this boot; nothing, if nothing was.
    ///
    /// Only for files that no index of an earlier boot knew. If in doubt they are not older: giving
    /// away the address of a living pod is far worse than keeping that of a dead one.
    pub(crate) fn surely_after(&self) -> Option<i64> {
        self.id?;
        self.started
            .at_the_earliest()
            .map(|at| at.saturating_sub(MARGIN))
    }
}

impl Started {
    fn at_the_earliest(self) -> Option<i64> {
        match self {
            Self::AskTheKernel => earliest_start(),
            #[cfg(test)]
            Self::At(at) => Some(at),
        }
    }
}

/// The clock may have been set since the boot, by years on a machine without a battery-backed one,
/// and what was made before that carries the earlier time. So what the kernel stamped at the boot
/// itself has a say.
fn earliest_start() -> Option<i64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let by_uptime = now()? - parse_uptime(&uptime)?;
    let by_stamps = ["/proc", "/sys"].map(|path| Some(mtime_of(&Path::new(path).metadata().ok()?)));
    by_stamps
        .into_iter()
        .try_fold(by_uptime, |earliest, stamp| Some(earliest.min(stamp?)))
}

pub(crate) fn now() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

pub(crate) fn mtime_of(file: &fs::Metadata) -> i64 {
    file.mtime()
        .saturating_mul(NANOS)
        .saturating_add(file.mtime_nsec())
}

fn parse_id(text: &str) -> Option<BootId> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let id = u128::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| digits.len() == 32)?;
    Some(id.to_be_bytes())
}

/// `12345.67 54321.00` → 12345.67 s, in nanoseconds.
fn parse_uptime(text: &str) -> Option<i64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    let hundredths: i64 = hundredths.parse().ok()?;
    Some(seconds.parse::<i64>().ok()?.checked_mul(NANOS)? + hundredths * (NANOS / 100))
}

const NANOS: i64 = 1_000_000_000;
/// For what the reckoning by uptime is inexact.
const MARGIN: i64 = 60 * NANOS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_an_id_and_it_stays() {
        let boot = Boot::current();
        assert!(boot.id.is_some());
        assert_eq!(boot.id, Boot::current().id);
        assert_eq!(parse_id("0f3d5c0e-1111-4222-8333-44445555666"), None);
        assert_eq!(parse_id(""), None);
    }

    #[test]
    fn what_is_made_now_is_not_of_an_earlier_boot() {
        let started = Boot::current().surely_after().unwrap();
        assert!(0 < started && started < now().unwrap());
    }

    #[test]
    fn without_an_id_nothing_is_of_an_earlier_boot() {
        let boot = Boot {
            id: None,
            started: Started::AskTheKernel,
        };
        assert_eq!(boot.surely_after(), None);
    }

    #[test]
    fn uptime_is_read_to_the_hundredth() {
        assert_eq!(parse_uptime("12.34 5.00\n"), Some(12_340_000_000));
        assert_eq!(parse_uptime(""), None);
    }
}
