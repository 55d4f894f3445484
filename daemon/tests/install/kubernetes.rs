//! In a pod, whose log is gone with it: what keeps the plugins from their place is an Event, too.

use std::fs;

use serde_json::Value;
use weft_netns::apiserver::{ApiServer, slim_node};
use weft_netns::{Done, in_world};

use crate::{suite, weft};

#[test]
fn a_full_a_read_only_and_a_missing_directory_are_told_as_one_event_of_the_node() {
    in_world(|world| {
        let mut server = ApiServer::start(([127, 0, 0, 1], 6443).into(), None);
        server.put(slim_node("node-1", &["10.244.1.0/24"]));
        let from = suite(world, "3", 300_000);
        let bin = world.scratch("bin");
        let install = |url: &str| -> Done {
            let args = [
                "install",
                "--from",
                from.to_str().unwrap(),
                "--bin-dir",
                bin.to_str().unwrap(),
            ];
            let command = weft(&args).env("NODE_NAME", "node-1");
            command.env("FLANNELD_KUBE_API_URL", url).run()
        };
        let url = server.url();
        let dir = bin.display();
        for (break_it, mend_it, words) in [
            (
                format!("mount -t tmpfs -o size=200k full {dir}"),
                format!("umount {dir}"),
                "No space left on device (os error 28)",
            ),
            (
                format!("mount --bind {dir} {dir}; mount -o remount,bind,ro {dir}"),
                format!("umount {dir}"),
                "Read-only file system (os error 30)",
            ),
            (
                format!("rmdir {dir}"),
                format!("mkdir {dir}"),
                "No such file or directory (os error 2); make it",
            ),
        ] {
            world.exec(&break_it);
            for _ in 0..2 {
                let done = install(&url);
                assert_eq!(done.code(), Some(1), "{}", done.how());
                assert!(done.stderr.contains(words), "{}", done.stderr);
                assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
                // The same however often the kubelet tries, with the words of the last time.
                let events = server.list("events");
                let [event] = &events[..] else {
                    panic!("{events:#?}");
                };
                assert_eq!(event["reason"], "PluginsNotInstalled");
                assert_eq!(event["involvedObject"]["name"], "node-1");
                let told = format!("weft: {}\n", text(event, "message"));
                assert_eq!(told, done.stderr);
            }
            world.exec(&mend_it);
        }
        assert_eq!(install(&url).code(), Some(0));
        assert!(fs::exists(bin.join("bridge")).unwrap());

        server.stop();
        world.exec(&format!("rm -r {dir}"));
        let done = install(&url);
        assert_eq!(done.code(), Some(1), "{}", done.how());
        let silence = "weft: no Event tells of it: the API server at http://127.0.0.1:6443 cannot";
        assert!(done.stderr.contains(silence), "{}", done.stderr);
    });
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}
