//! The runtime's configuration: in place when pods can have a network, soon, and not before; and
//! in step with its source from then on.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use weft_netns::{in_world, wait_until};

use crate::harness::{Cluster, LIMIT, Node, VXLAN, vxlan_lease};

const CONF: &str = r#"{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel"}]}"#;
const OTHER: &str = r#"{"cniVersion": "1.0.0", "name": "cbr1", "plugins": [{"type": "flannel"}]}"#;

/// A node whose daemon puts a configuration from `<node>/cfg` into `<node>/net.d`.
struct Told<'w> {
    node: Node<'w>,
    source: PathBuf,
    dir: PathBuf,
}

impl<'w> Told<'w> {
    fn new(cluster: &Cluster<'w>, flags: &[&str]) -> Self {
        let mut node = cluster.node(1);
        let (cfg, dir) = (node.dir.join("cfg"), node.dir.join("net.d"));
        fs::create_dir(&cfg).unwrap();
        let source = cfg.join("cni-conf.json");
        fs::write(&source, CONF).unwrap();
        node.flags.extend([
            format!("--cni-conf-source={}", source.display()),
            format!("--cni-conf-dir={}", dir.display()),
        ]);
        node.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        Self { node, source, dir }
    }

    fn target(&self) -> PathBuf {
        self.dir.join("10-flannel.conflist")
    }

    fn says(&self, conf: &str) -> bool {
        fs::read_to_string(self.target()).is_ok_and(|text| text == conf)
    }

    fn until_says(&self, conf: &str) {
        wait_until("the configuration is in place", LIMIT, || self.says(conf));
    }

    /// As the kubelet writes a ConfigMap's files: by one rename.
    fn rewrite(&self, conf: &str) {
        let beside = self.source.with_extension("new");
        fs::write(&beside, conf).unwrap();
        fs::rename(beside, &self.source).unwrap();
    }
}

/// The store's answer comes after the exec, so this is more than what is promised.
#[test]
fn it_stands_within_300_ms_of_the_daemons_exec_and_never_before_the_subnet_file() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let told = Told::new(&cluster, &[]);
        for peer in 2..100 {
            cluster.put_peer(peer, &vxlan_lease(peer));
        }
        let soonest = (0..5).map(|_| {
            fs::remove_file(told.target()).ok();
            fs::remove_file(told.node.dir.join("subnet.env")).ok();
            let began = Instant::now();
            told.node.start();
            let taken = loop {
                if told.target().exists() {
                    break began.elapsed();
                }
                assert!(began.elapsed() < LIMIT, "{}", told.node.log());
                std::thread::yield_now();
            };
            assert!(told.node.dir.join("subnet.env").exists());
            told.node.terminate();
            taken
        });
        let soonest = soonest.min().unwrap();
        println!("exec to conflist, with 98 peers: {soonest:?}");
        assert!(soonest < Duration::from_millis(300), "{soonest:?}");
    });
}

#[test]
fn a_node_without_a_network_gets_none() {
    in_world(|world| {
        let cluster = Cluster::new(world, "");
        let told = Told::new(&cluster, &[]);
        told.node.start();
        told.node.until_told(&["configuration"]);
        assert!(!told.target().exists());
        cluster.store.put("config", VXLAN);
        told.until_says(CONF);
        told.node.until_ready();
    });
}

#[test]
fn it_follows_its_source_is_put_back_and_survives_rubbish_and_the_daemons_end() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let told = Told::new(&cluster, &["--cni-conf-put-aside"]);
        fs::create_dir(&told.dir).unwrap();
        let podmans = told.dir.join("87-podman-bridge.conflist");
        fs::write(&podmans, "podman's").unwrap();
        told.node.start();
        told.until_says(CONF);
        wait_until("podman's is aside", LIMIT, || !podmans.exists());
        assert!(
            told.dir
                .join("87-podman-bridge.conflist.weft-aside")
                .exists()
        );

        told.rewrite(OTHER);
        told.until_says(OTHER);
        fs::remove_file(told.target()).unwrap();
        told.until_says(OTHER);
        fs::remove_dir_all(&told.dir).unwrap();
        told.until_says(OTHER);
        fs::remove_file(told.target()).unwrap();
        told.until_says(OTHER);
        told.rewrite(r#"{"name": "cbr0", "plugins": [}"#);
        told.node
            .until_told(&["is no CNI configuration", "line 1, column", "stays"]);
        assert!(told.says(OTHER) && told.node.is_ready());
        told.rewrite(CONF);
        told.until_says(CONF);
        told.node.terminate();
        assert!(told.says(CONF));
    });
}

#[test]
fn a_directory_that_cannot_be_written_is_told_and_found_mended_without_a_restart() {
    in_world(|world| {
        let cluster = Cluster::new(world, VXLAN);
        let told = Told::new(&cluster, &["--resync=1"]);
        let dir = told.dir.display();
        fs::create_dir(&told.dir).unwrap();
        fs::write(told.target(), OTHER).unwrap();
        for (break_it, parts, mend_it) in [
            (
                format!("mount --bind {dir} {dir}; mount -o remount,bind,ro {dir}"),
                ["Read-only file system", "mount this one so"],
                format!("umount {dir}"),
            ),
            (
                format!(
                    "mount -t tmpfs -o size=4k full {dir}; echo old > {dir}/10-flannel.conflist"
                ),
                ["No space left on device", "as it was: make room"],
                format!("umount {dir}"),
            ),
        ] {
            world.exec(&break_it);
            let before = fs::read(told.target()).unwrap();
            told.node.start();
            told.node.until_told(&["net.d/10-flannel.conflist: "]);
            told.node.until_told(&parts);
            assert!(!told.node.is_ready() && told.node.lives());
            assert_eq!(fs::read(told.target()).unwrap(), before);
            assert_eq!(fs::read_dir(&told.dir).unwrap().count(), 1);
            // As the daemon sees them: its mounts are the world's.
            world.exec(&mend_it);
            told.node.until_ready();
            told.until_says(CONF);
            told.node.terminate();
            fs::write(told.target(), OTHER).unwrap();
        }
    });
}
