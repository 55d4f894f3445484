//! What of the machine must be so before packets flow, besides what the loop keeps: looked at
//! once, set where it can be, and where not, told with its remedy. Nothing here ends a start.

use std::path::Path;

use weft_net::Rtnl;
use weft_net::sysctl::{Key, Outcome};

use crate::interface::Families;
use crate::options::Checksum;

/// All of it: what could not be had, a line each.
pub fn prepare(rtnl: &mut Rtnl, families: Families) -> Vec<String> {
    let mut notes: Vec<String> = bridge_filter(families).into_iter().collect();
    notes.extend(forward(rtnl, families));
    notes
}

/// Whether VXLAN's outer checksums are left to the device.
pub fn tunnel_checksums(choice: Checksum) -> bool {
    match choice {
        Checksum::On => true,
        Checksum::Off => false,
        Checksum::Auto => {
            let uname = rustix::system::uname();
            trusts_checksums(&uname.release().to_string_lossy())
        }
    }
}

/// Kernels before 5.6.13, 5.4.41 and 4.19.123 translate an encapsulated packet's port twice, and
/// have the second checksum computed over the wrong one: the peer drops the packet. A
/// distribution may have mended its kernel under an older number; there the slower way is taken.
pub fn trusts_checksums(release: &str) -> bool {
    let Some((major, minor, patch)) = version(release) else {
        return false;
    };
    match (major, minor) {
        (4, 19) => patch >= 123,
        (5, 4) => patch >= 41,
        (5, 6) => patch >= 13,
        newer => newer > (5, 6),
    }
}

/// "5.4.0-42-generic" is 5, 4, 0; "6.18-rc1" is 6, 18, 0.
fn version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split('.').map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse::<u32>().ok()
    });
    let major = numbers.next()??;
    let minor = numbers.next()??;
    Some((major, minor, numbers.next().flatten().unwrap_or(0)))
}

/// Without br_netfilter, packets between pods of one bridge pass the host's rules by.
fn bridge_filter(families: Families) -> Option<String> {
    let settings = [
        (families.v4, "bridge-nf-call-iptables"),
        (families.v6, "bridge-nf-call-ip6tables"),
    ];
    let wanted = settings.iter().filter(|(is_on, _)| *is_on);
    let missing: Vec<&str> = wanted
        .map(|(_, name)| *name)
        .filter(|name| !Path::new("/proc/sys/net/bridge").join(name).exists())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the kernel module br_netfilter is not loaded (/proc/sys/net/bridge/{} is missing): a \
             pod that calls a service whose pod is on its own node may get no answer; modprobe \
             br_netfilter, and name it in /etc/modules-load.d to have it after a reboot",
            missing.join(" and ")
        )
    })
}

fn forward(rtnl: &mut Rtnl, families: Families) -> Vec<String> {
    let mut notes = Vec::new();
    if families.v4 {
        let key = Key::new(["net", "ipv4", "ip_forward"]);
        notes.extend(key.and_then(|key| set(&key, "1", "pods' IPv4 packets")));
    }
    if families.v6
        && let Some(key) = Key::ipv6_conf("all", "forwarding")
    {
        // A router passes by what other routers announce, and drops the default route that it
        // has learnt from them, unless told otherwise.
        if !is(&key, "1") {
            notes.extend(keep_announced_routes(rtnl));
        }
        notes.extend(set(&key, "1", "pods' IPv6 packets"));
    }
    notes
}

fn keep_announced_routes(rtnl: &mut Rtnl) -> Vec<String> {
    let routes = rtnl.default_routes(true).unwrap_or_default();
    let links = routes.iter().filter_map(|route| route.link);
    let mut notes = Vec::new();
    for link in links {
        let Ok(link) = rtnl.link(link) else { continue };
        let Some(key) = Key::ipv6_conf(&link.name, "accept_ra") else {
            continue;
        };
        if is(&key, "1") {
            notes.extend(set(&key, "2", "the default route that routers announce"));
        }
    }
    notes
}

fn is(key: &Key, value: &str) -> bool {
    matches!(key.read(), Ok(Some(present)) if present == value)
}

/// What is lost where it cannot be set.
fn set(key: &Key, value: &str, what: &str) -> Option<String> {
    match key.set(value) {
        Ok(Outcome::Changed | Outcome::Unchanged) => None,
        Ok(Outcome::NotSupported) => Some(format!(
            "{key} is not there: this kernel may drop {what}; is the family switched off?"
        )),
        Err(error) if error.is_read_only() => Some(format!(
            "{error}: the node drops {what} until it is set there; on the host: sysctl -w \
             {}={value}",
            sysctl_name(key)
        )),
        Err(error) => Some(format!("{error}: the node drops {what}")),
    }
}

fn sysctl_name(key: &Key) -> String {
    let path = key.to_string();
    path.trim_start_matches("/proc/sys/").replace('/', ".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checksums_are_left_to_the_device_from_the_mended_kernels_on() {
        for (release, trusted) in [
            ("3.10.0-1160.el7.x86_64", false),
            ("4.14.336", false),
            ("4.18.0-553.el8", false),
            ("4.19.122", false),
            ("4.19.123", true),
            ("4.20.17", false),
            ("5.0.21", false),
            ("5.4.0-42-generic", false),
            ("5.4.40", false),
            ("5.4.41", true),
            ("5.4.302-rt1", true),
            ("5.5.19", false),
            ("5.6.12", false),
            ("5.6.13-arch1", true),
            ("5.7-rc1", true),
            ("5.10.0-8-amd64", true),
            ("6.18", true),
            ("10.0.1", true),
            ("unknown", false),
            ("", false),
        ] {
            assert_eq!(trusts_checksums(release), trusted, "{release}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word_on_checksums() {
        assert!(tunnel_checksums(Checksum::On));
        assert!(!tunnel_checksums(Checksum::Off));
    }

    #[test]
    fn a_setting_is_told_as_sysctl_calls_it() {
        let key = Key::new(["net", "ipv4", "ip_forward"]).unwrap();
        assert_eq!(sysctl_name(&key), "net.ipv4.ip_forward");
    }

    proptest! {
        #[test]
        fn no_release_makes_it_panic(release: String) {
            let _ = trusts_checksums(&release);
        }

        #[test]
        fn what_one_patch_has_the_next_has(major in 3u32..8, minor in 0u32..30, patch in 0u32..400) {
            let now = trusts_checksums(&format!("{major}.{minor}.{patch}"));
            let next = trusts_checksums(&format!("{major}.{minor}.{}", patch + 1));
            prop_assert!(next || !now);
        }
    }
}
