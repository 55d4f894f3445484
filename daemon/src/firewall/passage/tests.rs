use proptest::prelude::*;

use super::*;
use crate::firewall::save::Saved;

fn pods() -> Vec<IpNetwork> {
    vec!["10.244.0.0/16".parse().unwrap()]
}

/// The FORWARD chain of a filter table as iptables-save prints it.
fn filter(save: &str) -> Filter {
    let text: Vec<&str> = save.lines().map(str::trim).collect();
    Saved::parse(&format!("*filter\n{}\nCOMMIT\n", text.join("\n")))
        .filter("FORWARD")
        .unwrap()
}

fn inserts(filter: &Filter) -> Vec<(String, End)> {
    let insert = |edit| match edit {
        Edit::Insert { chain, accept, .. } => Some((chain, accept.end)),
        Edit::Delete { .. } => None,
    };
    filter
        .edits(&pods())
        .into_iter()
        .filter_map(insert)
        .collect()
}

/// Each rule gets a handle of its own: two may say the same.
fn numbered(mut filter: Filter) -> Filter {
    let steps = filter.chains.values_mut().flatten();
    steps
        .zip(1..)
        .for_each(|(step, number)| step.handle = Handle::Number(number));
    filter
}

const DOCKER: &str = ":INPUT ACCEPT [0:0]
    :FORWARD DROP [0:0]
    :DOCKER - [0:0]
    :DOCKER-ISOLATION-STAGE-1 - [0:0]
    :DOCKER-ISOLATION-STAGE-2 - [0:0]
    :DOCKER-USER - [0:0]
    -A FORWARD -j DOCKER-USER
    -A FORWARD -j DOCKER-ISOLATION-STAGE-1
    -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A FORWARD -o docker0 -j DOCKER
    -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    -A FORWARD -i docker0 -o docker0 -j ACCEPT
    -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    -A DOCKER-ISOLATION-STAGE-1 -j RETURN
    -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    -A DOCKER-ISOLATION-STAGE-2 -j RETURN
    -A DOCKER-USER -j RETURN";

#[test]
fn a_chain_that_accepts_needs_nothing() {
    assert_eq!(filter(":FORWARD ACCEPT [0:0]").edits(&pods()), []);
    let kubes = filter(
        ":FORWARD ACCEPT [0:0]
         -A FORWARD -m conntrack --ctstate INVALID -j DROP
         -A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    );
    assert_eq!(kubes.edits(&pods()), []);
}

#[test]
fn what_drops_in_forward_needs_accepts_there() {
    let both = [
        ("FORWARD".to_owned(), End::Source),
        ("FORWARD".to_owned(), End::Destination),
    ];
    assert_eq!(inserts(&filter(":FORWARD DROP [0:0]")), both);
    let reject = filter(
        ":FORWARD ACCEPT [0:0]
         -A FORWARD -i lo -j ACCEPT
         -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
    );
    assert_eq!(inserts(&reject), both);
    let far = filter(
        ":FORWARD ACCEPT [0:0]
         :far - [0:0]
         :farther - [0:0]
         -A FORWARD -m comment --comment \"a b\" -j far
         -A far -g farther
         -A far -j ACCEPT
         -A farther -d 10.0.0.0/8 -j DROP",
    );
    assert_eq!(inserts(&far), both[1..]);
}

#[test]
fn beside_docker_they_go_into_its_chain_for_others() {
    let into = inserts(&filter(DOCKER));
    assert_eq!(into.len(), 2);
    assert!(
        into.iter().all(|(chain, _)| chain == "DOCKER-USER"),
        "{into:?}"
    );
}

#[test]
fn they_stand_in_front_of_what_surely_drops_and_behind_what_others_refuse_to_some() {
    let open = |save: &str, chain: &str| -> Vec<String> {
        let filter = filter(save);
        let edits = filter.edits(&pods());
        let steps = &filter.edited(&edits).chains[chain];
        let shown = steps.iter().map(|step| match &step.handle {
            Handle::Line(line) => line.clone(),
            Handle::Number(_) | Handle::None => "ours".to_owned(),
        });
        shown.collect()
    };
    let policies = ":FORWARD DROP [0:0]
        -A FORWARD -m conntrack --ctstate INVALID -j DROP
        -A FORWARD -s 10.244.1.3/32 -j DROP";
    let [invalid, one] = [
        "FORWARD -m conntrack --ctstate INVALID -j DROP",
        "FORWARD -s 10.244.1.3/32 -j DROP",
    ];
    assert_eq!(open(policies, "FORWARD"), [invalid, one, "ours", "ours"]);
    let rejecting = format!("{policies}\n-A FORWARD -j REJECT\n-A FORWARD -i lo -j ACCEPT");
    let (reject, lo) = ("FORWARD -j REJECT", "FORWARD -i lo -j ACCEPT");
    assert_eq!(
        open(&rejecting, "FORWARD"),
        [invalid, one, "ours", "ours", reject, lo]
    );
    let by_jump = ":FORWARD DROP [0:0]\n:a - [0:0]\n-A FORWARD -g a\n-A a -i eth0 -j DROP";
    assert_eq!(open(by_jump, "FORWARD"), ["ours", "ours", "FORWARD -g a"]);
    assert_eq!(
        open(DOCKER, "DOCKER-USER"),
        ["ours", "ours", "DOCKER-USER -j RETURN"]
    );
}

#[test]
fn a_chain_of_docker_s_that_comes_too_late_is_no_place() {
    let late = filter(
        ":FORWARD DROP [0:0]
         :DOCKER-USER - [0:0]
         -A FORWARD -d 10.0.0.0/8 -j DROP
         -A FORWARD -j DOCKER-USER",
    );
    assert!(inserts(&late).iter().all(|(chain, _)| chain == "FORWARD"));
}

#[test]
fn others_accepts_serve_as_well() {
    let accepted = filter(
        ":FORWARD DROP [0:0]
         -A FORWARD -s 10.0.0.0/8 -j ACCEPT
         -A FORWARD -d 10.244.0.0/16 -j ACCEPT",
    );
    assert_eq!(accepted.edits(&pods()), []);
}

#[test]
fn flannel_s_accepts_do_not_serve_for_they_are_about_to_go() {
    let flannels = filter(
        ":FORWARD DROP [0:0]
         :FLANNEL-FWD - [0:0]
         -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
         -A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT
         -A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT",
    );
    assert_eq!(inserts(&flannels).len(), 2);
}

#[test]
fn ours_go_when_nothing_needs_them() {
    let mut filter = filter(
        ":FORWARD ACCEPT [0:0]
         -A FORWARD -s 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT
         -A FORWARD -s 10.244.0.0/16 -j ACCEPT",
    );
    assert_eq!(filter.edits(&pods()).len(), 1);
    filter.drops_by_policy = true;
    assert_eq!(filter.edits(&[]).len(), 1);
    // Without ours the one that is not ours accepts what leaves, and nothing what arrives.
    assert_eq!(inserts(&filter), [("FORWARD".to_owned(), End::Destination)]);
}

#[test]
fn ours_behind_a_drop_move_in_front_of_it() {
    let mut filter = filter(
        ":FORWARD DROP [0:0]
         -A FORWARD -j DROP
         -A FORWARD -s 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT
         -A FORWARD -d 10.244.0.0/16 -m comment --comment \"weft: pods\" -j ACCEPT",
    );
    let edits = filter.edits(&pods());
    assert_eq!(edits.len(), 4);
    filter = filter.edited(&edits);
    assert_eq!(filter.chains["FORWARD"].len(), 3);
    assert_eq!(filter.edits(&pods()), []);
}

fn step() -> impl Strategy<Value = String> {
    let when = prop_oneof![
        Just(""),
        Just("-i eth0"),
        Just("-s 10.0.0.0/8"),
        Just("-d 10.244.0.0/16"),
        Just("! -s 10.244.0.0/16"),
        Just("! -d 10.0.0.0/8"),
        Just("-s 10.244.7.0/24"),
        Just("-s 10.244.0.0/16 -m comment --comment \"weft: pods\""),
        Just("-d 10.244.0.0/16 -m comment --comment \"weft: pods\""),
    ];
    let then = prop_oneof![
        Just("-j ACCEPT"),
        Just("-j DROP"),
        Just("-j REJECT"),
        Just("-j RETURN"),
        Just("-j LOG"),
        Just("-j a"),
        Just("-g a"),
        Just("-j b"),
        Just("-j DOCKER-USER"),
        Just("-j FLANNEL-FWD"),
    ];
    (
        prop_oneof![3 => Just("FORWARD"), 1 => Just("a"), 1 => Just("b"), 1 => Just("DOCKER-USER")],
        when,
        then,
    )
        .prop_map(|(chain, when, then)| format!("-A {chain} {when} {then}"))
}

proptest! {
    #[test]
    fn whatever_stands_pods_pass_after_it_and_a_second_look_finds_nothing(
        drops: bool, steps in prop::collection::vec(step(), 0..10)
    ) {
        let policy = if drops { "DROP" } else { "ACCEPT" };
        let mut filter = numbered(filter(&format!(
            ":FORWARD {policy} [0:0]\n:a - [0:0]\n:b - [0:0]\n:DOCKER-USER - [0:0]\n{}",
            steps.join("\n")
        )));
        let others = filter.without(Step::is_ours);
        let edits = filter.edits(&pods());
        filter = numbered(filter.edited(&edits));
        let bare = filter.without(Step::is_flannels);
        prop_assert!(ENDS.iter().all(|end| bare.lets_pass(&Match::inside(*end, pods()[0]))));
        prop_assert_eq!(filter.edits(&pods()), []);
        prop_assert_eq!(numbered(filter.without(Step::is_ours)), numbered(others.clone()));

        let edits = filter.edits(&[]);
        filter = numbered(filter.edited(&edits));
        prop_assert_eq!(filter.without(|_| false), numbered(others));
    }
}
