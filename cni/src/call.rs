//! One call of a plugin: who is meant, and how it is to be done.

use std::path::Path;

use crate::{Conf, Environment, Plugin, Version};

/// Everything a plugin may know of the call it serves.
#[derive(Clone, Debug)]
pub struct Call {
    pub env: Environment,
    pub conf: Conf,
    /// The plugins in this executable, which can be called without starting a process.
    pub suite: &'static [&'static dyn Plugin],
}

impl Call {
    pub fn container_id(&self) -> &str {
        &self.env.container_id
    }

    pub fn ifname(&self) -> &str {
        &self.env.ifname
    }

    pub fn network(&self) -> &str {
        self.conf.name()
    }

    pub fn version(&self) -> Version {
        self.conf.version()
    }

    /// The pod's namespace, where the runtime named one.
    pub fn netns(&self) -> Option<&Path> {
        Some(self.env.netns.as_str())
            .filter(|path| !path.is_empty())
            .map(Path::new)
    }

    /// The same call with another configuration, as a delegate gets it.
    #[must_use]
    pub fn with_conf(&self, conf: Conf) -> Self {
        Self {
            env: self.env.clone(),
            conf,
            suite: self.suite,
        }
    }
}
