//! What a plugin does between its system calls, piece by piece: `cargo bench -p weft-benches`.
//!
//! All of it together is a few tens of microseconds of an ADD; these show which piece has grown.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_cni::{Args, Conf, Outcome, Version};
use weft_net::nft::{DataType, Element, Family, SetSpec, Table, Transaction, Verdict, octets};

/// What containerd hands to a chain's second plugin.
const CONF: &str = r#"{"cniVersion":"1.0.0","name":"cbr0","type":"portmap",
"capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":[
{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]},
"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"cni0","mac":"ce:64:b2:ff:2f:9d"},
{"name":"vethdz7bsr2vgez","mac":"b6:bb:1b:96:4d:8e"},
{"name":"eth0","mac":"0a:58:0a:63:00:02","sandbox":"/var/run/netns/cni-6233db63"}],
"ips":[{"interface":2,"address":"10.99.0.2/24","gateway":"10.99.0.1"},
{"interface":2,"address":"fd99::2/64","gateway":"fd99::1"}],
"routes":[{"dst":"0.0.0.0/0","gw":"10.99.0.1"},{"dst":"::/0","gw":"fd99::1"}],"dns":{}}}"#;

const CNI_ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
K8S_POD_INFRA_CONTAINER_ID=6233db63bf76d03925a484ca123794361a0e3fb8478940a7b008cdab980278ec";

fn protocol(c: &mut Criterion) {
    let mut group = c.benchmark_group("cni");
    group.throughput(Throughput::Bytes(CONF.len() as u64));
    group.bench_function("read a configuration with its result", |b| {
        b.iter(|| {
            let conf = Conf::parse(black_box(CONF.as_bytes())).expect("a configuration");
            conf.prev_result().expect("a result")
        });
    });
    let conf = Conf::parse(CONF.as_bytes()).expect("a configuration");
    let outcome: Outcome = conf.prev_result().expect("a result").expect("one");
    for version in [Version::V0_2_0, Version::V0_4_0, Version::V1_1_0] {
        group.bench_function(format!("write a result in {version}"), |b| {
            b.iter(|| {
                black_box(&outcome)
                    .to_json(version)
                    .expect("JSON")
                    .to_string()
            });
        });
    }
    group.bench_function("read CNI_ARGS", |b| {
        b.iter(|| Args::parse(black_box(CNI_ARGS), &["IP"]).expect("arguments"));
    });
    group.finish();
}

fn netlink(c: &mut Criterion) {
    const TABLE: Table<'static> = Table::new(Family::Inet, "weft_pods");
    let (map, key) = (TABLE.set("masquerade4"), octets([10, 99, 0, 2].into()));
    let mut group = c.benchmark_group("nft");
    group.bench_function("write the transaction that admits a pod", |b| {
        b.iter(|| {
            let element = Element::new(black_box(&key))
                .verdict(Verdict::Goto("beyond_10.99.0.0_24"))
                .comment("43d91f8451058a70-f4d01f2ef4b92245, net: n1, if: eth0, id: c1");
            let mut transaction = Transaction::new();
            transaction.create_elements(map, &[element]);
            transaction
        });
    });
    group.bench_function("write the transaction that lays a table", |b| {
        b.iter(|| {
            let mut transaction = Transaction::new();
            transaction.create_table(black_box(TABLE), "Weft: pods");
            transaction.create_set(map, &SetSpec::verdict_map(&[DataType::IPV4]).mortal());
            transaction
        });
    });
    group.finish();
}

criterion_group!(micro, protocol, netlink);
criterion_main!(micro);
