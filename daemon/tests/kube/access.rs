//! The ways in: TLS, client certificates, tokens that are renewed, rights that are missing.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde_json::json;
use weft_daemon::store::Own;
use weft_netns::apiserver::{ApiServer, Right, Tls, slim_node};
use weft_netns::{Need, skip_unless};

use crate::bench::{Bench, VXLAN};

#[path = "../etcd/certificates.rs"]
pub(crate) mod certificates;
use certificates::{Authority, Signed};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Secured {
    bench: Bench,
    authority: Authority,
}

/// A server that lets in who shows a certificate of `clients`, or a token.
fn secured() -> Option<Secured> {
    if !skip_unless(&[Need::Tool("openssl")]) {
        return None;
    }
    let bench = Bench::new(VXLAN);
    let authority = Authority::new(&bench.dir, "authority");
    let server = authority.sign("server", Some(HERE), 2);
    let clients = authority.certificate();
    let tls = Tls::new(&server.cert, &server.key, Some(&clients));
    let server = ApiServer::start((HERE, 0).into(), Some(tls));
    server.put(slim_node("node-1", &["10.244.1.0/24"]));
    server.access(|access| access.tokens = Some(["first".to_owned()].into()));
    let mut secured = Secured { bench, authority };
    secured.bench.server = server;
    secured.bench.options.api_url = None;
    secured.bench.options.kubeconfig = Some(secured.bench.dir.join("kubeconfig"));
    Some(secured)
}

impl Secured {
    fn kubeconfig(&self, user: &str) {
        let (url, authority) = (self.bench.server.url(), self.authority.certificate());
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: \"{url}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n",
            authority.display()
        );
        fs::write(self.bench.dir.join("kubeconfig"), text).unwrap();
    }

    fn certified(&self, signed: &Signed) {
        self.kubeconfig(&format!(
            "client-certificate: \"{}\", client-key: \"{}\"",
            signed.cert.display(),
            signed.key.display()
        ));
    }
}

fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_a_way_in_and_the_next_one_too() {
    let Some(mut secured) = secured() else { return };
    let client = secured.authority.sign("client", None, 2);
    secured.certified(&client);
    let mut store = secured.bench.start();
    store.until_held().await;
    // Another authority from now on, for both sides.
    let other = Authority::new(&secured.bench.dir, "other");
    let server = other.sign("server-2", Some(HERE), 2);
    let clients = other.certificate();
    secured
        .bench
        .server
        .present(Tls::new(&server.cert, &server.key, Some(&clients)));
    store.until_trouble("the API server").await;
    secured.authority = other;
    let client = secured.authority.sign("client-2", None, 2);
    secured.certified(&client);
    store.until_well().await;
    secured.bench.put_peer(2);
    store.until_peers(1).await;
}

#[tokio::test]
async fn a_token_that_is_renewed_in_its_file_is_taken_from_there() {
    let Some(secured) = secured() else { return };
    let token = secured.bench.dir.join("token");
    write(&token, "first\n");
    secured.kubeconfig(&format!("tokenFile: \"{}\"", token.display()));
    let mut store = secured.bench.start();
    store.until_held().await;
    secured
        .bench
        .server
        .access(|access| access.tokens = Some(["second".to_owned()].into()));
    secured.bench.server.end_watches();
    let told = store.until_trouble("does not accept").await;
    assert!(told.contains("token"), "{told}");
    write(&token, "second\n");
    store.until_well().await;
    secured.bench.put_peer(2);
    store.until_peers(1).await;
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_shown_no_token() {
    let Some(mut secured) = secured() else { return };
    let token = secured.bench.dir.join("token");
    write(&token, "first");
    secured.authority = Authority::new(&secured.bench.dir, "other");
    secured.kubeconfig(&format!("tokenFile: \"{}\"", token.display()));
    let mut store = secured.bench.start();
    let told = store.until_trouble("cannot be reached").await;
    assert!(told.to_lowercase().contains("certificate"), "{told}");
    assert!(secured.bench.server.seen().is_empty());
}

#[tokio::test]
async fn a_proxy_on_the_way_is_told_with_its_remedy() {
    let Some(secured) = secured() else { return };
    secured.kubeconfig("token: first");
    let file = secured.bench.dir.join("kubeconfig");
    let text = fs::read_to_string(&file).unwrap();
    let proxied = text.replace("{server:", "{proxy-url: \"http://192.0.2.9:3128\", server:");
    fs::write(&file, proxied).unwrap();
    secured.bench.put_peer(2);
    let mut store = secured.bench.start();
    let told = store.until_trouble("192.0.2.9:3128").await;
    assert!(
        told.contains("take proxy-url out of the kubeconfig"),
        "{told}"
    );
    fs::write(&file, text).unwrap();
    store.until_peers(1).await;
    store.until_well().await;
}

#[tokio::test]
async fn the_rights_that_the_store_says_it_needs_are_enough() {
    let bench = Bench::new(r#"{"Backend": {"Type": "vxlan"}}"#);
    bench.server.access(|access| {
        access.rights = Some(vec![
            Right::new("get", "nodes"),
            Right::new("list", "nodes"),
            Right::new("watch", "nodes"),
            Right::new("patch", "nodes/status"),
            Right::new("create", "events"),
            Right::new("patch", "events"),
            Right::of("get", "configmaps", "kubeadm-config"),
            Right::of("get", "configmaps", "kube-proxy"),
        ]);
    });
    bench.put_peer(2);
    bench.annotate("node-2", "backend-data", &json!("{"));
    let mut store = bench.start();
    store.until_held().await;
    store.ready();
    crate::bench::until("all is said and done", || {
        let seen = bench.server.seen();
        let done = |method: &str, path: &str| {
            seen.iter().any(|seen| {
                seen.method == method && seen.target.contains(path) && seen.code() / 100 == 2
            })
        };
        done("PATCH", "/nodes/node-1/status") && done("POST", "/events")
    })
    .await;
    let refused = bench.server.seen();
    let refused: Vec<_> = refused.iter().filter(|seen| seen.code() == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let bench = Bench::new(VXLAN);
    bench.server.access(|access| {
        access.rights = Some(vec![
            Right::new("get", "nodes"),
            Right::new("list", "nodes"),
            Right::new("watch", "nodes"),
        ]);
    });
    let mut store = bench.start();
    let why = store
        .until("it is told", |view| match &view.own {
            Own::Refused(why) => Some(why.clone()),
            _ => None,
        })
        .await;
    assert!(
        why.contains("nodes/status") && why.contains("ClusterRole"),
        "{why}"
    );
    bench.server.access(|access| access.rights = None);
    store.until_held().await;

    let bench = Bench::new(VXLAN);
    bench
        .server
        .access(|access| access.rights = Some(Vec::new()));
    let told = bench.start().until_trouble("forbids").await;
    assert!(told.contains("cannot list resource \"nodes\""), "{told}");
}
