//! Our own image, from `make image-root`, in containerd: with the rights and the mounts that
//! weft.yaml gives it, and with the commands that flannel's manifests have.
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use weft_manifests::{Architecture, Reference, write};
use weft_netns::{Cmd, Cni, Need, World, in_world, skip_unless, wait_until};

use crate::containerd::{Containerd, TOOLS};
use crate::node::{Node, PATIENCE, can_run};

const IMAGE: &str = "localhost/weft:test";
/// What a container of containerd's has, unless told otherwise. weft.yaml drops all.
const USUAL: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const CONF: &str = r#"{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel"}]}"#;

struct Image<'c> {
    containerd: &'c Containerd,
}

impl<'c> Image<'c> {
    fn import(world: &World, containerd: &'c Containerd) -> Self {
        let archive = archive(world);
        let size = fs::metadata(&archive).expect("the archive").len();
        assert!(size <= 20_000_000, "the image has {size} bytes");
        let archive = archive.display().to_string();
        containerd.ctr(&["image", "import", &archive]).run().ok();
        Self { containerd }
    }

    /// `ctr run` of a command, with these directories of the host and these rights alone.
    fn run(
        &self,
        name: &str,
        mounts: &[(&Path, &str, &str)],
        rights: &[&str],
        command: &[&str],
    ) -> Cmd {
        let cgroup = format!("{}/{name}", self.containerd.cgroup());
        let mark = std::env::var("WEFT_WORLD").expect("a world marks its processes");
        let mut run = self
            .containerd
            .ctr(&["run", "--rm", "--net-host", "--cgroup", &cgroup])
            .args(["--env", &format!("WEFT_WORLD={mark}")]);
        if rights.len() < USUAL.len() {
            // Whose rights are few has a root that is only read.
            run = run.arg("--read-only");
        }
        for right in USUAL.iter().filter(|right| !rights.contains(right)) {
            run = run.args(["--cap-drop", right]);
        }
        for right in rights.iter().filter(|right| !USUAL.contains(right)) {
            run = run.args(["--cap-add", right]);
        }
        for (host, inside, how) in mounts {
            let host = host.display();
            let mount = format!("type=bind,src={host},dst={inside},options=rbind:{how}");
            run = run.args(["--mount", &mount]);
        }
        run.args([IMAGE, name]).args(command)
    }
}

impl Image<'_> {
    fn end(&self, name: &str) {
        let kill = ["task", "kill", "--signal", "SIGTERM", name];
        self.containerd.ctr(&kill).run().ok();
    }

    fn until_ready(&self, name: &str) {
        let status = [
            "task",
            "exec",
            "--exec-id",
            "status",
            name,
            "/opt/bin/weft",
            "status",
        ];
        wait_until("the daemon is ready", PATIENCE, || {
            let said = self.containerd.ctr(&status).run().stdout;
            said.contains(": ready")
        });
    }
}

fn archive(world: &World) -> PathBuf {
    let archive = world.scratch("our-image").join("image.tar");
    let root = root();
    assert!(
        root.is_dir(),
        "no {} (make image-root makes it)",
        root.display()
    );
    let reference: Reference = IMAGE.parse().expect("a name");
    let architecture = Architecture::of_triple(&format!("{}-", std::env::consts::ARCH));
    let file = File::create(&archive).expect("create the archive");
    write(
        &root,
        &reference,
        architecture.expect("an architecture"),
        file,
    )
    .expect("write it");
    archive
}

fn root() -> PathBuf {
    Cni::weft_dir().with_file_name("image")
}

/// What is in it, and what is not.
#[test]
fn our_image_holds_our_executables_and_flannels_names_and_is_the_same_every_time() {
    in_world(|world| {
        let [one, other] =
            [archive(world), archive(world)].map(|path| fs::read(path).expect("read"));
        assert!(one == other);
        assert!(one.len() <= 20_000_000, "{}", one.len());
        println!("the image: {} bytes", one.len());
        let find = Cmd::new("find")
            .arg(root())
            .args(["-not", "-type", "d", "-printf", "%P %l\n"]);
        let mut names: Vec<String> = find
            .run()
            .ok()
            .stdout
            .lines()
            .map(|l| l.trim().to_owned())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "bin/cp /opt/bin/weft",
                "flannel /opt/bin/weft-cni",
                "opt/bin/flanneld weftd",
                "opt/bin/install-conf weft",
                "opt/bin/mk-docker-opts.sh weft",
                "opt/bin/weft",
                "opt/bin/weft-cni",
                "opt/bin/weftd",
            ]
        );
    });
}

#[test]
fn our_image_does_what_weft_yaml_and_flannels_manifests_ask_of_it() {
    if !can_run(&TOOLS) || !skip_unless(&[Need::Tool("find")]) {
        return;
    }
    in_world(|world| {
        let node = Node::new(world, &[]);
        let containerd = Containerd::start(&node, "default");
        let image = Image::import(world, &containerd);
        let [bin, net_d, cfg] = ["bin", "net.d", "cfg"].map(|name| world.scratch(name));
        fs::write(cfg.join("cni-conf.json"), CONF).expect("write a configuration");

        // weft.yaml's init container.
        let mounts = [(bin.as_path(), "/opt/cni/bin", "rw")];
        image
            .run("install", &mounts, &[], &["/opt/bin/weft", "install"])
            .run()
            .ok();
        let ours = fs::read(root().join("opt/bin/weft-cni")).expect("read");
        for plugin in ["bridge", "host-local", "portmap", "loopback", "flannel"] {
            assert!(
                fs::read(bin.join(plugin)).expect("read") == ours,
                "{plugin}"
            );
        }

        // Flannel's, of 0.28 and 0.22: the plugin.
        fs::write(bin.join("flannel"), "another's").expect("write");
        let copy = ["cp", "-f", "/flannel", "/opt/cni/bin/flannel"];
        image.run("plugin", &mounts, &[], &copy).run().ok();
        assert!(fs::read(bin.join("flannel")).expect("read") == ours);

        // Of 0.28, and of 0.22 and 0.14: the configuration.
        let mounts = [
            (cfg.as_path(), "/etc/kube-flannel/", "ro"),
            (net_d.as_path(), "/etc/cni/net.d", "rw"),
        ];
        let (from, to) = (
            "/etc/kube-flannel/cni-conf.json",
            "/etc/cni/net.d/10-flannel.conflist",
        );
        for (name, command) in [
            ("of-28", &["/opt/bin/install-conf", from, to][..]),
            ("of-14", &["cp", "-f", from, to]),
        ] {
            image.run(name, &mounts, &[], command).run().ok();
            let conflist = net_d.join("10-flannel.conflist");
            assert_eq!(fs::read_to_string(&conflist).expect("read"), CONF);
            fs::remove_file(conflist).expect("remove");
        }
        serves(world, &image, &cfg, &net_d);
    });
}

/// The daemon, by flanneld's name, with NET_ADMIN and NET_RAW alone and /proc/sys read-only.
fn serves(world: &World, image: &Image<'_>, cfg: &Path, net_d: &Path) {
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a node that does not forward");
    let [run, run_weft, state, store] =
        ["flannel", "weft", "state", "store"].map(|name| world.scratch(name));
    let conf = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#;
    fs::write(store.join("config"), conf).expect("write a configuration");
    let mounts_of_weftd = [
        (cfg, "/etc/kube-flannel/", "ro"),
        (net_d, "/etc/cni/net.d", "rw"),
        (run.as_path(), "/run/flannel", "rw"),
        (run_weft.as_path(), "/run/weft", "rw"),
        (state.as_path(), "/var/lib/weft", "rw"),
        (store.as_path(), "/store", "rw"),
    ];
    let flannels = [
        "/opt/bin/flanneld",
        "--embedded-dir=/store",
        "--iface=uplink",
        "--ip-masq",
        "--machine-id=node-1",
        "--healthz-port=8081",
    ];
    let mut command = flannels.to_vec();
    command.push("--cni-conf-source=/etc/kube-flannel/cni-conf.json");
    let running = image
        .run(
            "weftd",
            &mounts_of_weftd,
            &["CAP_NET_ADMIN", "CAP_NET_RAW"],
            &command,
        )
        .spawn();
    wait_until("the conflist is in place", PATIENCE, || {
        let ended = running.ends_within(std::time::Duration::ZERO);
        assert!(!ended, "{}", running.said_so_far());
        net_d.join("10-flannel.conflist").exists()
    });
    assert!(run.join("subnet.env").exists());
    image.until_ready("weftd");
    assert!(
        world
            .exec("ip -d link show flannel.1")
            .contains("vxlan id 1")
    );
    assert!(
        world
            .exec("nft list table ip flannel-ipv4")
            .contains("masquerade")
    );
    // Nobody is to take it for flanneld, which weftd refuses to run beside.
    let tasks = image.containerd.ctr(&["task", "list"]).run().ok().stdout;
    let task = tasks.lines().find(|line| line.starts_with("weftd "));
    let pid = task
        .and_then(|line| line.split_whitespace().nth(1))
        .expect("a process");
    assert_eq!(world.exec(&format!("cat /proc/{pid}/comm")).trim(), "weftd");
    // What it may not set, it tells once, with the remedy.
    let log = running.said_so_far();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ip_forward"))
        .collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("WARN"), "{log}");
    image.end("weftd");
    running.finish().ok();
    assert!(net_d.join("10-flannel.conflist").exists());

    // With flannel's rights and mounts alone, which have none of weftd's own directories.
    let mounts = [0, 2, 5].map(|i| mounts_of_weftd[i]);
    let mut rights = USUAL.to_vec();
    rights.push("CAP_NET_ADMIN");
    let running = image.run("flanneld", &mounts, &rights, &flannels).spawn();
    image.until_ready("flanneld");
    image.end("flanneld");
    running.finish().ok();

    // The backend udp says what it lacks, and works with what its overlay mounts.
    let conf = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}"#;
    fs::write(store.join("config"), conf).expect("write a configuration");
    let rights = ["CAP_NET_ADMIN", "CAP_NET_RAW"];
    let running = image
        .run("without", &mounts_of_weftd, &rights, &flannels)
        .spawn();
    wait_until("it says what it lacks", PATIENCE, || {
        running
            .said_so_far()
            .contains("mount the host's /dev/net/tun")
    });
    image.end("without");
    running.finish().ok();
    let tun = (Path::new("/dev/net/tun"), "/dev/net/tun", "rw");
    let with_tun: Vec<_> = mounts_of_weftd.into_iter().chain([tun]).collect();
    let running = image.run("udp", &with_tun, &rights, &flannels).spawn();
    image.until_ready("udp");
    assert!(
        world
            .exec("ip -d link show flannel0")
            .contains("tun type tun")
    );
    image.end("udp");
    running.finish().ok();
}
