//! What was written, as nft shows it.

use std::net::IpAddr;

use rustix::io::Errno;
use weft_net::nft::expr::{self, Reject, Selector, state};
use weft_net::nft::{
    Base, ChainKind, DataType, Element, Family, Hook, Op, Policy, SetSpec, Table, Transaction,
    Verdict, concat, ifname, network_bounds, octets, priority,
};

use crate::common::{
    HOSTPORTS, assert_listed, hostports_skeleton, hostports4, in_fresh_namespace, mapping, run,
    target,
};

#[test]
fn a_port_mapping_is_one_element_and_reads_like_one() {
    in_fresh_namespace(|mut nft| {
        let mut transaction = Transaction::new();
        hostports_skeleton(&mut transaction);
        let key6 = concat(&[
            &[17],
            &octets("fd00::1".parse().unwrap()),
            &53u16.to_be_bytes(),
        ]);
        let value6 = concat(&[&octets("fd01::5".parse().unwrap()), &5353u16.to_be_bytes()]);
        let (key4, value4) = (mapping(8080), target(80));
        transaction.add_elements(
            hostports4(),
            &[Element::new(&key4).value(&value4).comment("n1/c1/eth0")],
        );
        transaction.add_elements(
            HOSTPORTS.set("hostports6"),
            &[Element::new(&key6).value(&value6).comment("n1/c1/eth0")],
        );
        nft.commit(transaction).unwrap();

        assert_listed(
            &run("nft", "list table inet weft_hostports"),
            r#"table inet weft_hostports {
                comment "weft: host ports"
                map hostports4 {
                    type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
                    comment "owner in each comment"
                    elements = { tcp . 10.0.0.1 . 8080 comment "n1/c1/eth0" : 10.1.0.5 . 80 }
                }

                map hostports6 {
                    type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service
                    elements = { udp . fd00::1 . 53 comment "n1/c1/eth0" : fd01::5 . 5353 }
                }

                chain hostports {
                    dnat ip to meta l4proto . ip daddr . th dport map @hostports4
                    dnat ip6 to meta l4proto . ip6 daddr . th dport map @hostports6
                }

                chain prerouting {
                    type nat hook prerouting priority dstnat; policy accept;
                    fib daddr type local jump hostports
                }

                chain output {
                    type nat hook output priority -100; policy accept;
                    fib daddr type local jump hostports
                }
            }"#,
        );
    });
}

#[test]
fn masquerading_by_a_verdict_map_of_pods() {
    in_fresh_namespace(|mut nft| {
        let table = Table::new(Family::Inet, "weft_masquerade");
        let (pods4, chain) = (table.set("pods4"), table.chain("net_10_1_0_0"));
        let postrouting = table.chain("postrouting");
        let mut transaction = Transaction::new();
        transaction.create_table(table, "");
        transaction.create_chain(chain, None, "10.1.0.0/24");
        let subnet = "10.1.0.0/24".parse().unwrap();
        let multicast = "224.0.0.0/4".parse().unwrap();
        transaction.add_rule(
            chain,
            &[
                expr::ipv4(),
                Selector::IP_DADDR.network(Op::Ne, subnet),
                Selector::IP_DADDR.network(Op::Ne, multicast),
                expr::masquerade(true),
            ],
            "net: n1, id: c1",
        );
        transaction.create_set(pods4, &SetSpec::verdict_map(&[DataType::IPV4]));
        let element = Element::new(&[10, 1, 0, 5]).verdict(Verdict::Goto("net_10_1_0_0"));
        transaction.create_elements(pods4, &[element.comment("n1/c1/eth0")]);
        let base = Base {
            kind: ChainKind::Nat,
            hook: Hook::Postrouting,
            priority: priority::SRCNAT,
            policy: Policy::Accept,
        };
        transaction.create_chain(postrouting, Some(base), "");
        transaction.add_rule(
            postrouting,
            &[expr::ipv4(), expr::vmap(&[Selector::IP_SADDR], "pods4")],
            "",
        );
        transaction.insert_rule(
            postrouting,
            &[expr::ct_status_dnat(), expr::masquerade(false)],
            "",
        );
        nft.commit(transaction).unwrap();

        assert_listed(
            &run("nft", "list table inet weft_masquerade"),
            r#"table inet weft_masquerade {
                map pods4 {
                    type ipv4_addr : verdict
                    elements = { 10.1.0.5 comment "n1/c1/eth0" : goto net_10_1_0_0 }
                }

                chain net_10_1_0_0 {
                    comment "10.1.0.0/24"
                    ip daddr != 10.1.0.0/24 ip daddr != 224.0.0.0/4 masquerade fully-random comment "net: n1, id: c1"
                }

                chain postrouting {
                    type nat hook postrouting priority srcnat; policy accept;
                    ct status dnat masquerade
                    ip saddr vmap @pods4
                }
            }"#,
        );
    });
}

#[test]
fn every_expression_is_shown_as_it_was_meant() {
    in_fresh_namespace(|mut nft| {
        let table = Table::new(Family::Inet, "t");
        let chain = table.chain("c");
        let mut transaction = Transaction::new();
        transaction.add_table(table, "");
        transaction.add_chain(chain, None);
        transaction.add_chain(table.chain("other"), None);
        transaction.add_set(
            table.set("nets"),
            &SetSpec::set(&[DataType::IPV4]).interval(),
        );
        transaction.add_set(
            table.set("ports"),
            &SetSpec::set(&[DataType::PROTO, DataType::SERVICE]),
        );
        transaction.add_set(
            table.set("peers"),
            &SetSpec::set(&[DataType::IPV4, DataType::SERVICE]).interval(),
        );
        transaction.add_set(table.set("links"), &SetSpec::set(&[DataType::IFNAME]));
        transaction.add_set(
            table.set("marks"),
            &SetSpec::map(&[DataType::MARK], &[DataType::MARK]).comment("zones"),
        );
        transaction.add_set(table.set("macs"), &SetSpec::set(&[DataType::ETHER]));
        let v4: IpAddr = "10.0.0.9".parse().unwrap();
        let v6: IpAddr = "fd00::9".parse().unwrap();
        let tcp = || Selector::L4PROTO.is(&[6]);
        let port = |port: u16| port.to_be_bytes();
        let rules = [
            vec![
                tcp(),
                Selector::DPORT.is(&port(80)),
                expr::counter(),
                expr::accept(),
            ],
            vec![
                tcp(),
                Selector::SPORT.compare(Op::Ge, &port(1024)),
                expr::drop(),
            ],
            vec![Selector::IIFNAME.is(&ifname("veth0")), expr::return_()],
            vec![Selector::OIFNAME.isnt(&ifname("eth0")), expr::goto("other")],
            vec![
                expr::ipv4(),
                expr::in_set(&[Selector::IP_SADDR], "nets"),
                expr::accept(),
            ],
            vec![
                expr::ipv4(),
                expr::not_in_set(&[Selector::IP_DADDR], "nets"),
                expr::drop(),
            ],
            vec![expr::in_set(&[Selector::L4PROTO, Selector::DPORT], "ports")],
            vec![
                expr::ipv4(),
                expr::in_set(&[Selector::IP_SADDR, Selector::DPORT], "peers"),
            ],
            vec![
                expr::ipv6(),
                Selector::IP6_SADDR.network(Op::Eq, "fd00::/8".parse().unwrap()),
            ],
            vec![expr::mark(0x2000, 0x2000), expr::masquerade(false)],
            vec![expr::mark(7, u32::MAX), expr::set_mark(0x2000, 0x2000)],
            vec![expr::set_mark(0x2000, u32::MAX)],
            vec![
                expr::ct_state(state::ESTABLISHED | state::RELATED),
                expr::accept(),
            ],
            vec![tcp(), Selector::CT_ORIGINAL_DPORT.is(&port(80))],
            vec![Selector::CT_ORIGINAL_IP_DADDR.is(&[10, 0, 0, 1])],
            vec![Selector::CT_MARK.is(&5u32.to_ne_bytes())],
            vec![expr::family_of(v4), tcp(), expr::dnat_to(v4, Some(80))],
            vec![expr::family_of(v6), tcp(), expr::dnat_to(v6, Some(80))],
            vec![expr::family_of(v4), expr::snat_to(v4, None)],
            vec![tcp(), expr::redirect(8080)],
            vec![expr::limit(10, 60, 5), expr::log("weft: ")],
            vec![tcp(), expr::reject(Reject::TcpReset)],
            vec![expr::reject(Reject::AdminProhibited)],
            vec![expr::reject(Reject::PortUnreachable)],
            vec![Selector::CT_ORIGINAL_PROTOCOL.is(&[6]), expr::notrack()],
        ];
        for rule in &rules {
            transaction.add_rule(chain, rule, "");
        }
        let (first, past) = network_bounds("10.0.0.0/8".parse().unwrap());
        let past = past.unwrap();
        let nets = [
            Element::new(&first).comment("cluster"),
            Element::past(&past),
        ];
        transaction.add_elements(table.set("nets"), &nets);
        let from = concat(&[&[10, 0, 0, 0], &port(80)]);
        let until = concat(&[&[10, 0, 0, 255], &port(90)]);
        transaction.add_elements(table.set("peers"), &[Element::new(&from).until(&until)]);
        transaction.add_elements(
            table.set("ports"),
            &[Element::new(&concat(&[&[17], &port(53)]))],
        );
        transaction.add_elements(table.set("links"), &[Element::new(&ifname("cni0"))]);
        let (mark, zone) = (0x2000u32.to_ne_bytes(), 1u32.to_ne_bytes());
        transaction.add_elements(table.set("marks"), &[Element::new(&mark).value(&zone)]);
        transaction.add_elements(table.set("macs"), &[Element::new(&[2, 0, 0, 0, 0, 1])]);
        nft.commit(transaction).unwrap();

        assert_listed(&run("nft", "list table inet t"), EXPRESSIONS);
    });
}

const EXPRESSIONS: &str = r#"table inet t {
	set nets {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8 comment "cluster" }
	}

	set ports {
		type inet_proto . inet_service
		elements = { udp . 53 }
	}

	set peers {
		type ipv4_addr . inet_service
		flags interval
		elements = { 10.0.0.0/24 . 80-90 }
	}

	set links {
		type ifname
		elements = { "cni0" }
	}

	map marks {
		type mark : mark
		comment "zones"
		elements = { 0x00002000 : 0x00000001 }
	}

	set macs {
		type ether_addr
		elements = { 02:00:00:00:00:01 }
	}

	chain c {
		tcp dport 80 counter packets 0 bytes 0 accept
		tcp sport >= 1024 drop
		iifname "veth0" return
		oifname != "eth0" goto other
		ip saddr @nets accept
		ip daddr != @nets drop
		meta l4proto . th dport @ports
		ip saddr . th dport @peers
		ip6 saddr fd00::/8
		meta mark & 0x00002000 == 0x00002000 masquerade
		meta mark 0x00000007 meta mark set meta mark | 0x00002000
		meta mark set 0x00002000
		ct state established,related accept
		meta l4proto tcp ct original proto-dst 80
		ct original ip daddr 10.0.0.1
		ct mark 0x00000005
		meta nfproto ipv4 meta l4proto tcp dnat ip to 10.0.0.9:80
		meta nfproto ipv6 meta l4proto tcp dnat ip6 to [fd00::9]:80
		meta nfproto ipv4 snat ip to 10.0.0.9
		meta l4proto tcp redirect to :8080
		limit rate 10/minute log prefix "weft: "
		meta l4proto tcp reject with tcp reset
		reject with icmpx admin-prohibited
		reject
		ct protocol tcp notrack
	}

	chain other {
	}
}"#;

#[test]
fn a_bridge_table_guards_hardware_addresses() {
    in_fresh_namespace(|mut nft| {
        let table = Table::new(Family::Bridge, "nat");
        let prerouting = table.chain("PREROUTING");
        let mut transaction = Transaction::new();
        transaction.add_table(table, "");
        let base = Base {
            kind: ChainKind::Filter,
            hook: Hook::Prerouting,
            priority: priority::BRIDGE_DSTNAT,
            policy: Policy::Accept,
        };
        transaction.add_chain(prerouting, Some(base));
        transaction.add_chain(table.chain("pod"), None);
        let to_pod = [Selector::IIFNAME.is(&ifname("veth1234")), expr::jump("pod")];
        transaction.add_rule(prerouting, &to_pod, "macspoofchk-c1-eth0");
        let is_mac = [
            Selector::ETHER_SADDR.is(&[2, 0, 0, 0, 0, 1]),
            expr::return_(),
        ];
        transaction.add_rule(table.chain("pod"), &is_mac, "");
        transaction.add_rule(table.chain("pod"), &[expr::drop()], "");
        nft.commit(transaction).unwrap();

        assert_listed(
            &run("nft", "list table bridge nat"),
            r#"table bridge nat {
                chain PREROUTING {
                    type filter hook prerouting priority dstnat; policy accept;
                    iifname "veth1234" jump pod comment "macspoofchk-c1-eth0"
                }

                chain pod {
                    ether saddr 02:00:00:00:00:01 return
                    drop
                }
            }"#,
        );
    });
}

#[test]
fn five_thousand_elements_go_in_and_out_in_one_transaction_each() {
    in_fresh_namespace(|mut nft| {
        let mut skeleton = Transaction::new();
        hostports_skeleton(&mut skeleton);
        nft.commit(skeleton).unwrap();

        let keys: Vec<_> = (1..=5000).map(mapping).collect();
        let values: Vec<_> = (1..=5000).map(target).collect();
        let comment = "n1/".to_owned() + &"c".repeat(64) + "/eth0";
        let elements: Vec<_> = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| Element::new(key).value(value).comment(&comment))
            .collect();
        let mut filling = Transaction::new();
        filling.create_elements(hostports4(), &elements);
        nft.commit(filling).unwrap();

        let found = nft.elements(hostports4()).unwrap();
        assert!(found.iter().map(|element| element.key()).eq(keys.iter()));

        let mut emptying = Transaction::new();
        let bare: Vec<_> = keys.iter().map(|key| Element::new(key)).collect();
        emptying.delete_elements(hostports4(), &bare);
        nft.commit(emptying).unwrap();
        assert!(nft.elements(hostports4()).unwrap().is_empty());
    });
}

#[test]
fn a_refused_transaction_changes_nothing_and_names_the_element() {
    in_fresh_namespace(|mut nft| {
        let mut skeleton = Transaction::new();
        hostports_skeleton(&mut skeleton);
        nft.commit(skeleton).unwrap();

        let keys = [mapping(1), mapping(2)];
        let value = target(80);
        let mut transaction = Transaction::new();
        transaction.add_elements(hostports4(), &[Element::new(&keys[0]).value(&value)]);
        transaction.delete_elements(hostports4(), &[Element::new(&keys[1]).comment("n1/c1")]);
        let error = nft.commit(transaction).unwrap_err();

        assert_eq!(error.errno(), Some(Errno::NOENT));
        let text = error.to_string();
        assert!(
            text.starts_with(
                "delete element 06000000.0a000001.00020000 (n1/c1) \
                 of set hostports4 of table inet weft_hostports: "
            ),
            "{text}"
        );
        assert!(nft.elements(hostports4()).unwrap().is_empty());
    });
}

#[test]
fn an_element_that_stands_there_is_kept_and_replaced_only_on_purpose() {
    in_fresh_namespace(|mut nft| {
        let mut skeleton = Transaction::new();
        hostports_skeleton(&mut skeleton);
        nft.commit(skeleton).unwrap();
        let (key, old, new) = (mapping(1), target(1), target(2));
        let first = Element::new(&key).value(&old).comment("first");
        let again = first.comment("again");
        let other = Element::new(&key).value(&new).comment("other");
        let mut commit = |change: &dyn Fn(&mut Transaction)| {
            let mut transaction = Transaction::new();
            change(&mut transaction);
            nft.commit(transaction)
                .map_err(|error| error.errno().unwrap())
        };
        assert_eq!(
            commit(&|t| t.create_elements(hostports4(), &[first])),
            Ok(())
        );
        assert_eq!(
            commit(&|t| t.create_elements(hostports4(), &[first])),
            Err(Errno::EXIST)
        );
        assert_eq!(commit(&|t| t.add_elements(hostports4(), &[again])), Ok(()));
        assert_eq!(
            commit(&|t| t.add_elements(hostports4(), &[other])),
            Err(Errno::EXIST)
        );
        assert!(run("nft", "list table inet weft_hostports").contains("comment \"first\""));
        let replace = |t: &mut Transaction| {
            t.delete_elements(hostports4(), &[other]);
            t.create_elements(hostports4(), &[other]);
        };
        assert_eq!(commit(&replace), Ok(()));
        assert!(run("nft", "list table inet weft_hostports").contains("comment \"other\""));
    });
}

#[test]
fn an_element_whose_table_is_missing_says_so_at_once() {
    in_fresh_namespace(|mut nft| {
        let (key, value) = (mapping(1), target(1));
        let mut transaction = Transaction::new();
        transaction.add_elements(hostports4(), &[Element::new(&key).value(&value)]);
        let error = nft.commit(transaction).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT));
        assert!(
            error.to_string().contains("table inet weft_hostports"),
            "{error}"
        );
    });
}

#[test]
fn rules_chains_sets_and_tables_go_as_they_came() {
    in_fresh_namespace(|mut nft| {
        let table = Table::new(Family::Ip, "t");
        let chain = table.chain("c");
        let mut transaction = Transaction::new();
        transaction.add_table(table, "");
        transaction.add_chain(chain, None);
        transaction.add_set(table.set("s"), &SetSpec::set(&[DataType::IPV4]));
        for comment in ["one", "two", "three"] {
            transaction.add_rule(chain, &[expr::counter()], comment);
        }
        transaction.add_elements(table.set("s"), &[Element::new(&[10, 0, 0, 1])]);
        nft.commit(transaction).unwrap();

        let comments = |rules: &[weft_net::nft::StoredRule]| -> Vec<String> {
            rules.iter().map(|rule| rule.comment().to_owned()).collect()
        };
        let rules = nft.rules(chain).unwrap();
        assert_eq!(comments(&rules), ["one", "two", "three"]);
        let mut transaction = Transaction::new();
        transaction.delete_rule(chain, rules[1].handle);
        transaction.flush_set(table.set("s"));
        nft.commit(transaction).unwrap();
        assert_eq!(comments(&nft.rules(chain).unwrap()), ["one", "three"]);
        assert!(nft.elements(table.set("s")).unwrap().is_empty());

        let mut transaction = Transaction::new();
        transaction.flush_chain(chain);
        transaction.delete_chain(chain);
        transaction.delete_set(table.set("s"));
        nft.commit(transaction).unwrap();
        assert_listed(&run("nft", "list ruleset"), "table ip t {\n}");

        let mut transaction = Transaction::new();
        transaction.delete_table(table);
        nft.commit(transaction).unwrap();
        assert!(nft.tables().unwrap().is_empty());
    });
}
