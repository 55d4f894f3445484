use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::lease::{Identity, Subnets};
use crate::store::embedded::Embedded;
use crate::store::embedded::tests::Scratch;
use crate::store::{Offer, Own, Peers};

/// A node's store, running.
pub(super) struct Node {
    pub(super) claim: watch::Sender<Option<Claim>>,
    pub(super) view: watch::Receiver<View>,
    task: JoinHandle<()>,
}

impl Node {
    fn start(directory: &Scratch, claim: Option<Claim>, seed: u64) -> Self {
        Self::start_over(Embedded::open(&directory.0), claim, seed)
    }

    pub(super) fn start_over<R: Registry + 'static>(
        registry: R,
        claim: Option<Claim>,
        seed: u64,
    ) -> Self {
        let store = Box::new(Leased::new(registry, Duration::from_secs(3600), seed));
        let (claim, claimed) = watch::channel(claim);
        let (sender, view) = watch::channel(View::default());
        let task = tokio::spawn(store.run(claimed, sender));
        Self { claim, view, task }
    }

    pub(super) async fn until<T>(&mut self, wanted: impl Fn(&View) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let found = wanted(&self.view.borrow_and_update());
                match found {
                    Some(found) => return found,
                    None => self.view.changed().await.unwrap(),
                }
            }
        };
        let waited = timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("still {:?}", *self.view.borrow()))
    }

    pub(super) async fn until_held(&mut self) -> Subnets {
        self.until(|view| match &view.own {
            Own::Held(lease) => Some(lease.subnets),
            _ => None,
        })
        .await
    }

    pub(super) async fn until_peers(&mut self, count: usize) -> Arc<Peers> {
        self.until(|view| {
            view.peers
                .clone()
                .filter(|peers| peers.leases.len() == count)
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn claim(number: u32) -> Claim {
    Claim {
        identity: Identity {
            machine: "m".into(),
            node: format!("node-{number}"),
        },
        public_ip: Some(Ipv4Addr::from(0x0a00_0000 + number)),
        public_ipv6: None,
        sources: Vec::new(),
        overwritten: false,
        previous: None,
        formerly: None,
        offer: Offer::HostGw,
    }
}

/// Of this thread, on which all nodes of a test run.
fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        spent.tv_sec.try_into().unwrap(),
        spent.tv_nsec.try_into().unwrap(),
    )
}

/// A directory with a pool of `count` subnets.
fn pool(count: u32) -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir_all(&scratch.0).unwrap();
    let max = Ipv4Addr::from(0x0a05_0000 + count * 256);
    let config = format!(
        r#"{{"Network": "10.5.0.0/16", "SubnetMax": "{max}", "Backend": {{"Type": "host-gw"}}}}"#
    );
    fs::write(scratch.0.join("config"), config).unwrap();
    scratch
}

#[tokio::test]
async fn nodes_get_different_subnets_and_see_one_another() {
    let scratch = pool(5);
    let mut one = Node::start(&scratch, Some(claim(1)), 1);
    let mut two = Node::start(&scratch, Some(claim(2)), 1);
    let (first, second) = (one.until_held().await, two.until_held().await);
    assert_ne!(first, second);
    assert_eq!(one.until_peers(1).await.leases[0].subnets, second);
    assert_eq!(two.until_peers(1).await.leases[0].subnets, first);
}

#[tokio::test]
async fn two_hundred_at_once_share_two_hundred_subnets() {
    let scratch = pool(200);
    let (begun, worked) = (Instant::now(), processor_time());
    let mut nodes: Vec<Node> = (0..200)
        .map(|n| Node::start(&scratch, Some(claim(n)), n.into()))
        .collect();
    let mut held = BTreeSet::new();
    for node in &mut nodes {
        held.insert(node.until_held().await);
    }
    let worked = processor_time() - worked;
    println!(
        "200 nodes had 200 subnets after {:?}, {worked:?} of work",
        begun.elapsed()
    );
    assert_eq!(held.len(), 200);
    // A machine with other things to do lengthens the one and not the other.
    assert!(worked < Duration::from_secs(5), "{worked:?}");
    for node in &mut nodes {
        node.until_peers(199).await;
    }
}

#[tokio::test]
async fn a_restarted_node_has_its_subnet_at_once_and_peers_see_nothing() {
    let scratch = pool(50);
    let mut other = Node::start(&scratch, Some(claim(2)), 2);
    let mut node = Node::start(&scratch, Some(claim(1)), 1);
    let before = node.until_held().await;
    let seen = other.until_peers(1).await;
    drop(node);
    let mut node = Node::start(&scratch, Some(claim(1)), 77);
    assert_eq!(node.until_held().await, before);
    other.until_peers(1).await;
    assert!(Arc::ptr_eq(&seen, &other.until_peers(1).await));
}

#[tokio::test]
async fn the_configuration_and_the_peers_come_before_the_claim() {
    let scratch = pool(5);
    let mut first = Node::start(&scratch, Some(claim(1)), 1);
    first.until_held().await;
    let mut node = Node::start(&scratch, None, 2);
    node.until(|view| view.conf.clone()).await.unwrap();
    node.until_peers(1).await;
    assert_eq!(node.view.borrow().own, Own::Unclaimed);
    node.claim.send_replace(Some(claim(2)));
    node.until_held().await;
}

#[tokio::test]
async fn a_missing_configuration_is_told_with_the_command_and_awaited() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch, Some(claim(1)), 1);
    let told = node.until(|view| view.conf.clone()).await.unwrap_err();
    assert!(
        told.contains("no network configuration; write it with: echo '{"),
        "{told}"
    );
    fs::write(
        scratch.0.join("config"),
        "{\"Network\": \"10.5.0.0/16\" \"SubnetLen\": 24}",
    )
    .unwrap();
    node.until(|view| {
        view.conf
            .clone()?
            .err()
            .filter(|told| told.contains("a comma is missing"))
    })
    .await;
    fs::write(scratch.0.join("config"), "{\"Network\": \"10.5.0.0/16\"}").unwrap();
    node.until_held().await;
}

#[tokio::test]
async fn a_changed_configuration_is_told_and_does_not_count_yet() {
    let scratch = pool(5);
    let mut node = Node::start(&scratch, Some(claim(1)), 1);
    node.until_held().await;
    let config = scratch.0.join("config");
    let good = fs::read_to_string(&config).unwrap();
    let conf = node.view.borrow().conf.clone().unwrap().unwrap();
    fs::write(&config, good.replace("host-gw", "vxlan")).unwrap();
    node.until(|view| {
        view.conf_changed
            .clone()
            .filter(|told| told.contains("from the next start"))
    })
    .await;
    fs::write(&config, "{").unwrap();
    node.until(|view| {
        view.conf_changed
            .clone()
            .filter(|told| told.contains("still open"))
    })
    .await;
    fs::write(&config, format!("{good}\n\n")).unwrap();
    node.until(|view| view.conf_changed.is_none().then_some(()))
        .await;
    assert_eq!(node.view.borrow().conf.clone().unwrap().unwrap(), conf);
}

#[tokio::test]
async fn a_revoked_lease_is_taken_back() {
    let scratch = pool(50);
    let mut node = Node::start(&scratch, Some(claim(1)), 1);
    let held = node.until_held().await;
    let file = scratch.0.join("subnets").join(held.to_key().unwrap());
    fs::remove_file(&file).unwrap();
    timeout(Duration::from_secs(5), async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(node.until_held().await, held);
}

#[tokio::test]
async fn a_moved_node_is_published_anew_in_its_place() {
    let scratch = pool(50);
    let mut node = Node::start(&scratch, Some(claim(1)), 1);
    let mut other = Node::start(&scratch, Some(claim(2)), 2);
    let held = node.until_held().await;
    other.until_peers(1).await;
    let moved = Ipv4Addr::new(10, 9, 9, 9);
    node.claim.send_replace(Some(Claim {
        public_ip: Some(moved),
        ..claim(1)
    }));
    let seen = other
        .until(|view| {
            let peers = view.peers.clone()?;
            peers
                .leases
                .iter()
                .find(|lease| lease.attrs.public_ip == Some(moved))
                .cloned()
        })
        .await;
    assert_eq!(seen.subnets, held);
}

#[tokio::test]
async fn rubbish_is_told_and_harms_nobody() {
    let scratch = pool(5);
    let mut node = Node::start(&scratch, Some(claim(1)), 1);
    let held = node.until_held().await;
    let good = r#"{"PublicIP":"10.0.0.7","PublicIPv6":null,"BackendType":"host-gw"}"#;
    let subnets = scratch.0.join("subnets");
    let own = held.v4.unwrap().network();
    let inside_ours = format!("{own}-26");
    for (name, value) in [
        ("10.5.200.0-24", good),
        ("10.5.201.0-24", "{"),
        ("10.77.0.0-24", good),
        (&inside_ours, good),
        ("README", good),
    ] {
        fs::write(subnets.join(name), value).unwrap();
    }
    let peers = node
        .until(|view| {
            view.peers
                .clone()
                .filter(|peers| peers.leases.len() + peers.rubbish.len() == 5)
        })
        .await;
    assert_eq!(peers.leases.len(), 1);
    let told: Vec<String> = peers
        .rubbish
        .iter()
        .map(|one| format!("{}: {}", one.name, one.why))
        .collect();
    let told = told.join("\n");
    for part in [
        "10.5.201.0-24: its value is no JSON",
        "10.77.0.0-24: 10.77.0.0/24 lies outside",
        "overlaps this node's own",
        "README: \"README\" is not of the form",
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}
