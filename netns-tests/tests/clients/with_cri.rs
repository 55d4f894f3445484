//! containerd's CRI: loopback and eth0 wired in parallel, port mappings with
//! capital keys, DEL with whatever namespace is left.
use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use weft_netns::{World, in_world};

use crate::containerd::{Containerd, TOOLS};
use crate::cri::{Cri, PodSpec};
use crate::networks;
use crate::node::{Mapped, Node, SERVED, TCP, UDP, can_run};

const SUBNET_ENV: &str = "/run/flannel/subnet.env";

#[test]
fn a_pod_on_containerds_network_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let scene = Scene::new(world, &networks::containerd(None));
        // A bridge in promiscuous mode sends a packet back only where netfilter
        // leaves bridged packets alone.
        scene.node.bridge_netfilter(false);
        scene.node.assert_leaves_nothing(|| {
            let pod = scene.start(0);
            let ports = Mapped {
                ipv6: true,
                ..pod.ports()
            };
            scene
                .node
                .assert_mapped(ports, |args| scene.inside(&pod, args));
            scene.stop(&pod);
            scene.node.assert_unmapped(ports);
            scene.remove(&pod);
            vec![pod.sandbox]
        });
    });
}

#[test]
fn a_pod_on_kube_flannels_network_answers_and_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let scene = Scene::new(world, &networks::kube_flannel());
        write_subnet_env();
        scene.node.assert_leaves_nothing(|| {
            let pod = scene.start(0);
            assert!(scene.address(&pod).starts_with("10.244.1."));
            scene.assert_mapped(&pod);
            scene.stop(&pod);
            scene.node.assert_unmapped(pod.ports());
            scene.remove(&pod);
            vec![pod.sandbox]
        });
    });
}

#[test]
fn a_pod_started_before_flannel_is_refused_and_one_stopped_after_it_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let scene = Scene::new(world, &networks::kube_flannel());
        let before = scene.node.look();
        scene
            .cri
            .run_pod_sandbox(&spec(0))
            .expect_err("a pod without subnet.env");
        scene.node.assert_no_trace(&before, &[]);
        assert!(scene.containerd.complaints().contains(SUBNET_ENV));

        write_subnet_env();
        let pod = scene.start(0);
        scene.assert_mapped(&pod);
        fs::remove_file(SUBNET_ENV).expect("remove subnet.env");
        scene.stop(&pod);
        scene.remove(&pod);
        scene.node.assert_no_trace(&before, &[pod.sandbox]);
    });
}

#[test]
fn a_pod_whose_namespace_the_runtime_has_lost_leaves_nothing() {
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let scene = Scene::new(world, &networks::kube_flannel());
        write_subnet_env();
        let before = scene.node.look();
        let pod = scene.start(0);
        scene.assert_mapped(&pod);
        // The namespace itself lives on, so that its link does not go by itself.
        let namespace = the_only_file("/run/netns", "cni-");
        let kept = world.scratch("kept").join("netns");
        File::create(&kept).expect("create a file to mount on");
        let bind = MsFlags::MS_BIND;
        mount(Some(&*namespace), &kept, None::<&str>, bind, None::<&str>).expect("keep it");
        umount2(&*namespace, MntFlags::MNT_DETACH).expect("unmount the namespace");
        fs::remove_file(&namespace).expect("remove the namespace's file");

        scene.stop(&pod);
        scene.node.assert_unmapped(pod.ports());
        scene.remove(&pod);
        scene.node.assert_no_trace(&before, &[pod.sandbox]);
    });
}

#[test]
fn pods_that_come_and_go_at_once_answer_and_leave_nothing() {
    const PODS: u16 = 12;
    if !can_run(&TOOLS) {
        return;
    }
    in_world(|world| {
        let scene = Scene::new(world, &networks::kube_flannel());
        write_subnet_env();
        let before = scene.node.look();
        let at_once = |work: &(dyn Fn(u16) -> Pod + Sync)| -> Vec<Pod> {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..PODS).map(|n| scope.spawn(move || work(n))).collect();
                all.into_iter()
                    .map(|one| one.join().expect("a pod"))
                    .collect()
            })
        };
        let pods = at_once(&|number| scene.start(number));
        for pod in &pods {
            scene.assert_mapped(pod);
        }
        let gone = at_once(&|number| {
            let pod = pods[usize::from(number)].clone();
            scene.stop(&pod);
            scene.remove(&pod);
            pod
        });
        for pod in &gone {
            scene.node.assert_unmapped(pod.ports());
        }
        let names: Vec<_> = gone.into_iter().map(|pod| pod.sandbox).collect();
        scene.node.assert_no_trace(&before, &names);
    });
}

/// A node with containerd and one network.
struct Scene<'w> {
    node: Node<'w>,
    containerd: Containerd,
    cri: Cri,
}

/// A pod that runs a server.
#[derive(Clone, Debug)]
struct Pod {
    spec: PodSpec,
    sandbox: String,
    container: String,
}

impl Pod {
    fn ports(&self) -> Mapped {
        Mapped {
            tcp: self.spec.tcp[0].1,
            udp: self.spec.udp[0].1,
            ipv6: false,
        }
    }
}

impl<'w> Scene<'w> {
    fn new(world: &'w World, conflist: &Value) -> Self {
        let node = Node::new(world, &[]);
        node.bridge_netfilter(true);
        node.configure("10-network.conflist", conflist);
        let containerd = Containerd::start(&node, "k8s.io");
        let cri = containerd.cri();
        Self {
            node,
            containerd,
            cri,
        }
    }

    #[track_caller]
    fn start(&self, number: u16) -> Pod {
        let spec = spec(number);
        let sandbox = self.done(self.cri.run_pod_sandbox(&spec));
        let args = ["serve", &SERVED.to_string()];
        let container = self.done(self.cri.run_container(&sandbox, &spec, &args));
        Pod {
            spec,
            sandbox,
            container,
        }
    }

    #[track_caller]
    fn assert_mapped(&self, pod: &Pod) {
        self.node
            .assert_mapped(pod.ports(), |args| self.inside(pod, args));
    }

    #[track_caller]
    fn inside(&self, pod: &Pod, args: &[&str]) -> String {
        self.done(self.cri.exec(&pod.container, args))
    }

    #[track_caller]
    fn address(&self, pod: &Pod) -> String {
        self.done(self.cri.pod_address(&pod.sandbox))
    }

    #[track_caller]
    fn stop(&self, pod: &Pod) {
        self.done(self.cri.stop_pod_sandbox(&pod.sandbox));
    }

    #[track_caller]
    fn remove(&self, pod: &Pod) {
        self.done(self.cri.remove_pod_sandbox(&pod.sandbox));
    }

    /// The runtime says only in its log why it has refused something.
    #[track_caller]
    fn done<T>(&self, outcome: Result<T, String>) -> T {
        outcome.unwrap_or_else(|e| panic!("{e}; containerd says\n{}", self.containerd.complaints()))
    }
}

/// The pod of this number: its ports are its own.
fn spec(number: u16) -> PodSpec {
    PodSpec {
        name: format!("web-{number}"),
        tcp: vec![(SERVED, TCP + number)],
        udp: vec![(SERVED, UDP - number)],
    }
}

fn write_subnet_env() {
    fs::create_dir_all("/run/flannel").expect("create flannel's directory");
    fs::write(SUBNET_ENV, networks::SUBNET_ENV).expect("write subnet.env");
}

#[track_caller]
fn the_only_file(dir: &str, prefix: &str) -> Box<Path> {
    let entries = fs::read_dir(dir).expect("read a directory").flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let [file] = &fitting.map(|entry| entry.path()).collect::<Vec<_>>()[..] else {
        panic!("not one file {prefix}* in {dir}")
    };
    file.as_path().into()
}
