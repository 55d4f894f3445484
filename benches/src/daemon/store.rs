//! etcd as the measuring program uses it, and the leases of nodes that are not there.
use std::net::Ipv4Addr;
use std::ops::Range;

use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use ipnetwork::Ipv4Network;
use tokio::runtime::{Builder, Runtime};
use weft_net::Mac;

/// Nodes that are there take subnets of 10.0.0.0/16; all others are below.
pub(crate) const CONF: &str =
    r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.0.1.0","Backend":{"Type":"vxlan"}}"#;
const REAL_NODES: &str = "10.0.";
/// A day, as flanneld has it.
const TERM: i64 = 86_400;
/// As many operations as etcd takes in a transaction.
const AT_ONCE: usize = 128;

pub(crate) struct Store {
    runtime: Runtime,
    client: Client,
    lease: i64,
}

impl Store {
    pub(crate) fn try_connect(endpoint: &str) -> Option<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().ok()?;
        let connect = async {
            let mut client = Client::connect([endpoint], None).await?;
            let lease = client.lease_grant(TERM, None).await?.id();
            Ok::<_, etcd_client::Error>((client, lease))
        };
        let (client, lease) = runtime.block_on(connect).ok()?;
        Some(Self {
            runtime,
            client,
            lease,
        })
    }

    /// Makes the network, with these peers in it.
    pub(crate) fn found(&mut self, prefix: &str, peers: Range<u32>) {
        self.put(&format!("{prefix}/config"), CONF);
        self.add(prefix, peers);
    }

    /// In as few transactions as it takes.
    pub(crate) fn add(&mut self, prefix: &str, peers: Range<u32>) {
        let peers: Vec<_> = peers.map(Peer).collect();
        for chunk in peers.chunks(AT_ONCE) {
            let puts = chunk.iter().map(|peer| {
                let options = PutOptions::new().with_lease(self.lease);
                TxnOp::put(peer.key(prefix), peer.value(0), Some(options))
            });
            let all = Txn::new().and_then(puts.collect::<Vec<_>>());
            let done = self.runtime.block_on(self.client.txn(all));
            done.expect("a transaction of etcd");
        }
    }

    /// The peer's lease, with a MAC address that depends on `turn`.
    pub(crate) fn change(&mut self, prefix: &str, peer: Peer, turn: u8) {
        let options = PutOptions::new().with_lease(self.lease);
        let (key, value) = (peer.key(prefix), peer.value(turn));
        let done = self
            .runtime
            .block_on(self.client.put(key, value, Some(options)));
        done.expect("a put in etcd");
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        let done = self.runtime.block_on(self.client.put(key, value, None));
        done.expect("a put in etcd");
    }

    /// So that the next start acquires a subnet as the first one did.
    pub(crate) fn forget_real_nodes(&mut self, prefix: &str) {
        let key = format!("{prefix}/subnets/{REAL_NODES}");
        let options = DeleteOptions::new().with_prefix();
        let done = self
            .runtime
            .block_on(self.client.delete(key, Some(options)));
        done.expect("a deletion in etcd");
    }

    pub(crate) fn leases(&mut self, prefix: &str) -> usize {
        let options = GetOptions::new().with_prefix().with_count_only();
        let key = format!("{prefix}/subnets/");
        let got = self.runtime.block_on(self.client.get(key, Some(options)));
        usize::try_from(got.expect("a count of etcd's").count()).unwrap_or(0)
    }
}

/// A node that is but a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) u32);

impl Peer {
    /// 10.1.0.0, 10.1.1.0 and so on.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a01_0000 + (self.0 << 8))
    }

    pub(crate) fn subnet(self) -> Ipv4Network {
        Ipv4Network::new_checked(self.gateway(), 24).expect("a /24")
    }

    pub(crate) fn mac(self, turn: u8) -> Mac {
        let [_, b, c, d] = self.0.to_be_bytes();
        Mac([2, 0, turn, b, c, d])
    }

    /// In the underlay's network, and nobody's.
    pub(crate) fn remote(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xac11_0000 + self.0 + 1)
    }

    fn key(self, prefix: &str) -> String {
        format!("{prefix}/subnets/{}-24", self.gateway())
    }

    /// As flanneld writes it.
    fn value(self, turn: u8) -> String {
        let (remote, mac) = (self.remote(), self.mac(turn));
        format!(
            r#"{{"PublicIP":"{remote}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    }
}
