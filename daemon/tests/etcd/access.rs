//! Who may in: certificates, passwords, tokens that expire; and what is said to who may not.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Identity, Permission, PermissionType, TlsOptions,
};
use tokio::time::{Instant, sleep, timeout};
use weft_daemon::store::etcd::{Etcd, Settings};
use weft_daemon::store::registry::{Expected, Registry, Trouble};
use weft_netns::{Need, skip_unless};

use crate::basics::{absolute, brief, change, done, events, key, lease, put};
use crate::certificates::{Authority, Signed};
use crate::server::{Cluster, LONG, etcd_is_here};

const PASSWORD: &str = "geheim";

#[tokio::test]
async fn a_token_that_expired_is_replaced_whatever_we_ask() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::of(1, &["--auth-token-ttl=1"]).await;
    guard(&cluster).await;
    let mut registry = Etcd::new(as_user(&cluster, "flannel", PASSWORD)).unwrap();
    let subnet = |i: u32| format!("subnets/10.5.{i}.0-24");
    let claim = |i: u32| change(&subnet(i), Expected::Absent, lease("x"));

    registry.list().await.unwrap();
    until_tokens_expire(&cluster).await;
    done(registry.commit(claim(1)).await);
    until_tokens_expire(&cluster).await;
    let told = events(&mut registry, 1).await;
    assert_eq!(key(&told[0]), subnet(1));
    until_tokens_expire(&cluster).await;
    assert_eq!(registry.list().await.unwrap().leases.len(), 1);
    until_tokens_expire(&cluster).await;
    done(registry.commit(claim(2)).await);
    assert_eq!(key(&events(&mut registry, 1).await[0]), subnet(2));
    assert_eq!(registry.reconnects(), 0, "a login is no outage");
}

#[tokio::test]
async fn who_logs_in_wrongly_or_may_not_is_told_what_to_do() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    guard(&cluster).await;
    let endpoint = &cluster.endpoints()[0];
    let wrong = refusal(as_user(&cluster, "flannel", "wrong")).await;
    for part in [
        endpoint.as_str(),
        "wrong user name or password",
        "--etcd-password",
    ] {
        assert!(wrong.contains(part), "{wrong}");
    }
    let nobody = refusal(cluster.settings()).await;
    assert!(nobody.contains("give --etcd-username"), "{nobody}");
    let stranger = as_user(&cluster, "stranger", PASSWORD);
    let told = refusal(stranger.clone()).await;
    for part in [
        endpoint,
        "\"stranger\"",
        "/coreos.com/network/",
        "grant-permission",
    ] {
        assert!(told.contains(part), "{told}");
    }

    // One who may read and not write: nothing is left behind by what he tries.
    let mut reader = Etcd::new(as_user(&cluster, "reader", PASSWORD)).unwrap();
    reader.list().await.unwrap();
    for _ in 0..3 {
        let claim = change("subnets/10.5.1.0-24", Expected::Absent, lease("x"));
        let trouble = reader.commit(claim).await.unwrap_err();
        assert!(matches!(trouble, Trouble::Refused(_)), "{trouble:?}");
    }
    let mut root = root(&cluster).await;
    assert!(root.leases().await.unwrap().leases().len() <= 1);
}

#[tokio::test]
async fn a_user_who_may_only_what_flanneld_needs_may_all_that_we_need() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    guard(&cluster).await;
    let mut registry = Etcd::new(as_user(&cluster, "narrow", PASSWORD)).unwrap();
    registry.list().await.unwrap();
    let claim = change("subnets/10.5.1.0-24", Expected::Absent, lease("x"));
    done(registry.commit(claim).await);
    root(&cluster)
        .await
        .put(absolute("config"), "{}", None)
        .await
        .unwrap();
    let told = events(&mut registry, 2).await;
    assert!(told.iter().any(|event| key(event) == "config"));
}

#[tokio::test]
async fn a_password_where_none_is_wanted_is_no_hindrance() {
    if !etcd_is_here() {
        return;
    }
    let cluster = Cluster::one().await;
    let mut registry = Etcd::new(as_user(&cluster, "flannel", PASSWORD)).unwrap();
    registry.list().await.unwrap();
    // And when authentication is switched on under us, we log in.
    guard(&cluster).await;
    let claim = change("subnets/10.5.1.0-24", Expected::Absent, lease("x"));
    done(registry.commit(claim).await);
    assert_eq!(brief(put(&events(&mut registry, 1).await[0])).1, "x");
}

#[tokio::test]
async fn an_authority_alone_is_enough_for_https() {
    if !tls_is_here() {
        return;
    }
    let (cluster, authority) = secured(Clients::Anybody, Served::Good).await;
    let mut settings = cluster.settings();
    settings.cafile = Some(authority.certificate());
    let mut registry = Etcd::new(settings).unwrap();
    registry.list().await.unwrap();
    let claim = change("subnets/10.5.1.0-24", Expected::Absent, lease("x"));
    done(registry.commit(claim).await);
    events(&mut registry, 1).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_wanted() {
    if !tls_is_here() {
        return;
    }
    let (cluster, authority) = secured(Clients::WithCertificate, Served::Good).await;
    let mut settings = cluster.settings();
    settings.cafile = Some(authority.certificate());
    let told = trouble(settings.clone()).await.to_string();
    println!("without a client certificate: {told}");
    assert!(told.contains("--etcd-certfile"), "{told}");

    let ours = authority.sign("us", None, 2);
    settings.certfile = Some(ours.cert);
    settings.keyfile = Some(ours.key);
    let mut registry = Etcd::new(settings.clone()).unwrap();
    registry.list().await.unwrap();
    let claim = change("subnets/10.5.1.0-24", Expected::Absent, lease("x"));
    done(registry.commit(claim).await);
    events(&mut registry, 1).await;

    let stranger = Authority::new(&cluster.members[0].dir, "stranger").sign("them", None, 2);
    settings.certfile = Some(stranger.cert);
    settings.keyfile = Some(stranger.key);
    let told = trouble(settings).await.to_string();
    println!("with a stranger's certificate: {told}");
    assert!(told.contains("--etcd-certfile"), "{told}");
}

#[tokio::test]
async fn each_way_of_getting_tls_wrong_has_its_own_words() {
    if !tls_is_here() {
        return;
    }
    let (cluster, authority) = secured(Clients::Anybody, Served::Good).await;
    let other = Authority::new(&cluster.members[0].dir, "other");
    let with_authority = |authority: &Authority, endpoints: Vec<String>| Settings {
        endpoints,
        cafile: Some(authority.certificate()),
        ..cluster.settings()
    };
    let endpoint = cluster.endpoints()[0].clone();

    let told = refusal(with_authority(&other, vec![endpoint.clone()])).await;
    println!("a wrong authority: {told}");
    assert!(
        told.contains(&endpoint) && told.contains("--etcd-cafile"),
        "{told}"
    );

    let told = match Etcd::new(cluster.settings()) {
        Ok(_) => refusal(cluster.settings()).await,
        Err(none_here) => none_here.to_string(),
    };
    println!("the system's authorities: {told}");
    assert!(told.contains("--etcd-cafile"), "{told}");

    let told = trouble(Settings {
        endpoints: vec![endpoint.replace("https", "http")],
        ..cluster.settings()
    })
    .await
    .to_string();
    println!("http to a port of https: {told}");
    assert!(told.contains("the endpoint is https, not http"), "{told}");

    let plain = Cluster::one().await;
    let endpoint = plain.endpoints()[0].replace("http", "https");
    let told = trouble(with_authority(&authority, vec![endpoint]))
        .await
        .to_string();
    println!("https to a port of http: {told}");
    assert!(told.contains("the endpoint is http, not https"), "{told}");
}

#[tokio::test]
async fn a_certificate_that_expired_or_is_for_others_is_called_so() {
    if !tls_is_here() {
        return;
    }
    for (served, said) in [
        (Served::Expired, "has expired"),
        (Served::ForAnotherHost, "is for other names"),
    ] {
        let (cluster, authority) = secured(Clients::Anybody, served).await;
        let mut settings = cluster.settings();
        settings.cafile = Some(authority.certificate());
        let told = refusal(settings).await;
        println!("{told}");
        assert!(
            told.contains(said) && told.contains(&cluster.endpoints()[0]),
            "{told}"
        );
    }
}

// --- helpers -------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    Good,
    Expired,
    ForAnotherHost,
}

enum Clients {
    Anybody,
    WithCertificate,
}

fn tls_is_here() -> bool {
    skip_unless(&[Need::Tool("etcd"), Need::Tool("openssl")])
}

/// One member that speaks TLS, and the authority behind it.
async fn secured(clients: Clients, served: Served) -> (Cluster, Authority) {
    let mut cluster = Cluster::stopped(1, "https", &[]);
    let member = &mut cluster.members[0];
    let authority = Authority::new(&member.dir, "authority");
    let (host, days) = match served {
        Served::Good => (member.host, 2),
        Served::Expired => (member.host, -1),
        Served::ForAnotherHost => (Ipv4Addr::new(192, 0, 2, 1), 2),
    };
    let Signed { cert, key } = authority.sign("member", Some(host.into()), days);
    member.add(format!("--cert-file={}", cert.display()));
    member.add(format!("--key-file={}", key.display()));
    let mut tls = TlsOptions::new().ca_certificate(pem(&authority.certificate()));
    if let Clients::WithCertificate = clients {
        member.add("--client-cert-auth".to_owned());
        member.add(format!(
            "--trusted-ca-file={}",
            authority.certificate().display()
        ));
        let probe = authority.sign("probe", None, 2);
        let [cert, key] = [probe.cert, probe.key].map(|file| std::fs::read(file).unwrap());
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    member.start();
    if served == Served::Good {
        member
            .until_healthy(Some(ConnectOptions::new().with_tls(tls)))
            .await;
    } else {
        until_it_listens(&cluster).await;
    }
    (cluster, authority)
}

fn pem(path: &PathBuf) -> Certificate {
    Certificate::from_pem(std::fs::read(path).unwrap())
}

async fn until_it_listens(cluster: &Cluster) {
    let member = &cluster.members[0];
    let deadline = Instant::now() + LONG;
    while tokio::net::TcpStream::connect((member.host, member.port))
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "it does not listen");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Users with the password of all, and authentication switched on.
async fn guard(cluster: &Cluster) {
    let mut client = cluster.client().await;
    let read_write = PermissionType::Readwrite;
    for (user, role) in [
        ("root", None),
        ("stranger", None),
        (
            "flannel",
            Some(vec![(read_write, "/coreos.com/network", true)]),
        ),
        (
            "reader",
            Some(vec![(PermissionType::Read, "/coreos.com/network", true)]),
        ),
        (
            "narrow",
            Some(vec![
                (PermissionType::Read, "/coreos.com/network/config", false),
                (read_write, "/coreos.com/network/subnets", true),
            ]),
        ),
    ] {
        client.user_add(user, PASSWORD, None).await.unwrap();
        client.role_add(user).await.unwrap();
        client.user_grant_role(user, user).await.unwrap();
        for (may, key, below) in role.unwrap_or_default() {
            let mut permission = Permission::new(may, key);
            if below {
                permission = permission.with_prefix();
            }
            client
                .role_grant_permission(user, permission)
                .await
                .unwrap();
        }
    }
    client.auth_enable().await.unwrap();
}

fn as_user(cluster: &Cluster, user: &str, password: &str) -> Settings {
    Settings {
        username: Some(user.to_owned()),
        password: Some(password.to_owned()),
        ..cluster.settings()
    }
}

async fn root(cluster: &Cluster) -> Client {
    let options = ConnectOptions::new().with_user("root", PASSWORD);
    Client::connect(cluster.endpoints(), Some(options))
        .await
        .unwrap()
}

/// Until one given later than any of ours, and used since as little, is no longer accepted. A
/// token lives on by being used, so each look takes one that was not.
async fn until_tokens_expire(cluster: &Cluster) {
    let mut unused = Vec::new();
    let deadline = Instant::now() + LONG;
    for _ in 0..20 {
        unused.push(root(cluster).await);
    }
    for mut client in unused {
        sleep(Duration::from_millis(500)).await;
        if client.get("health", None).await.is_err() {
            return;
        }
        assert!(Instant::now() < deadline, "tokens do not expire");
    }
    panic!("tokens do not expire");
}

async fn trouble(settings: Settings) -> Trouble {
    let mut registry = Etcd::new(settings).unwrap();
    let listed = timeout(LONG, registry.list()).await.expect("it answers");
    listed.expect_err("it cannot be listed")
}

async fn refusal(settings: Settings) -> String {
    match trouble(settings).await {
        Trouble::Refused(told) => told,
        other => panic!("not called a refusal: {other:?}"),
    }
}
