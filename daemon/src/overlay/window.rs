//! Shows what the packet path has counted, at the moment that somebody looks.

use std::fmt;
use std::sync::Arc;

use weft_dataplane::Stats;

#[derive(Clone)]
pub struct Window {
    look: Arc<dyn Fn() -> Option<Stats> + Send + Sync>,
}

impl Window {
    pub fn new(look: impl Fn() -> Option<Stats> + Send + Sync + 'static) -> Self {
        Self {
            look: Arc::new(look),
        }
    }

    /// None while no packet path runs.
    pub fn look(&self) -> Option<Stats> {
        (self.look)()
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new(|| None)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").finish_non_exhaustive()
    }
}
