//! What a plugin is, to those that call it.

use std::fmt;

use crate::{Call, Outcome, Result, Version};

/// A plugin's verbs. DEL, GC and STATUS must bear everything: nothing there, half of it there, or
/// somebody else's there.
pub trait Plugin: Sync {
    /// The name under which it is installed, which is a configuration's `type`.
    fn name(&self) -> &'static str;

    fn versions(&self) -> &'static [Version] {
        &Version::ALL
    }

    fn add(&self, call: &Call) -> Result<Outcome>;

    fn del(&self, call: &Call) -> Result<()>;

    fn check(&self, call: &Call) -> Result<()>;

    /// Removes whatever of the network belongs to no attachment that the runtime still knows.
    fn gc(&self, call: &Call) -> Result<()>;

    fn status(&self, call: &Call) -> Result<()>;
}

impl fmt::Debug for dyn Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plugin({})", self.name())
    }
}
