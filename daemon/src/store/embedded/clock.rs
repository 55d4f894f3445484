//! The time that leases on one machine are reckoned in: since it booted, sleep included. Nobody
//! can set that clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub boot: String,
    pub elapsed: Duration,
}

impl Clock {
    pub fn new(now: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn real() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.map(|id| id.trim().to_owned()).unwrap_or_default();
        Self::new(move || {
            let now = clock_gettime(ClockId::Boottime);
            let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
            let nanos = Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0));
            Moment {
                boot: boot.clone(),
                elapsed: seconds + nanos,
            }
        })
    }

    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}
