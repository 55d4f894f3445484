//! Configurations as people really write them: the good ones work exactly so, the broken ones are
//! explained.
mod node;

use std::fs;
use std::path::Path;

use node::{LOOK, add};
use serde_json::{Value, json};
use weft_netns::{Attachment, Chain, Cni, Verb, World, in_world, skip_unless};

const ID: &str = "6233db63bf76d03925a484ca123794361a0e3fb8478940a7b008cdab980278ec";

/// What the plugin of flannel 0.14 and later leaves, and an older form without `ranges`.
const OLD_SCRATCH_FILE: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"routes":[{"dst":"172.20.0.0/16"}],"subnet":"172.20.1.0/24","type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;
const SCRATCH_FILE: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"172.20.1.0/24"}]],"routes":[{"dst":"172.20.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;

const SUBNET_ENV: &str = "FLANNEL_NETWORK=172.20.0.0/16
FLANNEL_SUBNET=172.20.1.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
";

const MYNET: &str = r#"{
    "cniVersion": "0.3.0",
    "name": "mynet",
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipMasq": true,
    "ipam": {
        "type": "host-local",
        "subnet": "10.244.0.0/16",
        "routes": [
            {"dst": "0.0.0.0/0"}
        ]
    }
}
"#;

/// The conflist as written, in which the runtime itself stumbles over comments and a comma.
const CONFLIST_AS_WRITTEN: &str = r#"{
    "name": "cbr0",
    "plugins": [
        {
            "type": "flannel",
            "delegate":{ //...
                "hairpinMode": true, //...
                "isDefaultGateway": true
            }
        },
     	{
            "type": "portmap",
            "capabilities":{
                "portMappings": true,
            }
        }
    ]
}
"#;

fn on_a_flannel_node(test: impl FnOnce(&World)) {
    if !skip_unless(&LOOK) {
        return;
    }
    in_world(|world| {
        fs::create_dir_all("/run/flannel").expect("a writable world");
        fs::write("/run/flannel/subnet.env", SUBNET_ENV).expect("a writable world");
        test(world);
    });
}

/// kube-flannel's conflist; without a version if that is empty.
fn cbr0(version: &str) -> Chain {
    let mut list = json!({"name": "cbr0", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    if !version.is_empty() {
        list["cniVersion"] = version.into();
    }
    Chain::new(&Cni::weft(), list)
}

fn scratch() -> String {
    fs::read_to_string(Path::new("/var/lib/cni/flannel").join(ID)).expect("a scratch file")
}

#[test]
fn a_flannel_nodes_pod_is_wired_and_its_scratch_file_is_the_go_plugins_byte_for_byte() {
    on_a_flannel_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new(ID, &pod);
        let result = add(&cbr0("0.3.1"), &who);
        assert_eq!(result["ips"][0]["address"], "172.20.1.2/24");
        assert_eq!(scratch(), SCRATCH_FILE);
        let routes = pod.exec("ip route");
        for route in ["default via 172.20.1.1", "172.20.0.0/16 via 172.20.1.1"] {
            assert!(routes.contains(route), "{routes}");
        }
        assert!(world.exec("ip address show cni0").contains("172.20.1.1/24"));
        assert!(pod.exec("ip link show eth0").contains("mtu 1450"));
        cbr0("0.3.1").del(&who).ok();
        assert!(!Path::new("/var/lib/cni/flannel").join(ID).exists());
    });
}

#[test]
fn del_works_from_either_form_of_the_scratch_file_with_no_lease_left() {
    for form in [OLD_SCRATCH_FILE, SCRATCH_FILE] {
        assert!(serde_json::from_str::<Value>(form).is_ok());
    }
    on_a_flannel_node(|world| {
        for (number, form) in [OLD_SCRATCH_FILE, SCRATCH_FILE].into_iter().enumerate() {
            let pod = world.netns(&format!("pod{number}"));
            let who = Attachment::new(ID, &pod);
            fs::write("/run/flannel/subnet.env", SUBNET_ENV).unwrap();
            add(&cbr0("0.3.1"), &who);
            fs::write(Path::new("/var/lib/cni/flannel").join(ID), form).unwrap();
            fs::remove_file("/run/flannel/subnet.env").unwrap();
            cbr0("0.3.1").del(&who).ok();
            let left =
                world.exec("ip -br link; ls /var/lib/cni/networks/cbr0 /var/lib/cni/flannel");
            assert!(
                !left.contains("veth") && !left.contains("172.20.1.") && !left.contains(ID),
                "{left}"
            );
        }
    });
}

#[test]
fn the_conflist_as_written_is_refused_and_cured_of_comments_and_comma_it_works_without_version() {
    let cured: String = CONFLIST_AS_WRITTEN
        .replace("//...", "")
        .replace("true,\n            }", "true\n            }");
    let conflist: Value = serde_json::from_str(&cured).expect("cured");
    on_a_flannel_node(|world| {
        let pod = world.netns("pod");
        let who = Attachment::new(ID, &pod);
        let as_written = Cni::weft()
            .command("flannel", Verb::Add, &who, &json!({}))
            .stdin(CONFLIST_AS_WRITTEN)
            .run();
        let error: Value = serde_json::from_str(&as_written.stdout).expect("an error as JSON");
        assert_eq!((as_written.code(), &error["code"]), (Some(1), &json!(6)));
        assert!(error["msg"].as_str().unwrap().contains("line 6"), "{error}");

        let chain = Chain::new(&Cni::weft(), conflist);
        let result = add(&chain, &who);
        assert_eq!(result["cniVersion"], "0.1.0");
        assert_eq!(result["ip4"]["ip"], "172.20.1.2/24");
        assert_eq!(
            scratch(),
            SCRATCH_FILE.replace(r#""cniVersion":"0.3.1","#, "")
        );
        chain.del(&who).ok();
    });
}

#[test]
fn mynet_works_in_0_3_0_and_beside_flannels_bridge_says_why_not() {
    on_a_flannel_node(|world| {
        let pods = world.many_netns("pod", 3);
        let mynet: Value = serde_json::from_str(MYNET).expect("JSON");
        let mynet = Chain::new(&Cni::weft(), mynet);
        let who = Attachment::new("c0", &pods[0]);
        let result = add(&mynet, &who);
        assert_eq!(result["cniVersion"], "0.3.0");
        assert_eq!(result["ips"][0]["address"], "10.244.0.2/16");
        assert_eq!(result["ips"][0]["version"], "4");
        assert!(pods[0].exec("ip route").contains("default via 10.244.0.1"));
        mynet.del(&who).ok();

        world.exec("ip link del cni0");
        add(&cbr0("0.3.1"), &Attachment::new(ID, &pods[1]));
        let failure = mynet.add(&Attachment::new("c2", &pods[2]));
        let failure = failure.failed().expect("a failure").failure();
        assert!(
            failure
                .msg
                .contains("already has an IP address different from 10.244.0.1/16"),
            "{failure:?}"
        );
        assert!(failure.msg.contains("172.20.1.1/24"), "{failure:?}");
    });
}

#[test]
fn a_loopback_configuration_without_a_name_is_told_so() {
    on_a_flannel_node(|world| {
        let pod = world.netns("pod");
        let conf = json!({"cniVersion": "0.3.0", "type": "loopback"});
        let who = Attachment::new("c", &pod).ifname("lo");
        let failure = Cni::weft()
            .call("loopback", Verb::Add, &who, &conf)
            .failure();
        assert_eq!(
            (failure.code, failure.msg.as_str()),
            (7, "missing network name")
        );
    });
}
