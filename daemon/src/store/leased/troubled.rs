//! A registry in memory that a test can trouble.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::tests::{Node, claim};
use super::*;
use crate::store::registry::{Entry, Expected, Listing, Outcome, Write};
use crate::store::{Own, Peers};

#[derive(Clone, Default)]
struct Memory(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<String, Entry>,
    news: Vec<Event>,
    version: i64,
    down: bool,
    missed: bool,
}

impl Memory {
    fn new() -> Self {
        let memory = Self::default();
        memory.put(
            CONFIG,
            r#"{"Network": "10.0.0.0/8", "Backend": {"Type": "host-gw"}}"#,
        );
        memory
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.0.state.lock().unwrap());
        self.0.news.notify_one();
        done
    }

    fn put(&self, key: &str, value: &str) {
        self.change(|state| state.put(key, value));
    }

    fn peer(&self, number: u32) {
        self.put(&peer_key(number), &peer_value(number));
    }

    fn trouble(&self) -> Result<(), Trouble> {
        match self.0.state.lock().unwrap().down {
            true => Err(Trouble::Unreachable("nobody answers".into())),
            false => Ok(()),
        }
    }
}

impl State {
    fn put(&mut self, key: &str, value: &str) -> i64 {
        self.version += 1;
        let (key, value) = (key.to_owned(), value.to_owned());
        let entry = Entry {
            key: key.clone(),
            value,
            version: self.version,
            lasts: false,
        };
        self.rows.insert(key, entry.clone());
        self.news.push(Event::Put(entry));
        self.version
    }

    fn remove(&mut self, key: &str) {
        self.rows.remove(key);
        self.news.push(Event::Gone {
            key: key.to_owned(),
        });
    }
}

impl Registry for Memory {
    async fn list(&mut self) -> Result<Listing, Trouble> {
        self.trouble()?;
        Ok(self.change(|state| {
            state.news.clear();
            state.missed = false;
            let leases = state.rows.values().filter(|entry| entry.key != CONFIG);
            Listing {
                config: state.rows.get(CONFIG).cloned(),
                leases: leases.cloned().collect(),
            }
        }))
    }

    async fn commit(&mut self, change: Change) -> Result<Outcome, Trouble> {
        self.trouble()?;
        Ok(self.change(|state| {
            let found = state.rows.get(&change.key);
            let expected = match change.expected {
                Expected::Absent => found.is_none(),
                Expected::Version(version) => found.is_some_and(|found| found.version == version),
            };
            if !expected {
                return Outcome::Otherwise(found.cloned());
            }
            match change.write {
                Write::Put { value, .. } => Outcome::Done(state.put(&change.key, &value)),
                Write::Delete => {
                    state.remove(&change.key);
                    Outcome::Done(state.version)
                }
            }
        }))
    }

    async fn changes(&mut self) -> Result<Changes, Trouble> {
        loop {
            self.trouble()?;
            {
                let mut state = self.0.state.lock().unwrap();
                if state.missed {
                    return Ok(Changes::Missed);
                }
                if !state.news.is_empty() {
                    return Ok(Changes::Events(vec![state.news.remove(0)]));
                }
            }
            self.0.news.notified().await;
        }
    }

    fn how_to_configure(&self) -> String {
        "write it".to_owned()
    }

    fn reconnects(&self) -> u64 {
        3
    }
}

fn peer_key(number: u32) -> String {
    format!("subnets/10.{}.{}.0-24", 100 + number / 256, number % 256)
}

fn peer_value(number: u32) -> String {
    format!(
        r#"{{"PublicIP":"192.168.{}.{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:{:02x}:{:02x}"}}}}"#,
        number / 256,
        number % 256,
        number / 256,
        number % 256
    )
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_counted_and_over_when_it_is_and_nothing_is_given_up_meanwhile() {
    let memory = Memory::new();
    let mut node = Node::start_over(memory.clone(), Some(claim(1)), 1);
    let held = node.until_held().await;
    let before = node.view.borrow().health.clone();
    assert_eq!(
        (before.trouble, before.failures, before.reconnects),
        (None, 0, 3)
    );
    assert!(before.calls >= 2 && before.expires_in.is_some());
    memory.change(|state| state.down = true);
    let told = node.until(|view| view.health.trouble.clone()).await;
    assert_eq!(told, "nobody answers");
    node.until(|view| (view.health.failures > 5).then_some(()))
        .await;
    assert_eq!(node.until_held().await, held);
    memory.change(|state| state.down = false);
    node.until(|view| view.health.trouble.is_none().then_some(()))
        .await;
    assert_eq!(node.until_held().await, held);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_expired_while_the_store_was_away_is_taken_back() {
    let memory = Memory::new();
    let mut node = Node::start_over(memory.clone(), Some(claim(1)), 1);
    let held = node.until_held().await;
    let key = format!("subnets/{}", held.to_key().unwrap());
    memory.change(|state| {
        state.down = true;
        state.remove(&key);
    });
    node.until(|view| view.health.trouble.clone()).await;
    memory.change(|state| state.down = false);
    node.until(|view| {
        let back = memory.0.state.lock().unwrap().rows.contains_key(&key);
        (back && view.health.trouble.is_none() && matches!(view.own, Own::Held(_))).then_some(())
    })
    .await;
    assert_eq!(node.until_held().await, held);
}

#[tokio::test(start_paused = true)]
async fn whatever_was_missed_the_view_is_as_the_store_is() {
    let memory = Memory::new();
    (0..5).for_each(|number| memory.peer(number));
    let mut node = Node::start_over(memory.clone(), Some(claim(1)), 1);
    node.until_held().await;
    node.until_peers(5).await;
    memory.change(|state| {
        state.remove(&peer_key(0));
        state.put(&peer_key(1), &peer_value(77));
        state.put(&peer_key(9), &peer_value(9));
        state.news.clear();
        state.missed = true;
    });
    let address = |peers: &Peers, at: usize| peers.leases[at].attrs.public_ip.unwrap().to_string();
    let peers = node
        .until(|view| {
            view.peers
                .clone()
                .filter(|peers| address(peers, 0) == "192.168.0.77")
        })
        .await;
    let subnets: Vec<_> = peers
        .leases
        .iter()
        .map(|lease| lease.subnets.to_string())
        .collect();
    assert_eq!(
        subnets,
        [
            "10.100.1.0/24",
            "10.100.2.0/24",
            "10.100.3.0/24",
            "10.100.4.0/24",
            "10.100.9.0/24"
        ]
    );
}

#[tokio::test]
async fn a_storm_of_changes_is_a_few_views() {
    let memory = Memory::new();
    let mut node = Node::start_over(memory.clone(), Some(claim(1)), 1);
    node.until_held().await;
    let begun = Instant::now();
    (0..1000).for_each(|number| memory.peer(number));
    let mut views = 0;
    loop {
        node.view.changed().await.unwrap();
        views += 1;
        let peers = node.view.borrow_and_update().peers.clone().unwrap();
        if peers.leases.len() == 1000 {
            break;
        }
    }
    println!(
        "1,000 changes were {views} views after {:?}",
        begun.elapsed()
    );
    assert!(views < 100, "{views}");
}

/// In a release build a few milliseconds.
#[tokio::test]
async fn five_thousand_leases_are_one_view() {
    let memory = Memory::new();
    (0..5000).for_each(|number| memory.peer(number));
    let begun = Instant::now();
    let mut node = Node::start_over(memory, None, 1);
    let peers = node.until(|view| view.peers.clone()).await;
    println!("5,000 leases were a view after {:?}", begun.elapsed());
    assert_eq!((peers.leases.len(), peers.rubbish.len()), (5000, 0));
}

/// Each node gets its lease back in its own time.
#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_without_its_leases_takes_no_peer_away_at_once() {
    let memory = Memory::new();
    (0..5).for_each(|number| memory.peer(number));
    let mut node = Node::start_over(memory.clone(), Some(claim(1)), 1);
    node.until_held().await;
    let all = node.until_peers(5).await;
    memory.change(|state| state.down = true);
    node.until(|view| view.health.trouble.clone()).await;
    memory.change(|state| {
        state.rows.retain(|key, _| key == CONFIG);
        (state.down, state.missed) = (false, true);
        // One of them has noticed; another one is gone for good.
        state.put(&peer_key(1), &peer_value(1));
    });
    node.until_held().await;
    node.until(|view| view.health.trouble.is_none().then_some(()))
        .await;
    assert_eq!(node.until_peers(5).await, all);
    memory.peer(2);
    memory.peer(3);
    memory.peer(4);
    let left = node.until_peers(4).await;
    assert_eq!(left.leases[..], all.leases[1..]);
}
