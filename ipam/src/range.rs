//! Ranges of addresses, and sets of them: of each set a pod gets one address. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use weft_cni::{Error, Result};

/// Addresses from `start` to `end`, both given out, but for the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: IpNetwork,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
    pub(crate) gateway: IpAddr,
}

/// A range as somebody wrote it down.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) subnet: IpNetwork,
    pub(crate) start: Option<IpAddr>,
    pub(crate) end: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
}

/// At least one range, all of one family, none overlapping another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

impl Range {
    pub(crate) fn new(draft: &Draft) -> Result<Self> {
        let subnet = draft.subnet;
        judge_subnet(subnet)?;
        let first = number(subnet.network());
        let last = number(subnet.broadcast());
        let v4 = subnet.is_ipv4();
        let gateway = draft.gateway.unwrap_or_else(|| address(v4, first + 1));
        if gateway.is_ipv4() != v4 {
            return Err(Error::config(format!(
                "gateway {gateway} is not of the family of network {subnet}"
            )));
        }
        let start = draft.start.unwrap_or_else(|| address(v4, first + 1));
        if !subnet.contains(start) {
            return Err(Error::config(format!(
                "RangeStart {start} not in network {subnet}"
            )));
        }
        // The last address of an IPv4 subnet is its broadcast address; IPv6 has none.
        let end = draft
            .end
            .unwrap_or_else(|| address(v4, last - u128::from(v4)));
        if !subnet.contains(end) {
            return Err(Error::config(format!(
                "RangeEnd {end} not in network {subnet}"
            )));
        }
        if number(start) > number(end) {
            return Err(Error::config(format!(
                "RangeStart {start} not in network {subnet}: it lies behind RangeEnd {end}"
            )));
        }
        Ok(Self {
            subnet,
            start,
            end,
            gateway,
        })
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_v4()
            && (number(self.start)..=number(self.end)).contains(&number(ip))
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.subnet.is_ipv4()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_v4() == other.is_v4()
            && number(self.start) <= number(other.end)
            && number(other.start) <= number(self.end)
    }
}

impl RangeSet {
    pub(crate) fn new(drafts: &[Draft]) -> Result<Self> {
        let ranges: Vec<Range> = drafts.iter().map(Range::new).collect::<Result<_>>()?;
        let Some(first) = ranges.first() else {
            return Err(Error::config("empty range set"));
        };
        if ranges.iter().any(|range| range.is_v4() != first.is_v4()) {
            return Err(Error::config("mixed address families").with_details(
                "a range set yields one address: give each family a set of its own",
            ));
        }
        for (at, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges[at + 1..].iter().find(|other| one.overlaps(other)) {
                return Err(Error::config(format!("subnets {one} and {other} overlap")));
            }
        }
        Ok(Self(ranges))
    }

    pub(crate) fn ranges(&self) -> &[Range] {
        &self.0
    }

    pub(crate) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some()
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.0.iter().all(Range::is_v4)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|one| other.0.iter().any(|two| one.overlaps(two)))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// The address as a number within its family.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The address that has this number.
pub(crate) fn address(v4: bool, number: u128) -> IpAddr {
    if v4 {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        IpAddr::V4(Ipv4Addr::from(number))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

fn judge_subnet(subnet: IpNetwork) -> Result<()> {
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    if subnet.prefix() > bits - 2 {
        return Err(
            Error::config(format!("Network {subnet} too small to allocate from")).with_details(
                format!(
                    "a prefix length of at most {} leaves room for pods",
                    bits - 2
                ),
            ),
        );
    }
    if subnet.ip().to_canonical().is_ipv4() != subnet.is_ipv4() {
        return Err(
            Error::config(format!("Network {subnet} is IPv4 written as IPv6"))
                .with_details("write it as IPv4"),
        );
    }
    let network = subnet.network();
    if subnet.ip() != network {
        return Err(Error::config(format!(
            "Network has host bits set. For a subnet mask of length {} the network address is {network}",
            subnet.prefix()
        ))
        .with_details(format!("the configuration says {subnet}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(subnet: &str, start: &str, end: &str, gateway: &str) -> Draft {
        let ip = |text: &str| text.parse().ok();
        Draft {
            subnet: subnet.parse().unwrap(),
            start: ip(start),
            end: ip(end),
            gateway: ip(gateway),
        }
    }

    fn range(subnet: &str, start: &str, end: &str) -> Result<Range> {
        Range::new(&draft(subnet, start, end, ""))
    }

    #[test]
    fn a_range_is_its_subnet_less_what_no_pod_can_have() {
        let v4 = range("10.1.2.0/24", "", "").unwrap();
        assert_eq!(
            (v4.to_string(), v4.gateway.to_string()),
            ("10.1.2.1-10.1.2.254".into(), "10.1.2.1".into())
        );
        let v6 = range("fd99::/120", "", "").unwrap();
        assert_eq!(
            (v6.to_string(), v6.gateway.to_string()),
            ("fd99::1-fd99::ff".into(), "fd99::1".into())
        );
        let all = range("::/0", "", "").unwrap();
        assert_eq!(
            all.end.to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert_eq!(
            range("0.0.0.0/0", "", "").unwrap().end.to_string(),
            "255.255.255.254"
        );
    }

    #[test]
    fn start_and_end_may_be_any_address_of_the_subnet() {
        assert!(range("10.1.2.0/24", "10.1.2.0", "10.1.2.255").is_ok());
        assert!(range("10.1.2.0/24", "10.1.2.9", "10.1.2.9").is_ok());
    }

    #[test]
    fn what_makes_no_range_is_told_with_code_7() {
        for (subnet, start, end, why) in [
            (
                "10.1.2.0/31",
                "",
                "",
                "Network 10.1.2.0/31 too small to allocate from",
            ),
            (
                "fd99::/127",
                "",
                "",
                "Network fd99::/127 too small to allocate from",
            ),
            (
                "10.1.2.3/24",
                "",
                "",
                "Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0",
            ),
            (
                "10.1.2.0/24",
                "10.1.3.1",
                "",
                "RangeStart 10.1.3.1 not in network 10.1.2.0/24",
            ),
            (
                "10.1.2.0/24",
                "",
                "10.1.3.1",
                "RangeEnd 10.1.3.1 not in network 10.1.2.0/24",
            ),
            (
                "10.1.2.0/24",
                "fd99::1",
                "",
                "RangeStart fd99::1 not in network 10.1.2.0/24",
            ),
            (
                "10.1.2.0/24",
                "10.1.2.9",
                "10.1.2.8",
                "RangeStart 10.1.2.9 not in network 10.1.2.0/24: it lies behind RangeEnd 10.1.2.8",
            ),
            (
                "::ffff:10.0.0.0/120",
                "",
                "",
                "Network ::ffff:10.0.0.0/120 is IPv4 written as IPv6",
            ),
        ] {
            let error = range(subnet, start, end).unwrap_err();
            assert_eq!((error.code.number(), error.msg.as_str()), (7, why));
        }
        assert!(Range::new(&draft("10.1.2.0/24", "", "", "fd99::1")).is_err());
    }

    #[test]
    fn a_set_is_of_one_family_without_overlap() {
        let set = |subnets: &[&str]| {
            let drafts: Vec<Draft> = subnets.iter().map(|s| draft(s, "", "", "")).collect();
            RangeSet::new(&drafts)
        };
        assert_eq!(set(&[]).unwrap_err().msg, "empty range set");
        assert_eq!(
            set(&["10.0.0.0/24", "fd99::/64"]).unwrap_err().msg,
            "mixed address families"
        );
        assert_eq!(
            set(&["10.0.0.0/24", "10.1.0.0/24", "10.0.0.0/25"])
                .unwrap_err()
                .msg,
            "subnets 10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.0.126 overlap"
        );
        let two = set(&["10.0.0.0/24", "10.1.0.0/24"]).unwrap();
        assert_eq!(two.to_string(), "10.0.0.1-10.0.0.254,10.1.0.1-10.1.0.254");
        assert!(two.overlaps(&set(&["10.1.0.128/25"]).unwrap()));
        assert!(!two.overlaps(&set(&["fd99::/64"]).unwrap()));
    }

    #[test]
    fn two_parts_of_one_subnet_do_not_overlap() {
        let low = draft("10.0.0.0/24", "", "10.0.0.9", "");
        let high = draft("10.0.0.0/24", "10.0.0.10", "", "");
        assert!(RangeSet::new(&[low, high]).is_ok());
    }

    proptest! {
        #[test]
        fn a_number_is_its_address(v4 in any::<u32>(), v6 in any::<u128>()) {
            prop_assert_eq!(number(address(true, v4.into())), u128::from(v4));
            prop_assert_eq!(number(address(false, v6)), v6);
        }

        #[test]
        fn a_range_lies_in_its_subnet(ip in any::<u32>(), prefix in 0..=32u8) {
            let subnet = IpNetwork::new(address(true, ip.into()), prefix).unwrap();
            let subnet = IpNetwork::new(subnet.network(), prefix).unwrap();
            let range = Range::new(&Draft { subnet, start: None, end: None, gateway: None });
            prop_assert_eq!(range.is_ok(), prefix <= 30);
            if let Ok(range) = range {
                prop_assert!(subnet.contains(range.start) && subnet.contains(range.end));
                prop_assert!(!range.contains(subnet.network()) && !range.contains(subnet.broadcast()));
            }
        }
    }
}
