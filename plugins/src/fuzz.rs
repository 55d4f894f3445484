//! What fuzzing feeds: every reader of bytes that come from elsewhere, by name.
//!
//! The targets of cargo-fuzz call these, and so does a test with the corpus kept in the tree.

use weft_cni::{Call, Conf, Environment, Verb};

use crate::{bridge, flannel, iptables, portmap};

/// A reader, which must bear whatever it is given.
pub type Body = fn(&[u8]);

pub static TARGETS: &[(&str, Body)] = &[
    ("conf", weft_cni::fuzz::conf),
    ("result", weft_cni::fuzz::result),
    ("args", weft_cni::fuzz::args),
    ("environment", weft_cni::fuzz::environment),
    ("plans", plans),
    ("subnet_env", subnet_env),
    ("scratch", scratch),
    ("iptables_save", iptables_save),
    ("reservation", weft_ipam::fuzz::reservation),
    ("index", weft_ipam::fuzz::index),
    ("netlink", weft_net::fuzz::netlink),
    ("payload", weft_net::fuzz::payload),
];

/// Gives `data` to the reader of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, body) = target.expect("the name of a target");
    body(data);
}

/// A configuration, as each plugin understands it.
pub fn plans(text: &[u8]) {
    let Ok(conf) = Conf::parse(text) else { return };
    for args in ["", "IgnoreUnknown=1;IP=10.1.2.3;MAC=0a:00:00:00:00:01"] {
        let Some(call) = call(conf.clone(), args) else {
            return;
        };
        bridge::plan_anything(&call);
        portmap::plan_anything(&call);
        weft_ipam::fuzz::plan(&call);
        let lease = flannel::subnet_env::SubnetEnv::assumed(None);
        for settings in [
            flannel::settings::Settings::of(&conf),
            flannel::settings::Settings::for_clean_up(&conf),
        ] {
            let _ = settings.map(|settings| Conf::new(settings.delegate_conf(&lease)));
        }
    }
}

/// A lease: what it says is never more than there is.
pub fn subnet_env(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if let Ok(lease) = flannel::subnet_env::SubnetEnv::parse(&text) {
        assert!(!lease.subnets.is_empty() && !lease.networks.is_empty());
    }
}

/// A file of flannel's: what is read is written such that it is read again.
pub fn scratch(text: &[u8]) {
    if let Some(conf) = flannel::scratch::parse(text) {
        let written = flannel::scratch::as_go_writes(&conf);
        assert_eq!(flannel::scratch::parse(written.as_bytes()), Some(conf));
    }
}

/// What iptables-save may say.
pub fn iptables_save(text: &[u8]) {
    iptables::read_anything(&String::from_utf8_lossy(text));
}

fn call(conf: Conf, args: &str) -> Option<Call> {
    let variable = |name: &str| match name {
        "CNI_CONTAINERID" => Some("c1".to_owned()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        "CNI_NETNS" => Some("/run/netns/none".to_owned()),
        "CNI_PATH" => Some("/nowhere".to_owned()),
        "CNI_ARGS" => Some(args.to_owned()),
        _ => None,
    };
    Some(Call {
        env: Environment::read(Verb::Add, variable).ok()?,
        conf,
        suite: crate::SUITE,
    })
}
