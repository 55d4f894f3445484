//! What a cluster that is well sees.

use serde_json::json;
use weft_daemon::store::Own;
use weft_netns::apiserver::{Key, slim_node};

use crate::bench::{Bench, MAC, VXLAN, until};

#[tokio::test]
async fn a_node_publishes_what_flanneld_would_and_hears_of_the_others() {
    let bench = Bench::new(VXLAN);
    bench.put_peer(2);
    bench
        .server
        .put(slim_node("without-flannel", &["10.244.9.0/24"]));
    let mut store = bench.start();
    let held = store.until_held().await;
    assert_eq!(held.subnets.to_string(), "10.244.1.0/24");
    let peers = store.until_peers(1).await;
    assert_eq!(peers.leases[0].subnets.to_string(), "10.244.2.0/24");
    assert!(peers.rubbish.is_empty(), "{:?}", peers.rubbish);
    let mut annotations = bench.annotations("node-1");
    let ours = annotations.as_object_mut().unwrap();
    let extra = ours.shift_remove("flannel.alpha.coreos.com/weft").unwrap();
    assert!(extra.as_str().unwrap().contains("\"Node\":\"node-1\""));
    assert_eq!(
        annotations,
        json!({
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/backend-data": format!(r#"{{"VNI":1,"VtepMAC":"{MAC}"}}"#),
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        })
    );
}

#[tokio::test]
async fn peers_come_change_and_go() {
    let bench = Bench::new(VXLAN);
    let mut store = bench.start();
    store.until_peers(0).await;
    bench.put_peer(2);
    bench.put_peer(3);
    store.until_peers(2).await;
    bench.annotate("node-3", "public-ip", &json!("192.0.2.33"));
    store
        .until("the peer has moved", |view| {
            let peers = view.peers.as_ref()?;
            let moved = Some("192.0.2.33".parse().unwrap());
            peers
                .leases
                .iter()
                .any(|lease| lease.attrs.public_ip == moved)
                .then_some(())
        })
        .await;
    bench.server.delete(&Key::node("node-2"));
    store.until_peers(1).await;
    // As after `kubectl delete node`: another object, and another podCIDR.
    bench.server.delete(&Key::node("node-3"));
    let mut again = crate::bench::peer(3);
    again["spec"] = json!({"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24"]});
    bench.server.put(again);
    store
        .until("the peer has another subnet", |view| {
            let peers = view.peers.as_ref()?;
            let subnet = peers.leases.first()?.subnets.to_string();
            (peers.leases.len() == 1 && subnet == "10.244.7.0/24").then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_podcidr_that_is_assigned_late_is_taken_as_soon_as_it_is() {
    let bench = Bench::new(VXLAN);
    bench.server.delete(&Key::node("node-1"));
    bench.server.put(slim_node("node-1", &[]));
    let mut late = crate::bench::peer(4);
    late["spec"] = json!({});
    bench.server.put(late);
    let mut store = bench.start();
    let why = store
        .until("it is told", |view| match &view.own {
            Own::Refused(why) => Some(why.clone()),
            _ => None,
        })
        .await;
    assert!(
        why.contains("no podCIDR") && why.contains("--allocate-node-cidrs=true"),
        "{why}"
    );
    assert!(why.contains("--cluster-cidr=10.244.0.0/16"), "{why}");
    let rubbish = store.until_peers(0).await;
    assert_eq!(rubbish.rubbish[0].name, "node-4");
    let spec = |cidr: &str| json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
    bench
        .server
        .merge(&Key::node("node-1"), &spec("10.244.6.0/24"));
    assert_eq!(
        store.until_held().await.subnets.to_string(),
        "10.244.6.0/24"
    );
    bench
        .server
        .merge(&Key::node("node-4"), &spec("10.244.4.0/24"));
    store.until_peers(1).await;
}

#[tokio::test]
async fn in_dual_stack_each_family_s_change_counts_for_itself() {
    let conf = r#"{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10::/56",
        "Backend": {"Type": "vxlan"}}"#;
    let bench = Bench::new(conf);
    let mut peer = crate::bench::peer(2);
    peer["spec"]["podCIDRs"] = json!(["10.244.2.0/24", "fd00:10:0:2::/64"]);
    bench.server.put(peer);
    let v6 = |mac: &str| json!(format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
    bench.annotate("node-2", "backend-v6-data", &v6("02:00:00:00:06:02"));
    bench.annotate("node-2", "public-ipv6", &json!("fd90::2"));
    let mut store = bench.start();
    let peers = store.until_peers(1).await;
    assert_eq!(
        peers.leases[0].subnets.to_string(),
        "10.244.2.0/24 and fd00:10:0:2::/64"
    );
    bench.annotate("node-2", "backend-v6-data", &v6("02:00:00:00:06:99"));
    store
        .until("the peer's IPv6 device is another", |view| {
            let told = format!("{:?}", view.peers.as_ref()?.leases[0].attrs.backend);
            told.contains("06:99").then_some(())
        })
        .await;
}

#[tokio::test]
async fn the_condition_is_set_when_it_is_not_so_and_never_twice() {
    let bench = Bench::new(VXLAN);
    let mut store = bench.start();
    store.until_held().await;
    store.ready();
    let condition = || bench.server.node("node-1").unwrap()["status"]["conditions"][0].clone();
    until("the network is available", || {
        condition()["status"] == "False"
    })
    .await;
    assert_eq!(condition()["type"], "NetworkUnavailable");
    assert_eq!(condition()["reason"], "FlannelIsUp");
    let patches = || {
        let seen = bench.server.seen();
        seen.iter()
            .filter(|seen| seen.body.contains("conditions"))
            .count()
    };
    let before = patches();
    for n in 2..6 {
        bench.put_peer(n);
    }
    store.until_peers(4).await;
    store.ready();
    assert_eq!(patches(), before);

    let mut unasked = Bench::new(VXLAN);
    unasked.options.set_node_network_unavailable = false;
    let mut store = unasked.start();
    store.until_held().await;
    store.ready();
    unasked.put_peer(2);
    store.until_peers(1).await;
    let seen = unasked.server.seen();
    assert!(!seen.iter().any(|seen| seen.body.contains("conditions")));
}

#[tokio::test]
async fn a_pod_that_knows_its_own_name_alone_finds_its_node() {
    let mut bench = Bench::new(VXLAN);
    bench.node = None;
    bench.options.pod = Some(("kube-flannel".to_owned(), "weft-x".to_owned()));
    bench.server.put(json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "weft-x", "namespace": "kube-flannel"},
        "spec": {"nodeName": "node-1"},
    }));
    let mut store = bench.start();
    assert_eq!(
        store.until_held().await.subnets.to_string(),
        "10.244.1.0/24"
    );
}

#[tokio::test]
async fn another_prefix_is_another_cluster_of_annotations() {
    let mut bench = Bench::new(VXLAN);
    bench.put_peer(2);
    bench.options.annotation_prefix = "example.com/blue-".to_owned();
    let mut store = bench.start();
    store.until_held().await;
    store.until_peers(0).await;
    let annotations = bench.annotations("node-1");
    assert_eq!(annotations["example.com/blue-public-ip"], "192.0.2.1");
}
