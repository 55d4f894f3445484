//! What flanneld does for its peers, and in its order: one thing after the other, each answered
//! before the next. `daemon serial ENDPOINT PREFIX ADDRESS`, on a node.
//!
//! The leases are listed twice, once to acquire one's own and once to begin watching, each time
//! with a question for every lease how long it lives; each later event costs one such question.
//! A peer is a neighbour, a forwarding entry and a route, in three requests with an answer each.
//! What flanneld logs meanwhile, a line for each, is spared it.
use std::collections::BTreeSet;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};

use etcd_client::{Client, EventType, GetOptions, KeyValue, PutOptions, Txn, TxnOp, WatchOptions};
use serde_json::Value;
use weft_net::route::{Address, FdbEntry, Neighbour, NeighbourState, Route};
use weft_net::{Mac, Rtnl};

use super::tunnel;

type Outcome<T> = Result<T, Box<dyn Error>>;

pub(crate) fn run(arguments: &[String]) -> Outcome<()> {
    let [endpoint, prefix, address] = arguments else {
        return Err("serial ENDPOINT PREFIX ADDRESS".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(endpoint, prefix, address.parse()?))
}

async fn serve(endpoint: &str, prefix: &str, address: Ipv4Addr) -> Outcome<()> {
    let mut client = Client::connect([endpoint], None).await?;
    client.get(format!("{prefix}/config"), None).await?;
    let own = acquire(&mut client, prefix, address).await?;

    let mut rtnl = Rtnl::open()?;
    let lower = rtnl.link("eth0")?.index;
    rtnl.one(|r| r.create_vxlan(&tunnel::device(address.into(), lower)))?;
    let link = rtnl.link(tunnel::NAME)?.index;
    rtnl.one(|r| r.add_address(&Address::new(link, IpAddr::V4(own).into())))?;

    let leases = format!("{prefix}/subnets/");
    let (listed, revision) = list(&mut client, &leases).await?;
    for lease in listed.iter().filter_map(Lease::read) {
        lease.program(&mut rtnl, link, own)?;
    }
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(revision + 1);
    let mut events = client.watch(leases, Some(options)).await?;
    while let Some(answer) = events.message().await? {
        for event in answer.events() {
            let Some(entry) = event.kv().filter(|_| event.event_type() == EventType::Put) else {
                continue;
            };
            ask_how_long_it_lives(&mut client, entry).await?;
            if let Some(lease) = Lease::read(entry) {
                lease.program(&mut rtnl, link, own)?;
            }
        }
    }
    Ok(())
}

/// A free subnet of 10.0.0.0/16.
async fn acquire(client: &mut Client, prefix: &str, address: Ipv4Addr) -> Outcome<Ipv4Addr> {
    let (listed, _) = list(client, &format!("{prefix}/subnets/")).await?;
    let taken: BTreeSet<Ipv4Addr> = listed
        .iter()
        .filter_map(Lease::read)
        .map(|lease| lease.subnet)
        .collect();
    let mut candidates = (1..=255).map(|number| Ipv4Addr::new(10, 0, number, 0));
    let own = candidates.find(|subnet| !taken.contains(subnet));
    let own = own.ok_or("no subnet is free")?;
    let key = format!("{prefix}/subnets/{own}-24");
    let value = format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
        tunnel::MAC
    );
    let lease = client.lease_grant(86_400, None).await?.id();
    let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
    client.txn(Txn::new().and_then([put])).await?;
    Ok(own)
}

async fn list(client: &mut Client, leases: &str) -> Outcome<(Vec<KeyValue>, i64)> {
    let options = GetOptions::new().with_prefix();
    let mut got = client.get(leases, Some(options)).await?;
    let revision = got.header().map_or(0, |header| header.revision());
    let entries = got.take_kvs();
    for entry in &entries {
        ask_how_long_it_lives(client, entry).await?;
    }
    Ok((entries, revision))
}

async fn ask_how_long_it_lives(client: &mut Client, entry: &KeyValue) -> Outcome<()> {
    client.lease_time_to_live(entry.lease(), None).await?;
    Ok(())
}

struct Lease {
    subnet: Ipv4Addr,
    public: Ipv4Addr,
    mac: Mac,
}

impl Lease {
    fn read(entry: &KeyValue) -> Option<Self> {
        let name = entry.key_str().ok()?.rsplit('/').next()?;
        let value: Value = serde_json::from_slice(entry.value()).ok()?;
        Some(Self {
            subnet: name.strip_suffix("-24")?.parse().ok()?,
            public: value["PublicIP"].as_str()?.parse().ok()?,
            mac: value["BackendData"]["VtepMAC"].as_str()?.parse().ok()?,
        })
    }

    fn program(&self, rtnl: &mut Rtnl, link: u32, own: Ipv4Addr) -> Outcome<()> {
        if self.subnet == own {
            return Ok(());
        }
        let neighbour = Neighbour {
            link,
            address: self.subnet.into(),
            mac: Some(self.mac),
            state: NeighbourState::Permanent,
        };
        let forward = FdbEntry::tunnel(link, self.mac, self.public.into());
        let subnet = ipnetwork::Ipv4Network::new(self.subnet, 24)?;
        let route = Route {
            gateway: Some(self.subnet.into()),
            link: Some(link),
            onlink: true,
            ..Route::to(subnet.into())
        };
        rtnl.one(|r| r.replace_neighbour(&neighbour))?;
        rtnl.one(|r| r.replace_fdb(&forward))?;
        rtnl.one(|r| r.replace_route(&route))?;
        Ok(())
    }
}
