//! The Helm chart: the same as weft.yaml as it is, and each of its values does what it says. By a
//! renderer of our own, and by helm where there is one.

use serde_json::{Value, json};
use weft_netns::{Cmd, Need, skip_unless};

use crate::contents;
use crate::documents::{named, one, parse, path, read, sorted, text};
use crate::overlays::base;
use crate::schema;
use crate::template;

/// With values as `--set` gives them.
fn try_chart(set: &[(&str, Value)]) -> Result<Vec<Value>, String> {
    let mut values = read("chart/weft/values.yaml").remove(0);
    for (name, value) in set {
        let mut place = &mut values;
        for part in name.split('.') {
            assert!(place.get(part).is_some(), "values.yaml has no {name}");
            place = &mut place[part];
        }
        *place = value.clone();
    }
    let root = json!({"Values": values, "Release": {"Namespace": "kube-weft"}});
    let mut documents = Vec::new();
    for part in ["rbac", "config", "daemonset"] {
        let template = text(&format!("chart/weft/templates/{part}.yaml"));
        documents.extend(parse(&template::render(&template, &root)?));
    }
    Ok(documents)
}

fn chart(set: &[(&str, Value)]) -> Vec<Value> {
    let documents = try_chart(set).unwrap();
    documents.iter().for_each(schema::check);
    documents
}

fn net_conf(documents: &[Value]) -> Value {
    let conf = one(documents, "ConfigMap")["data"]["net-conf.json"].as_str();
    serde_json::from_str(conf.unwrap()).unwrap()
}

fn pod(documents: &[Value]) -> &Value {
    &one(documents, "DaemonSet")["spec"]["template"]["spec"]
}

/// Helm makes the namespace itself.
fn without_namespace(mut documents: Vec<Value>) -> Vec<Value> {
    documents.retain(|document| document["kind"] != "Namespace");
    sorted(documents)
}

#[test]
fn as_it_is_it_makes_what_weft_yaml_has() {
    let mut ours = chart(&[]);
    contents::check(&ours, "chart");
    let mut expected = base();
    for documents in [&mut ours, &mut expected] {
        for document in documents.iter_mut() {
            // JSON may be laid out otherwise, arguments may stand in another order.
            if let Some(conf) = document["data"].get_mut("net-conf.json") {
                let mut parsed: Value = serde_json::from_str(conf.as_str().unwrap()).unwrap();
                let backend = parsed["Backend"].as_object_mut().unwrap();
                // Its default, said aloud.
                backend.remove("VNI");
                *conf = parsed;
            }
            if document["kind"] == "DaemonSet" {
                let weftd = &mut document["spec"]["template"]["spec"]["containers"][0];
                let args = weftd["args"].as_array_mut().unwrap();
                args.sort_by_key(Value::to_string);
            }
        }
    }
    assert_eq!(without_namespace(ours), without_namespace(expected));
}

#[test]
fn every_value_does_what_it_says() {
    let conf = |set: &[(&str, Value)]| net_conf(&chart(set));
    let set = [
        ("podCidr", json!("")),
        ("podCidrv6", json!("fd05::/48")),
        ("flannel.enableNFTables", json!(true)),
        ("flannel.backendPort", json!(4789)),
        ("flannel.vni", json!(16_000_000)),
        ("flannel.GBP", json!(true)),
        ("flannel.directRouting", json!(true)),
        ("flannel.mtu", json!(1400)),
    ];
    assert_eq!(
        conf(&set),
        json!({"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd05::/48",
               "EnableNFTables": true,
               "Backend": {"Type": "vxlan", "Port": 4789, "VNI": 16_000_000, "GBP": true,
                           "DirectRouting": true, "MTU": 1400}})
    );
    let host_gw = [
        ("podCidr", json!("10.1.0.0/16")),
        ("flannel.backend", json!("host-gw")),
    ];
    assert_eq!(
        conf(&host_gw),
        json!({"Network": "10.1.0.0/16", "Backend": {"Type": "host-gw"}})
    );

    let documents = chart(&[
        ("global.imagePullSecrets", json!([{"name": "secret"}])),
        ("flannel.image.repository", json!("registry.example/weft")),
        ("flannel.image.tag", json!("2")),
        ("flannel.cniBinDir", json!("/usr/lib/cni")),
        ("flannel.cniConfDir", json!("/etc/kubernetes/cni")),
        ("flannel.skipCNIConfigInstallation", json!(true)),
        ("flannel.args", json!(["--kube-subnet-mgr", "--iface=eth1"])),
        ("flannel.resources", json!({"limits": {"memory": "64Mi"}})),
        ("flannel.healthz.port", json!(9000)),
        ("flannel.healthz.livenessProbe", json!({"periodSeconds": 7})),
        (
            "flannel.healthz.readinessProbe",
            json!({"periodSeconds": 3}),
        ),
        (
            "flannel.tolerations",
            json!([{"key": "a", "operator": "Exists"}]),
        ),
        ("flannel.nodeSelector", json!({"pool": "b"})),
    ]);
    contents::check(&documents, "chart-changed");
    let pod = pod(&documents);
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "secret"}]));
    assert_eq!(
        pod["tolerations"],
        json!([{"key": "a", "operator": "Exists"}])
    );
    assert_eq!(pod["nodeSelector"], json!({"pool": "b"}));
    let weftd = named(&pod["containers"], "weftd");
    assert_eq!(weftd["image"], "registry.example/weft:2");
    assert_eq!(
        named(&pod["initContainers"], "install")["image"],
        weftd["image"]
    );
    assert_eq!(
        weftd["args"],
        json!([
            "--kube-subnet-mgr",
            "--iface=eth1",
            "--healthz-port=9000",
            "--machine-id=$(NODE_NAME)"
        ])
    );
    assert_eq!(weftd["resources"], json!({"limits": {"memory": "64Mi"}}));
    assert_eq!(weftd["livenessProbe"]["periodSeconds"], 7);
    assert_eq!(weftd["readinessProbe"]["periodSeconds"], 3);
    assert_eq!(
        named(&pod["volumes"], "cni-bin")["hostPath"]["path"],
        "/usr/lib/cni"
    );
    assert_eq!(
        named(&pod["volumes"], "cni-conf")["hostPath"]["path"],
        "/etc/kubernetes/cni"
    );
}

#[test]
fn the_rest_of_the_values_too() {
    let documents = chart(&[
        (
            "flannel.flannel_cni.image.repository",
            json!("registry.example/plugins"),
        ),
        ("flannel.flannel_cni.image.tag", json!("3")),
        ("flannel.backend", json!("udp")),
        ("flannel.backendPort", json!(8286)),
        ("flannel.healthz.port", json!(0)),
        ("flannel.macPrefix", json!("0E-2A")),
        (
            "flannel.cniConf",
            json!("{\n  \"name\": \"other\", \"plugins\": [{\"type\": \"flannel\"}]\n}\n"),
        ),
    ]);
    contents::check(&documents, "chart-udp");
    assert_eq!(
        net_conf(&documents)["Backend"],
        json!({"Type": "udp", "Port": 8286})
    );
    let conf = one(&documents, "ConfigMap")["data"]["cni-conf.json"]
        .as_str()
        .unwrap();
    assert!(conf.contains("other"), "{conf}");
    let pod = pod(&documents);
    let install = named(&pod["initContainers"], "install");
    assert_eq!(install["image"], "registry.example/plugins:3");
    let weftd = named(&pod["containers"], "weftd");
    assert!(weftd.get("livenessProbe").is_none() && weftd.get("ports").is_none());
    assert_eq!(
        named(&weftd["volumeMounts"], "tun")["mountPath"],
        "/dev/net/tun"
    );
}

#[test]
fn what_is_not_there_is_refused_in_words() {
    let told = try_chart(&[("flannel.backend", json!("wireguard"))]).unwrap_err();
    assert_eq!(
        told,
        "flannel.backend is \"wireguard\": weft has vxlan, host-gw, udp and alloc"
    );
    let told = try_chart(&[("netpol.enabled", json!(true))]).unwrap_err();
    assert!(told.contains("not provided"), "{told}");
}

#[test]
fn helm_renders_the_chart_as_we_do() {
    if !skip_unless(&[Need::Tool("helm")]) {
        return;
    }
    let helm = Cmd::new("helm").args(["template", "weft", "--namespace", "kube-weft"]);
    let said = helm.arg(path("chart/weft")).run().ok().stdout;
    assert_eq!(sorted(parse(&said)), sorted(chart(&[])));
}
