//! Which networks pods live in, as it is said, found or wrong; and the file that says it.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use weft_netns::apiserver::{Key, Right, Trouble, slim_node};

use crate::bench::{Bench, Running, VXLAN, peer};

const AUTO: &str = r#"{"Network": "auto", "Backend": {"Type": "vxlan"}}"#;

fn config_map(name: &str, key: &str, text: &str) -> Value {
    json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "kube-system"}, "data": {key: text},
    })
}

async fn networks(store: &mut Running) -> Vec<String> {
    store
        .until("the networks are known", |view| {
            let conf = view.conf.as_ref()?.as_ref().ok()?;
            Some(conf.networks.iter().map(ToString::to_string).collect())
        })
        .await
}

#[tokio::test]
async fn a_network_left_out_is_kubeadm_s_or_kube_proxy_s_or_the_nodes() {
    let bench = Bench::new(AUTO);
    bench.put_peer(2);
    bench.server.put(slim_node("plain", &["10.244.3.0/24"]));
    // 10.244.1.0/24, 2 and 3: of the nodes.
    let found = networks(&mut bench.start()).await;
    assert_eq!(found, ["10.244.1.0/24", "10.244.2.0/23"]);
    bench.server.put(config_map(
        "kube-proxy",
        "config.conf",
        "clusterCIDR: 10.244.0.0/15\n",
    ));
    assert_eq!(networks(&mut bench.start()).await, ["10.244.0.0/15"]);
    let kubeadm = "networking:\n  podSubnet: 10.244.0.0/16\n";
    bench.server.put(config_map(
        "kubeadm-config",
        "ClusterConfiguration",
        kubeadm,
    ));
    assert_eq!(networks(&mut bench.start()).await, ["10.244.0.0/16"]);
}

#[tokio::test]
async fn without_the_right_to_look_the_next_place_counts_and_it_is_told() {
    let bench = Bench::new(AUTO);
    bench.server.put(config_map(
        "kube-proxy",
        "config.conf",
        "clusterCIDR: 10.244.0.0/15\n",
    ));
    let kubeadm = "networking:\n  podSubnet: 10.244.0.0/16\n";
    bench.server.put(config_map(
        "kubeadm-config",
        "ClusterConfiguration",
        kubeadm,
    ));
    bench.server.access(|access| {
        access.rights = Some(vec![
            Right::new("list", "nodes"),
            Right::new("watch", "nodes"),
            Right::new("get", "nodes"),
            Right::new("patch", "nodes/status"),
            Right::of("get", "configmaps", "kube-proxy"),
        ]);
    });
    let mut store = bench.start();
    assert_eq!(networks(&mut store).await, ["10.244.0.0/15"]);
    store.until_held().await;
}

#[tokio::test]
async fn a_cluster_of_both_families_needs_no_word() {
    let bench = Bench::new(r#"{"Backend": {"Type": "host-gw"}}"#);
    let kubeadm = "networking:\n  podSubnet: 10.244.0.0/16,fd00:10::/56\n";
    bench.server.put(config_map(
        "kubeadm-config",
        "ClusterConfiguration",
        kubeadm,
    ));
    let mut store = bench.start();
    assert_eq!(
        networks(&mut store).await,
        ["10.244.0.0/16", "fd00:10::/56"]
    );
    // Its node has IPv4 alone, and is served with that.
    let held = store.until_held().await;
    assert!(held.subnets.v6.is_none());
    store.until_noted("no IPv6 podCIDR").await;
}

#[tokio::test]
async fn ipv6_alone_is_served() {
    let conf = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10::/56",
        "Backend": {"Type": "vxlan"}}"#;
    let bench = Bench::new(conf);
    bench.server.delete(&Key::node("node-1"));
    bench.server.put(slim_node("node-1", &["fd00:10:0:1::/64"]));
    let store = bench.start();
    let mut claim = crate::bench::claim();
    claim.public_ip = None;
    claim.public_ipv6 = Some("fd90::1".parse().unwrap());
    store.claim.send_replace(Some(claim));
    let mut store = store;
    let held = store.until_held().await;
    assert_eq!(held.subnets.to_string(), "fd00:10:0:1::/64");
    let annotations = bench.annotations("node-1");
    assert_eq!(
        annotations["flannel.alpha.coreos.com/public-ipv6"],
        "fd90::1"
    );
    assert!(
        annotations
            .get("flannel.alpha.coreos.com/public-ip")
            .is_none()
    );
    assert!(
        annotations
            .get("flannel.alpha.coreos.com/backend-data")
            .is_none()
    );
}

#[tokio::test]
async fn a_network_that_is_not_the_cluster_s_is_told_with_both_values_and_traffic_flows() {
    let bench = Bench::new(VXLAN);
    bench.server.delete(&Key::node("node-1"));
    bench.server.put(slim_node("node-1", &["10.42.1.0/24"]));
    let mut other = peer(2);
    other["spec"] = json!({"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"]});
    bench.server.put(other);
    let mut store = bench.start();
    let note = store.until_noted("lie outside of it").await;
    for part in [
        "10.244.0.0/16",
        "10.42.0.0/23",
        "line 2",
        "\"Network\": \"10.42.0.0/23\"",
    ] {
        assert!(note.contains(part), "{part} is not in {note}");
    }
    assert_eq!(store.until_held().await.subnets.to_string(), "10.42.1.0/24");
    store.until_peers(1).await;
    assert_eq!(
        networks(&mut store).await,
        ["10.244.0.0/16", "10.42.0.0/23"]
    );

    bench.server.put(config_map(
        "kube-proxy",
        "config.conf",
        "clusterCIDR: 10.42.0.0/16\n",
    ));
    let mut store = bench.start();
    let note = store
        .until_noted("clusterCIDR of the ConfigMap kube-system/kube-proxy")
        .await;
    assert!(note.contains("\"Network\": \"10.42.0.0/16\""), "{note}");
}

#[tokio::test]
async fn a_changed_file_is_noticed_and_one_that_is_wrong_changes_nothing() {
    let bench = Bench::new(VXLAN);
    // As the kubelet lays a ConfigMap out: a link to a directory, which is turned.
    let dir = bench.dir.join("mounted");
    let lay = |name: &str, text: &str| {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("net-conf.json"), text).unwrap();
        symlink(name, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    lay("..1", VXLAN);
    symlink("..data/net-conf.json", dir.join("net-conf.json")).unwrap();
    let mut bench = bench;
    bench.options.net_conf = dir.join("net-conf.json");
    let mut store = bench.start();
    store.until_held().await;
    let changed = |part: &'static str| {
        move |view: &weft_daemon::store::View| {
            let told = view.conf_changed.clone()?;
            told.contains(part).then_some(told)
        }
    };
    lay("..2", &VXLAN.replace("vxlan", "host-gw"));
    store
        .until("the change is told", changed("counts from the next start"))
        .await;
    lay("..3", "{\"Network\": \"10.244.0.0/16\" \"Backend\": {}}");
    let told = store
        .until("the fault is told", changed("goes on with"))
        .await;
    assert!(told.contains("a comma is missing"), "{told}");
    lay("..4", VXLAN);
    store
        .until("it is as it was", |view| {
            view.conf_changed.is_none().then_some(())
        })
        .await;
    store.until_held().await;
}

#[tokio::test]
async fn a_file_that_is_missing_or_wrong_at_the_start_is_told_and_waited_for() {
    let mut bench = Bench::new("{\"Network\": ");
    bench.options.net_conf = bench.dir.join("net-conf.json");
    bench.server.trouble(Trouble::default());
    let mut store = bench.start();
    store
        .until("it is told", |view| match &view.conf {
            Some(Err(why)) if why.contains("net-conf.json") => Some(()),
            _ => None,
        })
        .await;
    std::fs::write(bench.dir.join("net-conf.json"), VXLAN).unwrap();
    store.until_held().await;
}
