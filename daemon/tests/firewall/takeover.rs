//! What flanneld left in iptables goes, once ours stands; nothing else does.

use std::time::{Duration, Instant};

use weft_daemon::firewall::Firewall;
use weft_netns::{Cmd, Need, World, in_world, skip_unless};

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

/// As `-save` prints them, without what changes by itself.
fn rules(world: &World, programs: &[&str]) -> Vec<String> {
    let saved = programs
        .iter()
        .map(|program| world.exec(&format!("{program}-save")));
    let saved = saved.collect::<String>();
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(" [").next().unwrap().to_owned())
        .collect()
}

fn both_families(world: &World, programs: [&str; 2], write: Write) {
    let [v4, v6] = programs;
    write(world, v4, "10.244.0.0/16", "10.244.3.0/24", "224.0.0.0/4");
    write(world, v6, "fd10:244::/48", "fd10:244:0:3::/64", "ff00::/8");
}

type Write = fn(&World, &str, &str, &str, &str);

/// But that tables are there, and in use.
fn nothing(world: &World, program: &str, _: &str, _: &str, _: &str) {
    world.exec(&format!(
        "{program} -P FORWARD ACCEPT; {program} -t nat -P OUTPUT ACCEPT"
    ));
}

/// Somebody starts flanneld for a moment.
#[test]
fn its_chains_that_come_again_are_removed_and_not_fought_over() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let programs = ["iptables-nft", "ip6tables-nft"];
        both_families(world, programs, nothing);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &dual_stack());
        let without = rules(world, &programs);
        both_families(world, programs, iptables_of_flannel);
        let report = reconciled(&mut firewall, &dual_stack());
        assert_eq!(rules(world, &programs), without);
        assert_eq!((report.repaired.len(), report.is_drift), (4, false));
        assert_eq!(report.notes, [""; 0]);
        assert_eq!(firewall.due(), None);

        // Whoever makes them again so soon would do so for ever.
        both_families(world, programs, iptables_of_flannel);
        let report = reconciled(&mut firewall, &dual_stack());
        assert_eq!(report.repaired, []);
        assert_eq!(report.notes.len(), 4, "{report:?}");
        let why = "of flanneld is there again: either flanneld runs beside weftd";
        assert!(report.notes[0].contains(why), "{report:?}");
        assert_eq!(reconciled(&mut firewall, &dual_stack()).notes, [""; 0]);
        let in_a_minute = Instant::now() + Duration::from_secs(60);
        let due = firewall.due().expect("another look");
        assert!(due <= in_a_minute, "{due:?}");
    });
}

#[test]
fn its_chains_that_come_again_in_iptables_legacy_are_removed_too() {
    if !skip_unless(&["iptables-legacy", "ip6tables-legacy"].map(Need::Tool)) {
        return;
    }
    in_world(|world| {
        let programs = ["iptables-legacy", "ip6tables-legacy"];
        both_families(world, programs, nothing);
        let without = rules(world, &programs);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &dual_stack());
        both_families(world, programs, iptables_of_flannel);
        // Nothing tells of changes in them; a change of what is wanted makes it look before its time.
        assert_eq!(reconciled(&mut firewall, &dual_stack()).repaired, []);
        let mut other = dual_stack();
        other.masquerade.as_mut().unwrap().random_fully = false;
        reconciled(&mut firewall, &other);
        assert_eq!(rules(world, &programs), without);

        both_families(world, programs, iptables_of_flannel);
        let report = reconciled(&mut firewall, &dual_stack());
        assert_eq!(report.notes.len(), 4, "{report:?}");
        assert_ne!(rules(world, &programs), without);
    });
}

#[test]
fn what_a_flanneld_that_is_seen_keeps_stays_until_it_has_ended() {
    if !skip_unless(&[Need::Tool("iptables-nft")]) {
        return;
    }
    in_world(|world| {
        let programs = ["iptables-nft", "ip6tables-nft"];
        both_families(world, programs, nothing);
        let mut firewall = Firewall::open().unwrap();
        reconciled(&mut firewall, &dual_stack());
        let without = rules(world, &programs);
        let name = world.scratch("bin").join("flanneld");
        std::fs::copy("/bin/sleep", &name).unwrap();
        let flanneld = Cmd::new(&name).arg("600").spawn();
        both_families(world, programs, iptables_of_flannel);
        let report = reconciled(&mut firewall, &dual_stack());
        assert_eq!(report.repaired, []);
        let who = format!("flanneld runs beside weftd (process {})", flanneld.pid());
        assert!(report.notes[0].contains(&who), "{report:?}");
        assert!(firewall.due() <= Some(Instant::now() + Duration::from_secs(10)));

        drop(flanneld);
        // Others' changes make it look before that.
        world.exec("nft add table ip other");
        reconciled(&mut firewall, &dual_stack());
        assert_eq!(rules(world, &programs), without);
        assert_eq!(firewall.due(), None);
    });
}

/// Of 0.14, which had no chains of its own.
fn iptables_of_0_14(world: &World, program: &str, net: &str, pod: &str, groups: &str) {
    world.exec(&format!(
        "{program}-restore --noflush <<'EOF'
*nat
-A POSTROUTING -s {net} -d {net} -j RETURN
-A POSTROUTING -s {net} ! -d {groups} -j MASQUERADE --random-fully
-A POSTROUTING ! -s {net} -d {pod} -j RETURN
-A POSTROUTING ! -s {net} -d {net} -j MASQUERADE --random-fully
COMMIT
*filter
-A FORWARD -s {net} -j ACCEPT
-A FORWARD -d {net} -j ACCEPT
COMMIT
EOF"
    ));
}

/// Of those after it, and before 0.20.
fn iptables_of_0_19(world: &World, program: &str, net: &str, pod: &str, groups: &str) {
    let masq = "-m comment --comment \"flanneld masq\"";
    let forward = "-m comment --comment \"flanneld forward\"";
    world.exec(&format!(
        "{program}-restore --noflush <<'EOF'
*nat
-A POSTROUTING -m mark --mark 0x4000/0x4000 {masq} -j RETURN
-A POSTROUTING -s {net} -d {net} {masq} -j RETURN
-A POSTROUTING -s {net} ! -d {groups} {masq} -j MASQUERADE
-A POSTROUTING ! -s {net} -d {pod} {masq} -j RETURN
-A POSTROUTING ! -s {net} -d {net} {masq} -j MASQUERADE
COMMIT
*filter
-A FORWARD -s {net} {forward} -j ACCEPT
-A FORWARD -d {net} {forward} -j ACCEPT
COMMIT
EOF"
    ));
}

#[test]
fn rules_of_0_14_in_iptables_nft_are_removed_and_nothing_besides() {
    old_rules_go(["iptables-nft", "ip6tables-nft"], iptables_of_0_14, 0);
}

#[test]
fn rules_of_0_19_in_iptables_nft_are_removed_and_nothing_besides() {
    old_rules_go(["iptables-nft", "ip6tables-nft"], iptables_of_0_19, 4);
}

#[test]
fn rules_of_0_14_in_iptables_legacy_are_removed_and_nothing_besides() {
    old_rules_go(["iptables-legacy", "ip6tables-legacy"], iptables_of_0_14, 0);
}

#[test]
fn rules_of_0_19_in_iptables_legacy_are_removed_and_nothing_besides() {
    old_rules_go(["iptables-legacy", "ip6tables-legacy"], iptables_of_0_19, 4);
}

/// Where FORWARD drops: four accepts are there in the end, so many of them ours. One of flanneld's
/// that has no comment may be an operator's.
#[track_caller]
fn old_rules_go(programs: [&'static str; 2], old: Write, ours: usize) {
    if !skip_unless(&programs.map(Need::Tool)) {
        return;
    }
    in_world(|world| {
        for program in programs {
            world.exec(&format!(
                "{program} -P FORWARD DROP
                 {program} -t nat -A POSTROUTING -o docker0 -j MASQUERADE"
            ));
        }
        let before = rules(world, &programs);
        both_families(world, programs, old);
        let mut firewall = Firewall::open().unwrap();
        let flanneld_s = rules(world, &programs);
        let told = firewall.inspect(&dual_stack()).unwrap().repaired;
        assert_eq!(rules(world, &programs), flanneld_s);
        let would_go = told.iter().filter(|repair| repair.table.contains("tables"));
        assert!(would_go.count() >= 8, "{told:?}");
        reconciled(&mut firewall, &dual_stack());
        let (accepts, left): (Vec<_>, Vec<_>) = rules(world, &programs)
            .into_iter()
            .partition(|line| line.ends_with("-j ACCEPT"));
        assert_eq!(left, before);
        let are_ours = accepts.iter().filter(|line| line.contains("weft: pods"));
        assert_eq!((accepts.len(), are_ours.count()), (4, ours), "{accepts:?}");
        assert_eq!(reconciled(&mut firewall, &dual_stack()).repaired, []);
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
