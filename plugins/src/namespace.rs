//! The pod's namespace, as a call names it.

use rustix::io::Errno;
use weft_cni::{Call, Code, Error, Result};
use weft_net::{Namespace, Why};

use crate::told::Told;

/// For verbs that can do nothing without it.
pub(crate) fn required(call: &Call) -> Result<Namespace> {
    Namespace::open(&call.env.netns).map_err(|error| {
        Error::new(
            Code::InvalidNamespace,
            format!("failed to open netns: {error}"),
        )
        .with_details("CNI_NETNS must be the path of a network namespace")
    })
}

/// For DEL: a pod whose namespace is gone, or whose path leads to something else by now (a plain
/// file, after a reboot or an unmount) or cannot lead anywhere, has nothing left in it.
pub(crate) fn if_there(call: &Call) -> Result<Option<Namespace>> {
    let Some(path) = call.netns() else {
        return Ok(None);
    };
    let entered = |namespace: Namespace| namespace.enter(|| ()).map(|()| namespace);
    match Namespace::open(path).and_then(entered) {
        Ok(namespace) => Ok(Some(namespace)),
        Err(error) if error.is_not_found() || leads_nowhere(&error) => Ok(None),
        Err(error) => Err(error).told(),
    }
}

fn leads_nowhere(error: &weft_net::Error) -> bool {
    *error.why() == Why::NotANamespace
        || matches!(
            error.errno(),
            Some(Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)
        )
}
