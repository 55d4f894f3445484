//! A lease's key: `10.5.63.0-24`, and dual-stack `10.5.63.0-24&fd05:0:0:2::-64`.

use std::fmt::{self, Display};

use ipnetwork::{Ipv4Network, Ipv6Network};

use super::Subnets;

impl Subnets {
    /// The key without what stands before it (`subnets/`); the error says what is wrong with it.
    pub fn from_key(key: &str) -> Result<Self, String> {
        let (v4, v6) = match key.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (key, None),
        };
        let (ip, len) = parts(v4, "10.5.63.0-24")?;
        let v4 = Ipv4Network::new_checked(ip, len).filter(|_| len < 32);
        let v4 = v4.ok_or_else(|| format!("/{len} is no length of an IPv4 subnet"))?;
        if v4.network() != v4.ip() {
            return Err(format!("{v4} is not a subnet's first address"));
        }
        let Some(v6) = v6 else {
            return Ok(Self {
                v4: Some(v4),
                v6: None,
            });
        };
        let (ip, len) = parts(v6, "fd05:0:0:2::-64")?;
        let v6 = Ipv6Network::new_checked(ip, len).filter(|_| len < 128);
        let v6 = v6.ok_or_else(|| format!("/{len} is no length of an IPv6 subnet"))?;
        if v6.network() != v6.ip() {
            return Err(format!("{v6} is not a subnet's first address"));
        }
        Ok(Self {
            v4: Some(v4),
            v6: Some(v6),
        })
    }

    /// None without an IPv4 part, which no key can do without.
    pub fn to_key(&self) -> Option<String> {
        let v4 = self.v4?;
        let v4 = format!("{}-{}", v4.network(), v4.prefix());
        Some(match self.v6 {
            Some(v6) => format!("{v4}&{}-{}", v6.network(), v6.prefix()),
            None => v4,
        })
    }
}

impl Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4} and {v6}"),
            (Some(v4), None) => v4.fmt(f),
            (None, Some(v6)) => v6.fmt(f),
            (None, None) => f.write_str("no subnet"),
        }
    }
}

fn parts<A: std::str::FromStr>(text: &str, like: &str) -> Result<(A, u8), String> {
    let wrong = || format!("{text:?} is not of the form {like}");
    let (ip, len) = text.split_once('-').ok_or_else(wrong)?;
    let plain = !len.is_empty() && len.bytes().all(|digit| digit.is_ascii_digit());
    let len = plain
        .then(|| len.parse().ok())
        .flatten()
        .ok_or_else(wrong)?;
    Ok((ip.parse().map_err(|_| wrong())?, len))
}
