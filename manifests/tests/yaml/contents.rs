//! What the documents ask for, held against what the programs take and need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use weft_daemon::conf::{Checks, NetConf};
use weft_daemon::conflist::Conflist;
use weft_daemon::options::{Command, Options};

use crate::documents::{named, one};
use crate::overlays::base;

/// All of it that holds for every way of rendering.
#[track_caller]
pub(crate) fn check(documents: &[Value], what: &str) {
    let pod = &one(documents, "DaemonSet")["spec"]["template"]["spec"];
    let weftd = named(&pod["containers"], "weftd");
    has_no_privilege(pod, what);
    every_volume_is_mounted_and_every_mount_has_one(pod, what);
    let options = options(weftd);
    assert_eq!(options.warnings, [""; 0], "{what}");
    what_is_written_is_on_the_host(weftd, &options, what);
    configurations_are_taken(one(documents, "ConfigMap"), &options, what);
    let port = options.health.map(|health| health.port());
    let told = weftd["ports"][0]["containerPort"].as_u64();
    assert_eq!(port.map(u64::from), told, "{what}");
    assert_eq!(
        told.is_some(),
        weftd.get("livenessProbe").is_some(),
        "{what}"
    );
}

fn has_no_privilege(pod: &Value, what: &str) {
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(pod["securityContext"]["seLinuxOptions"]["type"], "spc_t");
    for foreign in ["hostPID", "hostIPC", "shareProcessNamespace"] {
        assert!(pod.get(foreign).is_none(), "{what}: {foreign}");
    }
    let containers = [&pod["initContainers"], &pod["containers"]];
    for container in containers.iter().flat_map(|list| list.as_array().unwrap()) {
        let security = &container["securityContext"];
        assert_eq!(security["privileged"], false, "{what}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{what}");
        assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
        assert_eq!(
            security["capabilities"]["drop"],
            serde_json::json!(["ALL"]),
            "{what}"
        );
        let added = security["capabilities"]["add"].as_array();
        let added: Vec<_> = added.into_iter().flatten().collect();
        match container["name"].as_str() {
            Some("weftd") => assert_eq!(added, ["NET_ADMIN", "NET_RAW"], "{what}"),
            _ => assert!(added.is_empty(), "{what}"),
        }
    }
}

fn every_volume_is_mounted_and_every_mount_has_one(pod: &Value, what: &str) {
    let containers = [&pod["initContainers"], &pod["containers"]];
    let containers = containers.iter().flat_map(|list| list.as_array().unwrap());
    let mounts = containers.flat_map(|container| container["volumeMounts"].as_array().unwrap());
    let mounted: BTreeSet<&str> = mounts
        .map(|mount| mount["name"].as_str().unwrap())
        .collect();
    let volumes = pod["volumes"].as_array().unwrap().iter();
    let volumes: BTreeSet<&str> = volumes
        .map(|volume| volume["name"].as_str().unwrap())
        .collect();
    assert_eq!(mounted, volumes, "{what}");
}

/// As the container would be told, with its environment.
fn options(weftd: &Value) -> Options {
    let args = weftd["args"].as_array().unwrap().iter();
    let args = args.map(|arg| arg.as_str().unwrap().replace("$(NODE_NAME)", "node-1"));
    let names = weftd["env"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|env| env["name"].as_str().unwrap()).collect();
    let env = |name: &str| names.contains(&name).then(|| "node-1".to_owned());
    match Options::parse(args, env) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{other:?}"),
    }
}

/// The root file system is read-only, and what is kept must outlive the container.
fn what_is_written_is_on_the_host(weftd: &Value, options: &Options, what: &str) {
    let mounts = weftd["volumeMounts"].as_array().unwrap().iter();
    let writable = mounts.filter(|mount| mount["readOnly"] != true);
    let writable: Vec<&Path> = writable
        .map(|mount| Path::new(mount["mountPath"].as_str().unwrap()))
        .collect();
    let mut written = vec![
        options.run_dir.as_path(),
        options.state_dir.as_path(),
        options.subnet_file.parent().unwrap(),
    ];
    if options.conflist.is_some() {
        written.push(Path::new("/etc/cni/net.d"));
        written.push(Path::new("/var/lib/rancher/k3s/agent/etc/cni/net.d"));
    }
    for path in written {
        assert!(writable.contains(&path), "{what}: {}", path.display());
    }
}

fn configurations_are_taken(map: &Value, options: &Options, what: &str) {
    if let Some(conf) = map["data"]["net-conf.json"].as_str() {
        let conf: Value = serde_json::from_str(conf).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut conf = conf;
        for (key, network) in [("Network", "10.244.0.0/16"), ("IPv6Network", "fd05::/48")] {
            if conf[key] == "auto" {
                conf[key] = network.into();
            }
        }
        NetConf::parse(&conf.to_string(), Checks::Leases).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    if options.conflist.is_some() {
        let dir =
            std::env::temp_dir().join(format!("weft-manifests-{}-{what}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let source = dir.join("cni-conf.json");
        std::fs::write(&source, map["data"]["cni-conf.json"].as_str().unwrap()).unwrap();
        let conflist = Conflist {
            source,
            dir: dir.join("net.d"),
            puts_aside: false,
        };
        let published = conflist.publish();
        std::fs::remove_dir_all(&dir).unwrap();
        published.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

/// All rights, by where they hold.
#[test]
fn no_right_is_asked_for_that_is_not_needed() {
    let mut rights: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for role in base() {
        for rule in role["rules"].as_array().into_iter().flatten() {
            assert_eq!(rule["apiGroups"], serde_json::json!([""]));
            let place = role["metadata"]["namespace"]
                .as_str()
                .unwrap_or("everywhere");
            let list = |key: &str| {
                let items = rule[key].as_array().into_iter().flatten();
                let items: Vec<&str> = items.map(|item| item.as_str().unwrap()).collect();
                items.join(",")
            };
            let names = list("resourceNames");
            rights.entry(place.to_owned()).or_default().push(format!(
                "{} {names} {}",
                list("resources"),
                list("verbs")
            ));
        }
    }
    let expected = [
        ("default", vec!["events  create,patch"]),
        (
            "everywhere",
            vec!["nodes  get,list,watch", "nodes/status  patch"],
        ),
        (
            "kube-system",
            vec!["configmaps kubeadm-config,kube-proxy get"],
        ),
        ("kube-weft", vec!["pods  get"]),
    ];
    let found: Vec<(&str, Vec<&str>)> = rights
        .iter()
        .map(|(place, rights)| (place.as_str(), rights.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(found, expected);
}
