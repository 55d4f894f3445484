//! What others put into a ruleset, as we see it.

use weft_net::nft::{Family, Found, Object, Table, Transaction, Value, Verdict};

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
