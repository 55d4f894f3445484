//! What the kernel refused, told in the words of the CNI protocol.

use weft_cni::{Code, Error, Result};
use weft_net::Why;

pub(crate) trait Told<T> {
    fn told(self) -> Result<T>;
}

impl<T> Told<T> for weft_net::Result<T> {
    fn told(self) -> Result<T> {
        self.map_err(|error| {
            let code = match error.why() {
                Why::NotANamespace => Code::InvalidNamespace,
                Why::TimedOut(_) => Code::TryAgain,
                _ => Code::Internal,
            };
            let told = Error::new(code, error.to_string());
            if code == Code::InvalidNamespace {
                return told.with_details("CNI_NETNS must be the path of a network namespace");
            }
            if !error.is_read_only() {
                return told;
            }
            told.with_details(
                "the plugin must run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN",
            )
        })
    }
}
