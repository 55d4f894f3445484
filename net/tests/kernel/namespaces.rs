//! Namespaces, and settings inside them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use weft_net::route::NewVeth;
use weft_net::sysctl::{Key, Outcome};
use weft_net::{Namespace, Rtnl, Why};

use crate::world::{fresh_namespace, in_fresh_namespace, output, veth};

#[test]
fn a_missing_path_and_one_that_is_no_namespace_are_different_errors() {
    let missing = Namespace::open("/run/netns/there-is-none-such").unwrap_err();
    assert!(missing.is_not_found());
    let folder = std::env::temp_dir();
    for no_namespace in [folder.to_str().unwrap(), "/dev/null"] {
        let error = Namespace::open(no_namespace).unwrap_err();
        assert_eq!(error.why(), &Why::NotANamespace);
        assert!(error.to_string().contains(no_namespace), "{error}");
    }
}

#[test]
fn a_namespace_of_another_kind_cannot_be_entered() {
    let uts = Namespace::open("/proc/self/ns/uts").unwrap();
    assert_eq!(uts.enter(|| ()).unwrap_err().why(), &Why::NotANamespace);
}

#[test]
fn a_namespace_is_entered_and_left_again() {
    in_fresh_namespace(|| {
        let home = Namespace::current().unwrap();
        let away = fresh_namespace();
        assert!(!home.same_as(&away));
        let inside = away.enter(|| Namespace::current().unwrap()).unwrap();
        assert!(inside.same_as(&away));
        assert!(Namespace::current().unwrap().same_as(&home));
    });
}

#[test]
fn a_panic_inside_does_not_leave_the_thread_there() {
    in_fresh_namespace(|| {
        let home = Namespace::current().unwrap();
        let away = fresh_namespace();
        let outcome = catch_unwind(AssertUnwindSafe(|| away.enter(|| panic!("of the test"))));
        assert!(outcome.is_err());
        assert!(Namespace::current().unwrap().same_as(&home));
    });
}

#[test]
fn a_connection_opened_in_a_namespace_stays_there() {
    in_fresh_namespace(|| {
        let away = fresh_namespace();
        let mut there = Rtnl::open_in(&away).unwrap();
        there
            .one(|r| {
                r.create_veth(&NewVeth {
                    up: true,
                    ..veth("v1", "v2")
                })
            })
            .unwrap();
        assert!(Rtnl::open().unwrap().link("v1").unwrap_err().is_not_found());
        assert!(
            away.enter(|| output("ip link show v1"))
                .unwrap()
                .contains("UP")
        );
    });
}

#[test]
fn a_setting_is_written_only_if_it_differs() {
    in_fresh_namespace(|| {
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.one(|r| r.create_veth(&veth("eth0.5", "v2"))).unwrap();
        let forwarding = Key::ipv4_conf("eth0.5", "forwarding").unwrap();
        assert_eq!(forwarding.set("1").unwrap(), Outcome::Changed);
        assert_eq!(forwarding.set("1").unwrap(), Outcome::Unchanged);
        assert_eq!(forwarding.read().unwrap().as_deref(), Some("1"));
        assert_eq!(
            output("cat /proc/sys/net/ipv4/conf/eth0.5/forwarding"),
            "1\n"
        );
    });
}

#[test]
fn a_setting_this_kernel_lacks_is_not_an_error_but_one_that_cannot_be_written_is() {
    let absent = Key::new(["net", "ipv4", "no_such_setting"]).unwrap();
    assert_eq!(absent.read().unwrap(), None);
    assert_eq!(absent.set("1").unwrap(), Outcome::NotSupported);
    // Root may read it, and nobody may write it.
    let fixed = Key::new(["kernel", "ostype"]).unwrap();
    assert_eq!(fixed.set("Linux").unwrap(), Outcome::Unchanged);
    let error = fixed.set("Plan 9").unwrap_err();
    assert!(error.is_read_only(), "{error}");
    assert!(
        error
            .to_string()
            .contains("/proc/sys/kernel/ostype to Plan 9 (it is Linux)")
    );
}
