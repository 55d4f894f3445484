//! The server itself: what is asked of it here, the real one answers so.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use weft_netns::apiserver::{ApiServer, Fat, Key, fat_node, flannel_node, slim_node};

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

fn server() -> ApiServer {
    let server = ApiServer::start(([127, 0, 0, 1], 0).into(), None);
    server.put(slim_node("n1", &["10.1.1.0/24"]));
    server.put(slim_node("n2", &[]));
    server
}

/// Code and body; of a watch what came within a while.
fn ask(server: &ApiServer, head: &str, body: &str) -> (u16, String) {
    let place = server.url().replace("http://", "");
    let mut stream = TcpStream::connect(place).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let length = body.len();
    write!(
        stream,
        "{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{}\r\n{body}",
        head.lines().next().unwrap(),
        head.lines()
            .skip(1)
            .map(|line| format!("{line}\r\n"))
            .collect::<String>(),
    )
    .unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 65536];
    loop {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&part[..read]),
        }
        let text = String::from_utf8_lossy(&answer);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            length.is_some_and(|length| body.len() >= length.parse().unwrap())
        });
        if whole {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn json_of(server: &ApiServer, head: &str) -> Value {
    let (code, body) = ask(server, head, "");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn a_list_is_paged_and_its_items_bear_no_kind() {
    let server = server();
    let first = json_of(&server, "GET /api/v1/nodes?limit=1");
    assert_eq!(first["kind"], "NodeList");
    assert_eq!(first["items"].as_array().unwrap().len(), 1);
    assert!(first["items"][0].get("kind").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let token = token.replace('/', "%2F");
    let second = json_of(
        &server,
        &format!("GET /api/v1/nodes?limit=1&continue={token}"),
    );
    assert_eq!(second["items"][0]["metadata"]["name"], "n2");
    assert!(second["metadata"].get("continue").is_none());
    // From the cache all of it comes, whatever the limit.
    let all = json_of(&server, "GET /api/v1/nodes?limit=1&resourceVersion=0");
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    server.compact();
    let (code, body) = ask(
        &server,
        &format!("GET /api/v1/nodes?limit=1&continue={token}"),
        "",
    );
    assert_eq!(code, 410, "{body}");
}

#[test]
fn metadata_alone_is_had_by_asking_for_it() {
    let server = server();
    let head = format!("GET /api/v1/nodes/n1\nAccept: {METADATA}");
    let one = json_of(&server, &head);
    assert_eq!(one["kind"], "PartialObjectMetadata");
    assert!(one.get("spec").is_none());
    let (code, _) = ask(
        &server,
        &format!("GET /api/v1/nodes\nAccept: {METADATA}"),
        "",
    );
    assert_eq!(code, 406);
    let list = METADATA.replace("Metadata;", "MetadataList;");
    let list = json_of(&server, &format!("GET /api/v1/nodes\nAccept: {list}"));
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
}

#[test]
fn the_form_is_the_best_that_is_accepted_and_errors_have_no_other_shape() {
    let server = server();
    let protobuf = METADATA.replace("json", "vnd.kubernetes.protobuf");
    let ask = |accept: &str, path: &str| {
        let (code, body) = ask(&server, &format!("GET {path}\nAccept: {accept}"), "");
        (code, body.split_at(3).0.to_owned())
    };
    let (json, in_protobuf) = ("{\"k".to_owned(), "k8s".to_owned());
    let best = format!("{protobuf},{METADATA},application/json");
    let node = "/api/v1/nodes/n1";
    assert_eq!(ask(&best, node), (200, in_protobuf.clone()));
    let plain = "application/vnd.kubernetes.protobuf,application/json";
    assert_eq!(ask(plain, "/api/v1/nodes"), (200, in_protobuf.clone()));
    // As the real one: a Status is in no shape but its own.
    assert_eq!(ask(&best, "/api/v1/nodes/n9"), (404, json.clone()));
    assert_eq!(ask(plain, "/api/v1/nodes/n9"), (404, in_protobuf));
    assert_eq!(ask(&protobuf, "/api/v1/nodes/n9"), (404, json.clone()));
    assert_eq!(ask(&protobuf, "/api/v1/nodes"), (406, json.clone()));
    assert_eq!(ask("text/html", node), (406, json));
}

#[test]
fn a_watch_tells_what_came_after_and_nothing_of_what_is_forgotten() {
    let server = server();
    let version = server.node("n2").unwrap()["metadata"]["resourceVersion"].clone();
    let version = version.as_str().unwrap().to_owned();
    server.merge(
        &Key::node("n1"),
        &json!({"metadata": {"labels": {"a": "b"}}}),
    );
    server.delete(&Key::node("n2"));
    let head = format!("GET /api/v1/nodes?watch=1&resourceVersion={version}\nAccept: {METADATA}");
    let (code, body) = ask(&server, &head, "");
    assert_eq!(code, 200);
    assert!(body.contains("MODIFIED") && body.contains("DELETED") && !body.contains("ADDED"));
    assert!(!body.contains("podCIDR\":"), "{body}");
    server.compact();
    let (code, body) = ask(&server, &head, "");
    assert_eq!(code, 200);
    assert!(body.contains("\"ERROR\"") && body.contains("410"), "{body}");
}

#[test]
fn patches_keep_to_their_subresource_and_to_what_is_allowed() {
    let server = server();
    let strategic = "Content-Type: application/strategic-merge-patch+json";
    let head = format!("PATCH /api/v1/nodes/n2/status\n{strategic}\nUser-Agent: me/1");
    let patch = json!({"metadata": {"annotations": {"a": "1"}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "X", "status": "True"}]}});
    let (code, _) = ask(&server, &head, &patch.to_string());
    assert_eq!(code, 200);
    let node = server.node("n2").unwrap();
    assert_eq!(node["metadata"]["annotations"]["a"], "1");
    assert!(node["spec"].get("unschedulable").is_none());
    assert_eq!(node["status"]["conditions"][0]["type"], "X");
    assert_eq!(node["metadata"]["managedFields"][0]["manager"], "me");
    // What changes nothing is no change.
    let version = node["metadata"]["resourceVersion"].clone();
    ask(&server, &head, &patch.to_string());
    assert_eq!(
        server.node("n2").unwrap()["metadata"]["resourceVersion"],
        version
    );

    let moved = json!({"spec": {"podCIDR": "10.9.9.0/24"}}).to_string();
    let (code, body) = ask(
        &server,
        &format!("PATCH /api/v1/nodes/n1\n{strategic}"),
        &moved,
    );
    assert_eq!(code, 422, "{body}");
    let wrong = json!({"metadata": {"annotations": {"a": 1}}}).to_string();
    assert_eq!(ask(&server, &head, &wrong).0, 400);
    assert_eq!(
        ask(
            &server,
            "PATCH /api/v1/nodes/n1\nContent-Type: application/json",
            "{}"
        )
        .0,
        415
    );
    assert_eq!(ask(&server, "GET /api/v1/nodes/n9", "").0, 404);
}

#[test]
fn an_event_belongs_where_nodes_have_theirs() {
    let server = server();
    let event = |namespace: &str| {
        json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e", "namespace": namespace},
            "involvedObject": {"kind": "Node", "name": "n1"},
            "firstTimestamp": "2026-01-15T08:30:00Z", "lastTimestamp": "2026-01-15T08:30:00Z"})
        .to_string()
    };
    let post = |ns: &str| {
        ask(
            &server,
            &format!("POST /api/v1/namespaces/{ns}/events"),
            &event(ns),
        )
    };
    assert_eq!(post("kube-system").0, 422);
    assert_eq!(post("default").0, 201);
    assert_eq!(post("default").0, 409);
}

#[test]
fn a_node_as_clusters_have_them_has_its_usual_size() {
    let node = fat_node(
        "worker-17",
        "192.168.3.17",
        &["10.244.17.0/24"],
        Fat { images: 50 },
    );
    let node = flannel_node(node, "192.168.3.17", "02:00:00:00:00:11");
    let (whole, metadata) = (node.to_string().len(), node["metadata"].to_string().len());
    println!("a node: {whole} bytes, of which metadata {metadata}");
    assert!((10_000..25_000).contains(&whole), "{whole}");
    assert!((2_000..6_000).contains(&metadata), "{metadata}");
}
