//! The tool against a daemon that answers on a socket, and against none.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;
use weft_netns::in_world;

use super::*;
use crate::http::Place;
use crate::status::testing;

struct Said {
    code: u8,
    out: String,
    err: String,
}

fn weft(args: &[&str]) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        colours: false,
    };
    let args = ["weft"].iter().chain(args).map(|arg| (*arg).to_owned());
    let code = run(args, |_| None, &mut terminal);
    Said {
        code,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-tool-{}-{next}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn status_shows_what_the_daemon_says() {
    let scratch = Scratch::new();
    let (_status, watched) = watch::channel(Arc::new(testing::serving().0));
    let listener = Place::socket_in(&scratch.0).listen().unwrap();
    tokio::spawn(listener.serve(watched));
    let run_dir = scratch.text().to_owned();
    let (text, json) = tokio::task::spawn_blocking(move || {
        let text = weft(&["status", "--run-dir", &run_dir]);
        (text, weft(&["status", "--json", "--run-dir", &run_dir]))
    })
    .await
    .unwrap();
    assert_eq!((text.code, text.err.as_str()), (0, ""));
    assert!(
        text.out.starts_with("weftd 0.1.0 on node-1: ready"),
        "{}",
        text.out
    );
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["lease"]["state"], "held");
}

#[test]
fn where_no_daemon_answers_status_says_so() {
    let scratch = Scratch::new();
    let said = weft(&["status", "--run-dir", scratch.text()]);
    assert_eq!((said.code, said.out.as_str()), (3, ""));
    assert!(
        said.err.starts_with("weft: no weftd answers at "),
        "{}",
        said.err
    );
    assert!(said.err.contains("; start weftd"), "{}", said.err);
}

#[test]
fn called_wrongly_it_says_what_was_meant() {
    let said = weft(&["doctr"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("did you mean doctor?"), "{}", said.err);
    let said = weft(&["help"]);
    assert!(said.code == 0 && said.out.contains("weft doctor"));
}

/// ```text
/// a namespace where nothing forwards, a chain drops, and cni0 has another network's address
/// ```
#[test]
fn the_doctor_finds_what_is_wrong_with_a_real_node() {
    in_world(|world| {
        let node = world.netns("node");
        node.exec("ip link add cni0 type bridge");
        node.exec("ip address add 10.244.1.1/24 dev cni0");
        node.exec("echo 0 > /proc/sys/net/ipv4/ip_forward");
        node.exec(
            "nft 'add table inet other; add chain inet other forward \
             { type filter hook forward priority 0; policy drop; }'",
        );
        let scratch = Scratch::new();
        let path = |name: &str| format!("{}/{name}", scratch.text());
        let subnet_file =
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.63.1/24\nFLANNEL_MTU=1450\n";
        fs::write(path("subnet.env"), subnet_file).unwrap();
        let conf = r#"{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel"},]}"#;
        fs::write(path("10-flannel.conflist"), conf).unwrap();
        let said = node.enter(|| {
            weft(&[
                "doctor",
                "--run-dir",
                scratch.text(),
                "--subnet-file",
                &path("subnet.env"),
                "--conf-dir",
                scratch.text(),
                "--bin-dir",
                scratch.text(),
            ])
        });
        assert_eq!(said.code, 1);
        for told in [
            "WRONG   no weftd answers at ",
            "ok      the subnet file says",
            "WRONG   net.ipv4.ip_forward is 0",
            "WRONG   forwarded packets from and to pods are dropped by chain forward of table inet other",
            "        cure: `nft insert rule inet other forward ip saddr 10.5.0.0/16 accept",
            "WRONG   cni0 has the address 10.244.1.1/24, but ",
            "10-flannel.conflist, line 1, column 72: a comma before ]",
            "WRONG   there is no CNI plugin flannel that can be run in ",
        ] {
            assert!(said.out.contains(told), "{told}\n{}", said.out);
        }
    });
}

#[test]
fn cleanup_tells_what_it_removed_and_leaves_the_rest() {
    in_world(|world| {
        let node = world.netns("node");
        node.exec("ip link add flannel.1 type vxlan id 1 dstport 8472");
        node.exec("ip link add cni0 type bridge");
        let scratch = Scratch::new();
        let subnet_file = format!("{}/subnet.env", scratch.text());
        fs::write(&subnet_file, "FLANNEL_NETWORK=10.5.0.0/16\n").unwrap();
        let run_dir = format!("{}/run", scratch.text());
        let state_dir = format!("{}/state", scratch.text());
        let clean = || {
            let args = ["cleanup", "--run-dir", &run_dir, "--state-dir", &state_dir];
            weft(&[&args[..], &["--subnet-file", &subnet_file]].concat())
        };
        let said = node.enter(clean);
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        assert!(
            said.out.contains("removed device flannel.1\n"),
            "{}",
            said.out
        );
        assert!(said.out.contains(&subnet_file), "{}", said.out);
        node.exec("ip link show cni0");
        let again = node.enter(clean);
        assert_eq!(
            (again.code, again.out.as_str()),
            (0, "there is nothing of weftd's here\n")
        );
    });
}
