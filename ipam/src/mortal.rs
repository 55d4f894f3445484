//! Every change that this crate makes to a file system asks here first, so that a test can let the
//! process die before any of them: from then on, nothing changes any more.

use std::io;

#[cfg(not(test))]
pub(crate) fn about_to_change() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use tests::{about_to_change, living_for};

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static CHANGES_LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    }

    pub(crate) fn about_to_change() -> io::Result<()> {
        let left = CHANGES_LEFT.get();
        CHANGES_LEFT.set(left.saturating_sub(1));
        if left == 0 {
            return Err(io::Error::other("dead, in a test"));
        }
        Ok(())
    }

    /// Does `what` and dies after so many changes; says how many were left.
    pub(crate) fn living_for<T>(changes: u64, what: impl FnOnce() -> T) -> (T, u64) {
        CHANGES_LEFT.set(changes);
        let done = what();
        (done, CHANGES_LEFT.replace(u64::MAX))
    }
}
