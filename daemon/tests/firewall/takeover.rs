//! What flanneld left in iptables goes, once ours stands; nothing else does.

use weft_daemon::firewall::Firewall;
use weft_netns::{Need, in_world, skip_unless};

use crate::common::{dual_stack, generation, ipv4_only, reconciled};
use crate::traffic::iptables_of_flannel;

const OTHERS: &str = "*nat
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A FORWARD -i lo -m comment --comment \"flanneld forward\" -j ACCEPT
COMMIT";

#[test]
fn its_chains_in_iptables_nft_are_removed_and_nothing_besides() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let restore = |program: &str, text: &str| {
            world.exec(&format!("{program}-restore --noflush <<'EOF'\n{text}\nEOF"))
        };
        restore("iptables-nft", OTHERS);
        restore(
            "ip6tables-nft",
            &OTHERS.replace("172.17.0.0/16", "fd17::/64"),
        );
        let rules = || {
            let saved = world.exec("iptables-nft-save; ip6tables-nft-save");
            saved
                .lines()
                .filter(|l| !l.starts_with('#'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let others = rules();
        iptables_of_flannel(
            world,
            "iptables-nft",
            "10.244.0.0/16",
            "10.244.3.0/24",
            "224.0.0.0/4",
        );
        iptables_of_flannel(
            world,
            "ip6tables-nft",
            "fd10:244::/48",
            "fd10:244:0:3::/64",
            "ff00::/8",
        );
        assert_ne!(rules(), others);

        let mut firewall = Firewall::open().unwrap();
        let before = generation();
        let report = reconciled(&mut firewall, &dual_stack());
        assert_eq!(rules(), others);
        // Ours first, theirs then.
        assert_eq!(report.generations, [before + 1, before + 2]);
        let second = reconciled(&mut firewall, &dual_stack());
        assert_eq!((second.repaired, generation()), (vec![], before + 2));
    });
}

#[test]
fn a_chain_that_others_jump_to_stays_empty() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        iptables_of_flannel(
            world,
            "iptables-nft",
            "10.244.0.0/16",
            "10.244.3.0/24",
            "224.0.0.0/4",
        );
        world.exec(
            "iptables-nft -t nat -N MINE; iptables-nft -t nat -A POSTROUTING -j MINE
             iptables-nft -t nat -A MINE -d 10.9.9.9 -j FLANNEL-POSTRTG",
        );
        reconciled(&mut Firewall::open().unwrap(), &ipv4_only());
        let saved = world.exec("iptables-nft-save -t nat");
        assert!(
            saved.contains("-A MINE -d 10.9.9.9/32 -j FLANNEL-POSTRTG"),
            "{saved}"
        );
        assert!(!saved.contains("-A FLANNEL-POSTRTG"), "{saved}");
        assert!(!saved.contains("flanneld masq"), "{saved}");
    });
}

#[test]
fn its_chains_that_come_again_are_told_of_and_not_fought_over() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &ipv4_only());
        iptables_of_flannel(
            world,
            "iptables-nft",
            "10.244.0.0/16",
            "10.244.3.0/24",
            "224.0.0.0/4",
        );
        let report = reconciled(&mut firewall, &ipv4_only());
        assert_eq!(report.repaired, []);
        assert_eq!(report.notes.len(), 2, "{report:?}");
        assert!(
            report.notes[0].contains("flanneld runs beside weftd"),
            "{report:?}"
        );
        assert_eq!(reconciled(&mut firewall, &ipv4_only()).notes, [""; 0]);
    });
}

#[test]
fn its_chains_in_iptables_legacy_are_removed_and_nothing_besides() {
    if !skip_unless(&[Need::Tool("iptables-legacy")]) {
        return;
    }
    in_world(|world| {
        world.exec(&format!(
            "iptables-legacy-restore --noflush <<'EOF'\n{OTHERS}\nEOF"
        ));
        let rules = || {
            let saved = world.exec("iptables-legacy-save");
            let lines = saved.lines().filter(|l| !l.starts_with('#'));
            lines
                .map(|l| l.split(" [").next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let others = rules();
        iptables_of_flannel(
            world,
            "iptables-legacy",
            "10.244.0.0/16",
            "10.244.3.0/24",
            "224.0.0.0/4",
        );
        let mut firewall = Firewall::open().unwrap();
        let report = reconciled(&mut firewall, &ipv4_only());
        assert_eq!(rules(), others, "{report:?}");
        assert!(
            report
                .repaired
                .iter()
                .any(|r| r.table == "iptables-legacy nat"),
            "{report:?}"
        );
        assert_eq!(reconciled(&mut firewall, &ipv4_only()).repaired, []);
    });
}

#[test]
fn tables_of_iptables_legacy_that_nobody_uses_are_not_created() {
    in_world(|world| {
        reconciled(&mut Firewall::open().unwrap(), &dual_stack());
        let names = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || true";
        assert_eq!(world.exec(names), "");
    });
}
