use std::net::Ipv4Addr;

use super::disturbed::TOLD_FOR;
use super::*;
use crate::conf::Checks;
use crate::lease::Identity;
use crate::store::Offer;
use crate::store::registry::Event;

/// One node, and the store as the test wants it.
struct Bench {
    leasing: Leasing,
    table: Table,
    now: Duration,
    version: i64,
}

impl Bench {
    fn new(claim: Claim, keys: &[(&str, String, bool)]) -> Self {
        let mut leasing = Leasing::new(
            Terms {
                lasts: DAY,
                margin: HOUR,
            },
            1,
        );
        leasing.configured(Arc::new(conf("")));
        leasing.claimed(Some(claim));
        let mut bench = Self {
            leasing,
            table: Table::default(),
            now: HOUR,
            version: 0,
        };
        assert_eq!(bench.next(), Step::List);
        for (key, value, lasts) in keys {
            bench.put(key, value, *lasts);
        }
        bench.leasing.listed();
        bench
    }

    fn next(&mut self) -> Step {
        self.leasing.next(&self.table, self.now)
    }

    fn put(&mut self, key: &str, value: &str, lasts: bool) {
        self.version += 1;
        let (key, value) = (format!("subnets/{key}"), value.to_owned());
        self.table.apply(Event::Put(Entry {
            key,
            value,
            version: self.version,
            lasts,
        }));
    }

    fn remove(&mut self, key: &str) {
        self.table.apply(Event::Gone {
            key: format!("subnets/{key}"),
        });
    }

    /// The next step, which has to be a write: its key, what it expects, its value and its term.
    #[track_caller]
    fn written(&mut self) -> (String, Expected, String, Option<Duration>) {
        let Step::Commit(change) = self.next() else {
            panic!("nothing is written: {:?}", self.leasing)
        };
        let Write::Put { value, expires } = change.write else {
            panic!("{change:?} is no put")
        };
        let key = change.key.strip_prefix("subnets/").unwrap().to_owned();
        (key, change.expected, value, expires)
    }

    fn succeed(&mut self) {
        self.version += 1;
        let done = Ok(Outcome::Done(self.version));
        self.leasing
            .answered(&mut self.table, done, self.now, self.now);
    }

    fn fail(&mut self) {
        let failed = Err(Trouble::Unreachable("no answer".into()));
        self.leasing
            .answered(&mut self.table, failed, self.now, self.now);
    }

    fn held(&self) -> String {
        match self.leasing.own() {
            Own::Held(lease) => lease.subnets.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn lost(&self) -> (String, String) {
        match self.leasing.own() {
            Own::Lost { was, why } => (was.subnets.to_string(), why),
            other => panic!("{other:?}"),
        }
    }

    /// Until the machine has something to do.
    #[track_caller]
    fn wait(&mut self) -> Duration {
        let Step::Wait(Some(until)) = self.next() else {
            panic!("it does not wait: {:?}", self.leasing)
        };
        assert!(until > self.now);
        let waited = until - self.now;
        self.now = until;
        waited
    }
}

fn conf(more: &str) -> NetConf {
    let text = format!(
        r#"{{"Network": "10.5.0.0/16", "SubnetMax": "10.5.9.0", {more} "Backend": {{"Type": "host-gw"}}}}"#
    );
    NetConf::parse(&text, Checks::Leases).unwrap()
}

fn claim() -> Claim {
    Claim {
        identity: Identity {
            machine: "m1".into(),
            node: "n1".into(),
        },
        public_ip: Some(Ipv4Addr::new(10, 0, 0, 1)),
        public_ipv6: None,
        sources: Vec::new(),
        overwritten: false,
        previous: None,
        formerly: None,
        offer: Offer::HostGw,
    }
}

fn remembering(subnet: &str) -> Claim {
    let previous = Some(Subnets {
        v4: Some(subnet.parse().unwrap()),
        v6: None,
    });
    Claim {
        previous,
        ..claim()
    }
}

fn flanneld(ip: &str) -> String {
    format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

fn weftd(ip: &str, node: &str, machine: &str) -> String {
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"host-gw","Weft":{{"Node":"{node}","Machine":"{machine}"}}}}"#
    )
}

#[test]
fn a_lease_of_our_name_is_ours_wherever_we_moved_and_is_renewed_at_once() {
    let mut bench = Bench::new(
        claim(),
        &[("10.5.3.0-24", weftd("10.9.9.9", "n1", "m1"), false)],
    );
    let written = bench.written();
    assert_eq!(bench.held(), "10.5.3.0/24");
    let value = weftd("10.0.0.1", "n1", "m1");
    assert_eq!(
        written,
        ("10.5.3.0-24".into(), Expected::Version(1), value, Some(DAY))
    );
}

#[test]
fn flannelds_lease_with_our_address_is_taken_over_in_place() {
    let mut bench = Bench::new(claim(), &[("10.5.3.0-24", flanneld("10.0.0.1"), false)]);
    let (key, expected, value, _) = bench.written();
    assert_eq!(
        (key.as_str(), expected),
        ("10.5.3.0-24", Expected::Version(1))
    );
    assert_eq!(value, weftd("10.0.0.1", "n1", "m1"));
}

#[test]
fn clones_of_one_machine_are_two_nodes() {
    let mut bench = Bench::new(
        claim(),
        &[("10.5.3.0-24", weftd("10.0.0.2", "n2", "m1"), false)],
    );
    let (key, expected, ..) = bench.written();
    assert!(key != "10.5.3.0-24" && expected == Expected::Absent);
}

#[test]
fn another_node_with_our_address_keeps_its_lease_unless_our_subnet_file_names_it() {
    let keys = [("10.5.3.0-24", weftd("10.0.0.1", "n1", "before"), false)];
    assert_ne!(Bench::new(claim(), &keys).written().0, "10.5.3.0-24");
    assert_eq!(
        Bench::new(remembering("10.5.3.0/24"), &keys).written().0,
        "10.5.3.0-24"
    );
    let stranger = [("10.5.3.0-24", weftd("10.0.0.1", "n2", "m2"), false)];
    assert_ne!(
        Bench::new(remembering("10.5.3.0/24"), &stranger)
            .written()
            .0,
        "10.5.3.0-24"
    );
}

#[test]
fn a_renamed_node_keeps_its_lease_and_a_clone_at_its_address_does_not_get_it() {
    let keys = [("10.5.3.0-24", weftd("10.0.0.1", "before", "m1"), false)];
    let clone = remembering("10.5.3.0/24");
    assert_ne!(Bench::new(clone, &keys).written().0, "10.5.3.0-24");
    let renamed = Claim {
        formerly: Some(Identity {
            machine: "m1".into(),
            node: "before".into(),
        }),
        ..remembering("10.5.3.0/24")
    };
    assert_eq!(Bench::new(renamed, &keys).written().0, "10.5.3.0-24");
}

#[test]
fn the_previous_subnet_is_preferred() {
    let mut bench = Bench::new(
        remembering("10.5.7.0/24"),
        &[("10.5.3.0-24", flanneld("10.0.0.2"), false)],
    );
    assert_eq!(bench.written().0, "10.5.7.0-24");
}

#[test]
fn a_reservation_stays_one() {
    let mut bench = Bench::new(claim(), &[("10.5.3.0-24", flanneld("10.0.0.1"), true)]);
    let (key, _, _, expires) = bench.written();
    assert_eq!((key.as_str(), expires), ("10.5.3.0-24", None));
    bench.succeed();
    assert_eq!(
        bench.next(),
        Step::Wait(None),
        "what lasts needs no renewal"
    );
    assert_eq!(bench.leasing.expires_in(bench.now), None);
}

#[test]
fn a_reservation_by_name_is_ours_and_somebody_elses_is_not() {
    let by_name = r#"{"Weft":{"Node":"n1"}}"#.to_owned();
    assert_eq!(
        Bench::new(claim(), &[("10.5.3.0-24", by_name, true)])
            .written()
            .0,
        "10.5.3.0-24"
    );
    let all_but_one: Vec<_> = ["1", "2", "3", "4", "5", "6", "7", "9"]
        .map(|n| format!("10.5.{n}.0-24"))
        .into();
    let keys: Vec<_> = all_but_one
        .iter()
        .map(|key| (key.as_str(), "{}".to_owned(), true))
        .collect();
    assert_eq!(Bench::new(claim(), &keys).written().0, "10.5.8.0-24");
}

#[test]
fn a_lease_that_the_configuration_forbids_is_deleted_and_another_taken() {
    let mut bench = Bench::new(claim(), &[("10.5.77.0-24", flanneld("10.0.0.1"), false)]);
    let Step::Commit(change) = bench.next() else {
        panic!()
    };
    assert_eq!(
        (change.write, change.expected),
        (Write::Delete, Expected::Version(1))
    );
    bench.succeed();
    assert_eq!(bench.written().1, Expected::Absent);
}

#[test]
fn a_reservation_that_the_configuration_forbids_is_left_alone() {
    let mut bench = Bench::new(claim(), &[("10.5.77.0-24", flanneld("10.0.0.1"), true)]);
    assert_eq!(bench.written().1, Expected::Absent);
}

#[test]
fn an_ipv4_lease_becomes_dual_stack_and_keeps_its_ipv4_subnet() {
    let mut bench = Bench::new(claim(), &[("10.5.3.0-24", flanneld("10.0.0.1"), false)]);
    let dual = conf(r#""EnableIPv6": true, "IPv6Network": "fd05::/48","#);
    bench.leasing.configured(Arc::new(dual));
    assert!(matches!(
        bench.next(),
        Step::Commit(Change {
            write: Write::Delete,
            ..
        })
    ));
    bench.succeed();
    let (key, ..) = bench.written();
    assert!(key.starts_with("10.5.3.0-24&fd05:0:0:"), "{key}");
}

#[test]
fn a_lost_race_is_run_again_with_another_subnet() {
    let mut bench = Bench::new(remembering("10.5.7.0/24"), &[]);
    let (key, ..) = bench.written();
    let entry = Entry {
        key: format!("subnets/{key}"),
        value: flanneld("10.0.0.2"),
        version: 9,
        lasts: false,
    };
    let beaten = Ok(Outcome::Otherwise(Some(entry)));
    bench
        .leasing
        .answered(&mut bench.table, beaten, bench.now, bench.now);
    if bench.next() != Step::List {
        bench.wait();
        assert_eq!(bench.next(), Step::List);
    }
    bench.leasing.listed();
    assert_ne!(bench.written().0, key);
}

#[test]
fn an_exhausted_pool_is_told_and_awaited() {
    let mut bench = Bench::new(claim(), &[("10.5.0.0-20", flanneld("10.0.0.2"), true)]);
    assert!(bench.wait() <= REFRESH);
    let Own::Refused(why) = bench.leasing.own() else {
        panic!()
    };
    assert!(
        why.contains("all 9 subnets from 10.5.1.0/24 to 10.5.9.0/24 are taken"),
        "{why}"
    );
    bench.remove("10.5.0.0-20");
    bench.leasing.listed();
    assert_eq!(bench.written().1, Expected::Absent);
    bench.succeed();
    bench.held();
}

/// A node that has had 10.5.7.0/24 for a moment.
fn holder_of_seven() -> Bench {
    let mut bench = Bench::new(remembering("10.5.7.0/24"), &[]);
    bench.written();
    bench.succeed();
    assert_eq!(bench.held(), "10.5.7.0/24");
    bench
}

#[test]
fn it_is_renewed_a_margin_before_its_end_and_compared() {
    let mut bench = holder_of_seven();
    assert_eq!(bench.leasing.expires_in(bench.now), Some(DAY));
    assert_eq!(bench.wait(), DAY - HOUR);
    let (_, expected, _, expires) = bench.written();
    assert_eq!((expected, expires), (Expected::Version(1), Some(DAY)));
}

/// As after a machine was asleep: its clock goes on where it stood, or is far ahead at once.
#[test]
fn a_clock_that_jumps_ahead_past_the_lease_s_end_renews_it_and_keeps_the_subnet() {
    for ahead in [DAY - HOUR, DAY, 30 * DAY] {
        let mut bench = holder_of_seven();
        bench.now += ahead;
        let (key, expected, _, term) = bench.written();
        assert_eq!((&*key, term), ("10.5.7.0-24", Some(DAY)), "{ahead:?} ahead");
        assert!(matches!(expected, Expected::Version(_)), "{expected:?}");
        bench.succeed();
        assert_eq!(bench.held(), "10.5.7.0/24");
        assert!(matches!(bench.next(), Step::Wait(Some(_))));
    }
}

/// What is passed in is monotonic; even if it were not, nothing is given up or written twice.
#[test]
fn a_clock_that_jumps_back_loses_nothing() {
    let mut bench = holder_of_seven();
    bench.now += HOUR;
    assert!(matches!(bench.next(), Step::Wait(Some(_))));
    bench.now = Duration::ZERO;
    assert!(matches!(bench.next(), Step::Wait(Some(_))));
    assert_eq!(bench.held(), "10.5.7.0/24");
    assert!(bench.leasing.expires_in(bench.now) >= Some(DAY));
}

#[test]
fn a_renewal_that_fails_is_tried_again_within_seconds_and_nothing_is_given_up() {
    let mut bench = holder_of_seven();
    bench.wait();
    for _ in 0..20 {
        bench.written();
        bench.fail();
        assert!(bench.wait() <= Duration::from_secs(10));
        assert_eq!(bench.next(), Step::List);
        bench.leasing.list_failed(bench.now);
        assert!(bench.wait() <= Duration::from_secs(10));
        assert_eq!(bench.next(), Step::List);
        bench.leasing.listed();
        assert_eq!(bench.held(), "10.5.7.0/24");
    }
}

#[test]
fn an_answer_that_was_lost_is_found_in_the_listing() {
    let mut bench = Bench::new(remembering("10.5.7.0/24"), &[]);
    let (key, _, value, _) = bench.written();
    bench.fail();
    bench.wait();
    assert_eq!(bench.next(), Step::List);
    bench.put(&key, &value, false);
    bench.leasing.listed();
    assert_eq!(bench.written().0, key);
    assert_eq!(bench.held(), "10.5.7.0/24");
}

#[test]
fn a_revoked_lease_is_taken_back_at_once_with_all_it_said() {
    let mut bench = holder_of_seven();
    bench.remove("10.5.7.0-24");
    let (key, expected, value, _) = bench.written();
    assert_eq!((key.as_str(), expected), ("10.5.7.0-24", Expected::Absent));
    assert_eq!(value, weftd("10.0.0.1", "n1", "m1"));
    assert_eq!(bench.held(), "10.5.7.0/24");
}

#[test]
fn somebody_who_revokes_again_and_again_is_not_fought_as_fast() {
    let mut bench = holder_of_seven();
    let mut waited = Duration::ZERO;
    for _ in 0..12 {
        bench.remove("10.5.7.0-24");
        if !matches!(bench.next(), Step::Commit(_)) {
            waited += bench.wait();
            bench.written();
        }
        bench.succeed();
    }
    assert!(waited > Duration::from_secs(60), "{waited:?}");
    assert!(
        bench
            .leasing
            .disturbance(bench.now)
            .unwrap()
            .contains("revoked")
    );
}

#[test]
fn a_subnet_lost_to_another_node_is_kept_for_the_pods_and_taken_back_when_free() {
    let mut bench = holder_of_seven();
    bench.put("10.5.7.0-24", &weftd("10.0.0.2", "n2", "m2"), false);
    assert_eq!(bench.next(), Step::Wait(None));
    let (was, why) = bench.lost();
    assert_eq!(was, "10.5.7.0/24");
    assert!(
        why.contains("leased to node n2 at 10.0.0.2; the pods here keep it"),
        "{why}"
    );
    bench.remove("10.5.7.0-24");
    assert_eq!(bench.written().0, "10.5.7.0-24");
    bench.lost();
    bench.succeed();
    assert_eq!(bench.held(), "10.5.7.0/24");
}

#[test]
fn a_subnet_within_ours_is_in_the_way_too() {
    let mut bench = holder_of_seven();
    bench.remove("10.5.7.0-24");
    bench.put("10.5.7.128-25", &flanneld("10.0.0.2"), false);
    assert_eq!(bench.next(), Step::Wait(None));
    assert!(
        bench
            .lost()
            .1
            .contains("10.5.7.0/24 is leased to the node at 10.0.0.2")
    );
}

#[test]
fn a_key_that_was_spoilt_is_told_with_its_name() {
    let mut bench = holder_of_seven();
    bench.put("10.5.7.0-24", "{", false);
    assert_eq!(bench.next(), Step::Wait(None));
    assert!(
        bench
            .lost()
            .1
            .contains("delete the key subnets/10.5.7.0-24"),
        "{:?}",
        bench.lost()
    );
}

#[test]
fn a_second_daemon_with_our_name_is_told_and_not_fought_as_fast() {
    let mut bench = holder_of_seven();
    let mut waited = Duration::ZERO;
    for _ in 0..12 {
        bench.put("10.5.7.0-24", &weftd("10.0.0.9", "n1", "m1"), false);
        if !matches!(bench.next(), Step::Commit(_)) {
            waited += bench.wait();
            bench.written();
        }
        bench.succeed();
    }
    assert!(waited > Duration::from_secs(60), "{waited:?}");
    assert!(
        bench
            .leasing
            .disturbance(bench.now)
            .unwrap()
            .contains("overwritten by somebody else")
    );
    bench.now += TOLD_FOR;
    assert_eq!(bench.leasing.disturbance(bench.now), None);
}

#[test]
fn a_changed_claim_is_published_at_once_by_comparison() {
    let mut bench = holder_of_seven();
    assert!(matches!(bench.next(), Step::Wait(_)));
    bench.leasing.claimed(Some(Claim {
        public_ip: Some(Ipv4Addr::new(10, 0, 0, 8)),
        ..claim()
    }));
    let (_, expected, value, _) = bench.written();
    assert_eq!(
        (expected, value),
        (Expected::Version(1), weftd("10.0.0.8", "n1", "m1"))
    );
}

#[test]
fn news_older_than_an_answer_change_nothing() {
    let mut bench = holder_of_seven();
    let old = Entry {
        key: "subnets/10.5.7.0-24".into(),
        value: flanneld("10.0.0.2"),
        version: 0,
        lasts: false,
    };
    assert!(!bench.table.apply(Event::Put(old)));
    assert!(matches!(bench.next(), Step::Wait(_)));
    assert_eq!(bench.held(), "10.5.7.0/24");
}

#[test]
fn without_a_claim_it_lists_and_waits() {
    let mut bench = Bench::new(claim(), &[]);
    bench.leasing.claimed(None);
    assert_eq!(
        (bench.next(), bench.leasing.own()),
        (Step::Wait(None), Own::Unclaimed)
    );
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
