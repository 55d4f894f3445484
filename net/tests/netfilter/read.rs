//! What others put into a ruleset, as we see it.

use weft_net::nft::{
    Base, ChainKind, DataType, Family, Found, Hook, Object, Op, Policy, Selector, SetSpec,
    Statement, Table, Test, Transaction, Value, Verdict, expr,
};

use crate::common::{
    HOSTPORTS, hostports_skeleton, hostports4, in_fresh_namespace, mapping, nft as nft_program,
    run, target,
};

const NAT4: Table<'_> = Table::new(Family::Ip, "nat");
const NAT6: Table<'_> = Table::new(Family::Ip6, "nat");

#[test]
fn the_go_plugins_chains_are_found_with_one_question() {
    in_fresh_namespace(|mut nft| {
        let name = "CNI-DN-895718981c112e2ba32fa";
        run("iptables-nft", &format!("-t nat -N {name}"));
        let ask = [
            Object::Chain(NAT4.chain(name)),
            Object::Chain(NAT6.chain(name)),
        ];
        let snapshot = nft.find(&ask).unwrap();
        assert!(matches!(
            snapshot.found[..],
            [Some(Found::Named { .. }), None]
        ));
        assert_eq!(snapshot.generation, nft.generation().unwrap());
    });
}

#[test]
fn rules_of_iptables_are_read_with_their_comments_and_jumps() {
    in_fresh_namespace(|mut nft| {
        run("iptables-nft", "-t nat -N CNI-HOSTPORT-DNAT");
        run(
            "iptables-nft",
            "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment to-weft \
             -j CNI-HOSTPORT-DNAT",
        );
        run(
            "iptables-nft",
            "-t nat -A PREROUTING -p tcp -m multiport --dports 80,81 -j MARK --set-mark 1",
        );
        let rules = nft.rules(NAT4.chain("PREROUTING")).unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].comment(), "to-weft");
        assert_eq!(rules[0].leads_to(), Some("CNI-HOSTPORT-DNAT"));
        assert_eq!((rules[1].comment(), rules[1].leads_to()), ("", None));
        assert!(rules[1].expression_names().any(|name| name == "target"));

        let mut transaction = Transaction::new();
        transaction.delete_rule(NAT4.chain("PREROUTING"), rules[0].handle);
        nft.commit(transaction).unwrap();
        assert!(!run("iptables-nft", "-t nat -S").contains("-j CNI-HOSTPORT-DNAT"));
    });
}

#[test]
fn what_nft_wrote_is_read_back() {
    in_fresh_namespace(|mut nft| {
        nft_program(
            r#"table inet t {
                comment "a table"
                map m { type ipv4_addr . inet_service : verdict; comment "a map"
                    elements = { 10.0.0.1 . 80 comment "n1/c1" : goto c }
                }
                set nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
                chain c { comment "a chain"; }
                chain input { type filter hook input priority filter; policy accept;
                    tcp dport { 80, 443 } ct state vmap { new : jump c } comment "to c"
                }
            }"#,
        );
        let table = Table::new(Family::Inet, "t");
        let key = weft_net::nft::concat(&[&[10, 0, 0, 1], &80u16.to_be_bytes()]);
        let ask = [
            Object::Table(table),
            Object::Chain(table.chain("c")),
            Object::Set(table.set("m")),
            Object::Element(table.set("m"), &key),
            Object::Element(table.set("m"), &[0; 8]),
        ];
        let found = nft.find(&ask).unwrap().found;
        let named = |comment: &str| {
            Some(Found::Named {
                comment: comment.into(),
            })
        };
        assert_eq!(
            found[..3],
            [named("a table"), named("a chain"), named("a map")]
        );
        let Some(Found::Element(element)) = &found[3] else {
            panic!("{found:?}")
        };
        assert_eq!(element.key(), key);
        assert_eq!(element.comment(), "n1/c1");
        assert_eq!(element.value(), Value::Verdict(Verdict::Goto("c")));
        assert_eq!(found[4], None);

        let tables = nft.tables().unwrap();
        assert_eq!(
            (tables[0].table(), tables[0].comment.as_str()),
            (table, "a table")
        );
        let chains = nft.chains(table).unwrap();
        let named: Vec<_> = chains
            .iter()
            .map(|chain| (chain.name.as_str(), chain.is_base))
            .collect();
        assert_eq!(named, [("c", false), ("input", true)]);
        let rules = nft.table_rules(table).unwrap();
        assert_eq!(
            (rules[0].chain.as_str(), rules[0].comment()),
            ("input", "to c")
        );
        let nets = nft.elements(table.set("nets")).unwrap();
        assert_eq!(nets.iter().filter(|net| !net.is_range_end()).count(), 1);
    });
}

#[test]
fn what_is_missing_is_no_error_but_for_the_elements_of_a_set() {
    in_fresh_namespace(|mut nft| {
        assert!(nft.tables().unwrap().is_empty());
        assert!(nft.chains(HOSTPORTS).unwrap().is_empty());
        assert!(nft.rules(HOSTPORTS.chain("hostports")).unwrap().is_empty());
        assert!(nft.elements(hostports4()).unwrap_err().is_not_found());
        let ask = [
            Object::Element(hostports4(), &mapping(1)),
            Object::Table(HOSTPORTS),
        ];
        assert_eq!(nft.find(&ask).unwrap().found, [None, None]);
    });
}

#[test]
fn three_hundred_elements_are_found_with_one_call() {
    in_fresh_namespace(|mut nft| {
        let mut transaction = Transaction::new();
        hostports_skeleton(&mut transaction);
        let keys: Vec<_> = (0..300).map(mapping).collect();
        let value = target(80);
        let elements: Vec<_> = keys
            .iter()
            .step_by(2)
            .map(|key| weft_net::nft::Element::new(key).value(&value))
            .collect();
        transaction.add_elements(hostports4(), &elements);
        nft.commit(transaction).unwrap();

        let ask: Vec<_> = keys
            .iter()
            .map(|key| Object::Element(hostports4(), key))
            .collect();
        let found = nft.find(&ask).unwrap().found;
        for (index, found) in found.iter().enumerate() {
            assert_eq!(found.is_some(), index % 2 == 0, "{index}");
        }
    });
}

/// All kinds of expressions and chains, by way of the kernel and back.
#[test]
fn rules_that_stand_say_what_was_written_and_nothing_else() {
    in_fresh_namespace(|mut nft| {
        let table = Table::new(Family::Inet, "t");
        let (chain, set) = (table.chain("c"), table.set("s"));
        let network = "10.244.0.0/16".parse().unwrap();
        let base = Base {
            kind: ChainKind::Nat,
            hook: Hook::Postrouting,
            priority: -7,
            policy: Policy::Accept,
        };
        let spec = SetSpec::set(&[DataType::IPV4]);
        let rules = [
            vec![expr::mark(0x4000, 0x4000), expr::return_()],
            vec![expr::mark(0x4000, u32::MAX), expr::return_()],
            vec![
                expr::ipv4(),
                Selector::IP_SADDR.network(Op::Eq, network),
                expr::accept(),
            ],
            vec![
                expr::ipv4(),
                Selector::IP_SADDR.network(Op::Ne, network),
                expr::accept(),
            ],
            vec![
                expr::ipv4(),
                expr::in_set(&[Selector::IP_SADDR], "s"),
                expr::drop(),
            ],
            vec![
                expr::ipv4(),
                expr::not_in_set(&[Selector::IP_SADDR], "s"),
                expr::drop(),
            ],
            vec![
                Selector::L4PROTO.is(&[17]),
                Selector::DPORT.is(&[0x21, 0x18]),
                expr::counter(),
            ],
            vec![expr::masquerade(false)],
            vec![expr::masquerade(true)],
            vec![expr::jump("d")],
            vec![expr::goto("d")],
            vec![expr::ct_status_dnat(), expr::set_mark(1, 1)],
        ];
        let mut transaction = Transaction::new();
        transaction.create_table(table, "");
        transaction.create_set(set, &spec);
        transaction.create_chain(table.chain("d"), None, "");
        transaction.create_chain(chain, Some(base), "");
        rules
            .iter()
            .for_each(|rule| transaction.add_rule(chain, rule, ""));
        nft.commit(transaction).unwrap();

        let stored = nft.rules(chain).unwrap();
        for (i, stored) in stored.iter().enumerate() {
            for (k, rule) in rules.iter().enumerate() {
                assert_eq!(stored.says(rule), i == k, "rule {i} and rule {k}");
            }
        }
        assert_eq!(stored.len(), rules.len());
        assert_eq!(stored[6].packets(), Some(0));
        let chains = nft.all_chains().unwrap();
        let bases: Vec<_> = chains
            .iter()
            .map(|chain| (chain.name.as_str(), chain.base))
            .collect();
        assert_eq!(bases, [("d", None), ("c", Some(base))]);
        let sets = nft.sets(table).unwrap();
        assert_eq!((sets.len(), sets[0].set()), (1, set));
        assert!(sets[0].is_like(&spec) && !sets[0].is_like(&spec.interval()));
        assert!(!sets[0].is_like(&SetSpec::set(&[DataType::IPV6])));
        assert_eq!(nft.sets(Table::new(Family::Ip, "none")).unwrap(), []);
        assert!(nft.tables().unwrap()[0].is_awake);
    });
}

#[test]
fn what_others_rules_decide_is_understood() {
    in_fresh_namespace(|mut nft| {
        run("iptables-nft", "-P FORWARD DROP");
        for rule in [
            "-s 10.0.0.0/8 -j ACCEPT",
            "! -s 10.1.2.0/23 -d 10.1.2.3 -m comment --comment x -j DROP",
            "-i eth0 -j REJECT",
            "-m conntrack --ctstate INVALID -j DROP",
            "-j LOG",
        ] {
            run("iptables-nft", &format!("-A FORWARD {rule}"));
        }
        nft_program(
            "table inet f { chain c { type filter hook forward priority 5; policy drop; }; }
             add rule inet f c ip6 saddr fd00::/20 reject",
        );
        let filter = Table::new(Family::Ip, "filter");
        let rules = nft.rules(filter.chain("FORWARD")).unwrap();
        let said: Vec<Vec<Statement<'_>>> = rules
            .iter()
            .map(|rule| {
                let mut statements = rule.statements();
                statements.retain(|s| !matches!(s, Statement::Counter { .. } | Statement::Idle));
                statements
            })
            .collect();
        let source = |inside, network: &str| {
            let network = network.parse().unwrap();
            Statement::Test(Test::Source { inside, network })
        };
        let other = || Statement::Test(Test::Other);
        let to = Statement::Test(Test::Destination {
            inside: true,
            network: "10.1.2.3/32".parse().unwrap(),
        });
        let expected = [
            vec![
                source(true, "10.0.0.0/8"),
                Statement::Verdict(Verdict::Accept),
            ],
            vec![
                source(false, "10.1.2.0/23"),
                to,
                Statement::Verdict(Verdict::Drop),
            ],
            vec![other(), Statement::Target("REJECT")],
            vec![other(), Statement::Verdict(Verdict::Drop)],
            vec![Statement::Target("LOG")],
        ];
        assert_eq!(said[0], expected[0]);
        assert_eq!(said[1], expected[1]);
        assert_eq!(said[2..], expected[2..]);

        let rules = nft.rules(Table::new(Family::Inet, "f").chain("c")).unwrap();
        assert_eq!(
            rules[0].statements(),
            [
                Statement::Test(Test::Family(Family::Ip6)),
                source(true, "fd00::/20"),
                Statement::Reject,
            ]
        );
        let policies: Vec<_> = nft
            .all_chains()
            .unwrap()
            .iter()
            .filter_map(|c| Some(c.base?.policy))
            .collect();
        assert!(policies.contains(&Policy::Drop));
    });
}
