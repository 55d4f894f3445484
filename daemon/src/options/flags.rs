//! The table of all flags: flanneld's, then weftd's own.

use super::settle::{Given, StoreKind};
use super::{annotation_prefix, go, values};

#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// As help shows it; empty where there is none.
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
    pub(super) in_environment: bool,
    pub(super) set: fn(&mut Given, &str) -> Result<(), String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Needs no value, and takes one only after `=`.
    Truth,
    Number,
    Text,
    /// Each one is added to those before it.
    Texts,
}

impl Flag {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        FLAGS.iter().find(|flag| flag.name == name)
    }
}

type Set = fn(&mut Given, &str) -> Result<(), String>;

const fn flag(
    name: &'static str,
    takes: Takes,
    default: &'static str,
    meaning: &'static str,
    set: Set,
) -> Flag {
    Flag {
        name,
        takes,
        default,
        meaning,
        in_environment: true,
        set,
    }
}

/// What to do instead of running. It has no twin in the environment: an image that tells its
/// version in FLANNELD_VERSION must not end the daemon.
const fn action(name: &'static str, meaning: &'static str, set: Set) -> Flag {
    Flag {
        in_environment: false,
        ..flag(name, Truth, "", meaning, set)
    }
}

use Takes::{Number, Text, Texts, Truth};

pub(super) static FLAGS: &[Flag] = &[
    flag(
        "etcd-endpoints",
        Text,
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "etcd's endpoints, separated by commas",
        |g, v| put(&mut g.etcd.endpoints, values::endpoints(v)),
    ),
    flag(
        "etcd-prefix",
        Text,
        "/coreos.com/network",
        "where in etcd this network's keys are",
        |g, v| put(&mut g.etcd.prefix, Ok(v.to_owned())),
    ),
    flag(
        "etcd-keyfile",
        Text,
        "",
        "key of the certificate shown to etcd",
        |g, v| put(&mut g.etcd.key_file, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "etcd-certfile",
        Text,
        "",
        "certificate shown to etcd",
        |g, v| put(&mut g.etcd.cert_file, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "etcd-cafile",
        Text,
        "",
        "authority that etcd's own certificate is checked against",
        |g, v| put(&mut g.etcd.ca_file, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "etcd-username",
        Text,
        "",
        "user to log in to etcd as",
        |g, v| put(&mut g.etcd.username, Ok(values::unless_empty(v))),
    ),
    flag(
        "etcd-password",
        Text,
        "",
        "password to log in to etcd with",
        |g, v| put(&mut g.etcd.password, Ok(values::unless_empty(v))),
    ),
    flag(
        "iface",
        Texts,
        "",
        "interface, by name or address, that other nodes are reached by; the first that is there",
        |g, v| add(&mut g.interface.names, Ok(values::unless_empty(v))),
    ),
    flag(
        "iface-regex",
        Texts,
        "",
        "expression that the interface's address or else its name matches; tried after -iface",
        |g, v| add(&mut g.interface.regexes, values::regex(v).map(Some)),
    ),
    flag(
        "iface-can-reach",
        Text,
        "",
        "address that the interface leads to; tried after -iface and -iface-regex",
        |g, v| {
            g.interface.can_reach = (!v.is_empty())
                .then(|| values::parsed(v, "an IP address"))
                .transpose()?;
            Ok(())
        },
    ),
    flag(
        "subnet-file",
        Text,
        "/run/flannel/subnet.env",
        "file that tells the CNI plugin of this node's subnet",
        |g, v| put(&mut g.subnet_file, values::path(v)),
    ),
    flag(
        "public-ip",
        Text,
        "",
        "IPv4 address that other nodes reach this one at",
        |g, v| {
            g.interface.public_ip = (!v.is_empty())
                .then(|| values::parsed(v, "an IPv4 address"))
                .transpose()?;
            Ok(())
        },
    ),
    flag(
        "public-ipv6",
        Text,
        "",
        "IPv6 address that other nodes reach this one at",
        |g, v| {
            g.interface.public_ipv6 = (!v.is_empty())
                .then(|| values::parsed(v, "an IPv6 address"))
                .transpose()?;
            Ok(())
        },
    ),
    flag(
        "subnet-lease-renew-margin",
        Number,
        "60",
        "minutes before its end that the lease is renewed, 1 to 1439",
        |g, v| put(&mut g.renew_margin, go::number(v)),
    ),
    flag(
        "ip-masq",
        Truth,
        "",
        "give traffic that leaves the pod network the node's address",
        |g, v| put(&mut g.masquerade.on, go::truth(v)),
    ),
    flag(
        "ip-masq-fully-random-disable",
        Truth,
        "",
        "choose source ports in the plain way when masquerading",
        |g, v| put(&mut g.masquerade.random_fully, go::truth(v).map(|off| !off)),
    ),
    flag(
        "kube-subnet-mgr",
        Truth,
        "",
        "keep leases in Kubernetes' nodes",
        |g, v| put(&mut g.kube_subnet_mgr, go::truth(v)),
    ),
    flag(
        "kube-api-url",
        Text,
        "",
        "address of the Kubernetes API",
        |g, v| put(&mut g.kube.api_url, Ok(values::unless_empty(v))),
    ),
    flag(
        "kubeconfig-file",
        Text,
        "",
        "kubeconfig to reach the Kubernetes API with",
        |g, v| put(&mut g.kube.kubeconfig, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "kube-annotation-prefix",
        Text,
        "flannel.alpha.coreos.com",
        "what the names of this network's annotations begin with",
        |g, v| put(&mut g.kube.annotation_prefix, annotation_prefix(v)),
    ),
    flag(
        "net-config-path",
        Text,
        "/etc/kube-flannel/net-conf.json",
        "the network's configuration, where leases are kept in Kubernetes",
        |g, v| put(&mut g.kube.net_conf, values::path(v)),
    ),
    flag(
        "set-node-network-unavailable",
        Truth,
        "true",
        "tell Kubernetes that the node's network is available",
        |g, v| put(&mut g.kube.set_node_network_unavailable, go::truth(v)),
    ),
    flag(
        "healthz-ip",
        Text,
        "0.0.0.0",
        "address that health and metrics are served at",
        |g, v| put(&mut g.healthz_ip, values::listening_address(v)),
    ),
    flag(
        "healthz-port",
        Number,
        "0",
        "port that health and metrics are served at; 0 for nowhere",
        |g, v| {
            g.healthz_port = u16::try_from(go::number(v)?)
                .map_err(|_| "must be a port, 0 to 65535".to_owned())?;
            Ok(())
        },
    ),
    flag(
        "iptables-resync",
        Number,
        "",
        "flanneld's name for -resync",
        |g, v| put(&mut g.iptables_resync, seconds(v).map(Some)),
    ),
    flag(
        "iptables-forward-rules",
        Truth,
        "true",
        "let pods' traffic be forwarded where the host's rules would drop it",
        |g, v| put(&mut g.forward_rules, go::truth(v)),
    ),
    flag(
        "ip-blackhole-route",
        Truth,
        "",
        "drop packets to addresses of this node's subnet that no pod has",
        |g, v| put(&mut g.blackhole_route, go::truth(v)),
    ),
    action("version", "print the version on standard error", |g, v| {
        put(&mut g.version, go::truth(v))
    }),
    flag(
        "v",
        Number,
        "0",
        "how much to log: 1 for debugging, 4 for everything",
        |g, v| put(&mut g.log.verbosity, go::number(v)),
    ),
    flag(
        "vmodule",
        Text,
        "",
        "accepted for flanneld's sake; see -v",
        |g, v| without_meaning(g, "vmodule", v),
    ),
    flag(
        "log_backtrace_at",
        Text,
        "",
        "accepted for flanneld's sake; see -v",
        |g, v| without_meaning(g, "log_backtrace_at", v),
    ),
    flag(
        "logtostderr",
        Truth,
        "true",
        "accepted for flanneld's sake: the log always goes to standard error",
        |_, v| go::truth(v).map(drop),
    ),
    flag(
        "store",
        Text,
        "kube with -kube-subnet-mgr, embedded with -embedded-dir, else etcd",
        "where leases are kept: etcd, embedded or kube",
        |g, v| {
            g.store = Some(match v {
                "etcd" => StoreKind::Etcd,
                "embedded" => StoreKind::Embedded,
                "kube" => StoreKind::Kube,
                _ => return Err("must be etcd, embedded or kube".to_owned()),
            });
            Ok(())
        },
    ),
    flag(
        "embedded-dir",
        Text,
        "",
        "directory that keeps the leases without a server",
        |g, v| put(&mut g.embedded_dir, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "node-name",
        Text,
        "$NODE_NAME, else the host's name",
        "what this node is called",
        |g, v| put(&mut g.node.name, Ok(values::unless_empty(v))),
    ),
    flag(
        "machine-id",
        Text,
        "/etc/machine-id",
        "file with this machine's id, or the id itself",
        |g, v| put(&mut g.node.machine_id, values::machine_id(v)),
    ),
    flag(
        "no-masquerade-cidr",
        Texts,
        "",
        "destination network that sees the pods' own addresses",
        |g, v| {
            let network = values::parsed(v, "a network such as 192.168.0.0/16")?;
            g.masquerade.exempt.push(network);
            Ok(())
        },
    ),
    flag(
        "peer-guard",
        Truth,
        "true",
        "drop encapsulated packets from addresses that are no peer's",
        |g, v| put(&mut g.peer_guard, go::truth(v)),
    ),
    flag(
        "vxlan-checksum",
        Text,
        "auto",
        "outer UDP checksums of VXLAN: auto, on or off",
        |g, v| put(&mut g.vxlan_checksum, values::checksum(v)),
    ),
    flag("log-format", Text, "text", "text or json", |g, v| {
        put(&mut g.log.format, values::log_format(v))
    }),
    flag(
        "state-dir",
        Text,
        "/var/lib/weft",
        "what is kept across reboots",
        |g, v| put(&mut g.state_dir, values::path(v)),
    ),
    flag(
        "run-dir",
        Text,
        "/run/weft",
        "the lock and the status socket",
        |g, v| put(&mut g.run_dir, values::path(v)),
    ),
    flag(
        "take-over",
        Truth,
        "",
        "where another weftd runs, take its place without a packet lost, and let it end",
        |g, v| put(&mut g.take_over, go::truth(v)),
    ),
    flag(
        "resync",
        Number,
        "60",
        "seconds after which the kernel is looked through although it told of no change",
        |g, v| put(&mut g.resync, seconds(v).map(Some)),
    ),
    flag(
        "cni-conf-source",
        Text,
        "",
        "CNI configuration that is put where the runtime looks for it, once pods can have a network",
        |g, v| put(&mut g.cni_conf_source, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "cni-conf-dir",
        Text,
        "",
        "where the runtime looks for it; else as this node's distribution has it",
        |g, v| put(&mut g.cni_conf_dir, Ok(values::path_unless_empty(v))),
    ),
    flag(
        "cni-conf-put-aside",
        Truth,
        "",
        "put other CNI configurations there aside; weft uninstall brings them back",
        |g, v| put(&mut g.cni_conf_puts_aside, go::truth(v)),
    ),
    action(
        "cleanup",
        "remove all that weftd made on this node, and end",
        |g, v| put(&mut g.cleanup, go::truth(v)),
    ),
];

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn add<T>(place: &mut Vec<T>, value: Result<Option<T>, String>) -> Result<(), String> {
    place.extend(value?);
    Ok(())
}

fn seconds(text: &str) -> Result<u32, String> {
    u32::try_from(go::number(text)?)
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "must be a number of seconds, 1 or more".to_owned())
}

fn without_meaning(given: &mut Given, name: &str, value: &str) -> Result<(), String> {
    // klog's own default for -log_backtrace_at.
    if !matches!(value, "" | ":0") {
        given.warn(format!(
            "-{name}={value} has no meaning for weftd; -v=4 logs everything"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flags_share_a_name() {
        for (i, flag) in FLAGS.iter().enumerate() {
            assert!(
                FLAGS[..i].iter().all(|other| other.name != flag.name),
                "{}",
                flag.name
            );
        }
    }

    #[test]
    fn every_default_that_help_shows_is_one_that_the_flag_takes() {
        for flag in FLAGS
            .iter()
            .filter(|f| !matches!(f.name, "store" | "node-name"))
        {
            if !flag.default.is_empty() {
                let taken = (flag.set)(&mut Given::default(), flag.default);
                assert_eq!(taken, Ok(()), "{}", flag.name);
            }
        }
    }
}
