use super::*;
use proptest::prelude::*;

fn run(args: &[&str]) -> Options {
    run_in(args, &[])
}

fn run_in(args: &[&str], env: &[(&str, &str)]) -> Options {
    match parse(args, env) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn mistake(args: &[&str]) -> Mistake {
    parse(args, &[]).expect_err(&format!("{args:?}"))
}

fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Command, Mistake> {
    Options::parse(args.iter().map(|a| (*a).to_owned()), |name| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn etcd(options: &Options) -> &Etcd {
    match &options.store {
        Store::Etcd(etcd) => etcd,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_flags_all_is_as_with_flanneld() {
    let options = run(&[]);
    assert_eq!(
        etcd(&options).endpoints,
        ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]
    );
    assert_eq!(etcd(&options).prefix, "/coreos.com/network");
    assert_eq!(
        options.subnet_file,
        PathBuf::from("/run/flannel/subnet.env")
    );
    assert_eq!(options.renew_margin, Duration::from_secs(3600));
    assert!(!options.masquerade.on && options.masquerade.random_fully);
    assert!(options.forward_rules && !options.blackhole_route && options.peer_guard);
    assert_eq!(options.health, None);
    assert_eq!(options.interface, Wanted::default());
    assert_eq!(options.warnings, [""; 0]);
}

#[test]
fn what_a_flag_is_by_default_is_what_help_says_it_is() {
    let plain = run(&[]);
    for flag in FLAGS
        .iter()
        .filter(|f| f.in_environment && !f.default.is_empty())
    {
        if !matches!(flag.name, "store" | "node-name") {
            let explicit = run(&[&format!("-{}={}", flag.name, flag.default)]);
            assert_eq!(explicit, plain, "{}", flag.name);
        }
    }
}

#[test]
fn kube_flannels_own_command_line_is_understood() {
    let options = run_in(
        &["--ip-masq", "--kube-subnet-mgr", "--healthz-port=8081"],
        &[
            ("POD_NAME", "kube-flannel-ds-x"),
            ("POD_NAMESPACE", "kube-flannel"),
        ],
    );
    let Store::Kube(kube) = &options.store else {
        panic!("{:?}", options.store)
    };
    assert_eq!(kube.annotation_prefix, "flannel.alpha.coreos.com/");
    let pod = ("kube-flannel".to_owned(), "kube-flannel-ds-x".to_owned());
    assert_eq!(kube.pod, Some(pod));
    assert!(options.masquerade.on);
    assert_eq!(options.health, Some("0.0.0.0:8081".parse().unwrap()));
}

#[test]
fn a_flag_is_written_in_each_of_gos_ways() {
    for args in [
        &["-etcd-prefix=/n"][..],
        &["--etcd-prefix=/n"],
        &["-etcd-prefix", "/n"],
        &["--etcd-prefix", "/n"],
        &["-etcd-prefix=/other", "-etcd-prefix=/n"],
    ] {
        assert_eq!(etcd(&run(args)).prefix, "/n", "{args:?}");
    }
    assert_eq!(etcd(&run(&["-etcd-prefix", "-v"])).prefix, "-v");
    assert_eq!(etcd(&run(&["-etcd-prefix=a=b"])).prefix, "a=b");
    for (args, on) in [
        ("-ip-masq", true),
        ("-ip-masq=1", true),
        ("--ip-masq=F", false),
    ] {
        assert_eq!(run(&[args]).masquerade.on, on, "{args}");
    }
}

#[test]
fn what_follows_an_argument_that_is_no_flag_is_passed_over_and_told() {
    let options = run(&["-ip-masq", "false", "-v=3"]);
    assert!(options.masquerade.on);
    assert_eq!(options.log.verbosity, 0);
    assert!(
        options.warnings[0].contains("\"false\""),
        "{:?}",
        options.warnings
    );
    let options = run(&["--", "-v=3"]);
    assert_eq!((options.log.verbosity, options.warnings), (0, vec![]));
}

#[test]
fn interfaces_are_repeated_and_keep_their_order() {
    let options = run(&[
        "-iface=eth1",
        "--iface",
        "192.168.9.181",
        "-iface-regex=^10\\.",
    ]);
    assert_eq!(options.interface.names, ["eth1", "192.168.9.181"]);
    assert_eq!(options.interface.regexes, ["^10\\.".parse().unwrap()]);
    let options = run_in(&[], &[("FLANNELD_IFACE", "eth1,eth2")]);
    assert_eq!(
        options.interface.names,
        ["eth1,eth2"],
        "one value, never a list"
    );
}

#[test]
fn the_command_line_wins_over_weftds_environment_and_that_over_flannelds() {
    let env = [("FLANNELD_ETCD_PREFIX", "/f"), ("WEFTD_ETCD_PREFIX", "/w")];
    assert_eq!(etcd(&run_in(&[], &env[..1])).prefix, "/f");
    assert_eq!(etcd(&run_in(&[], &env)).prefix, "/w");
    assert_eq!(etcd(&run_in(&["-etcd-prefix=/c"], &env)).prefix, "/c");
    let empty = [("WEFTD_ETCD_PREFIX", ""), ("FLANNELD_ETCD_PREFIX", "/f")];
    assert_eq!(etcd(&run_in(&[], &empty)).prefix, "/f");
}

#[test]
fn nonsense_in_the_environment_is_told_and_the_start_goes_on() {
    let options = run_in(
        &[],
        &[
            ("FLANNELD_IP_MASQ", "yes"),
            ("FLANNELD_HEALTHZ_PORT", "http"),
            ("FLANNELD_V", "2"),
        ],
    );
    assert!(!options.masquerade.on);
    assert_eq!(options.log.verbosity, 2);
    assert_eq!(options.warnings.len(), 2, "{:?}", options.warnings);
    assert!(
        options
            .warnings
            .iter()
            .any(|w| w.contains("FLANNELD_IP_MASQ=yes"))
    );
}

#[test]
fn a_version_in_the_environment_ends_nothing() {
    let env = [("FLANNELD_VERSION", "true"), ("WEFTD_CLEANUP", "true")];
    assert_eq!(run_in(&[], &env).warnings, [""; 0]);
}

#[test]
fn an_unknown_flag_is_an_error_that_ends_with_2_and_names_the_nearest() {
    let mistake = mistake(&["--ip-mask"]);
    assert_eq!(mistake.exit_code(), 2);
    assert!(
        mistake.to_string().contains("did you mean -ip-masq?"),
        "{mistake}"
    );
}

#[test]
fn each_wrong_value_is_told_with_its_flag_and_what_would_be_right() {
    for (arg, wanted) in [
        ("-ip-masq=maybe", "true or false"),
        ("-healthz-port=70000", "0 to 65535"),
        ("-healthz-ip=nowhere", "IP address"),
        ("-public-ip=fd00::1", "IPv4"),
        ("-public-ipv6=10.0.0.1", "IPv6"),
        ("-iface-can-reach=example.com", "IP address"),
        ("-iface-regex=(", "regular expression"),
        ("-iptables-resync=0", "1 or more"),
        ("-etcd-endpoints=,", "at least one endpoint"),
        ("-kube-annotation-prefix=a/b/c", "at most one slash"),
        ("-store=consul", "etcd, embedded or kube"),
        ("-store=embedded", "-embedded-dir"),
        ("-vxlan-checksum=no", "auto, on or off"),
        ("-log-format=xml", "text or json"),
        ("-no-masquerade-cidr=10.0.0.0/33", "a network"),
        ("-subnet-file=", "a path"),
        ("-etcd-prefix", "needs a value"),
        ("-=x", "not a flag"),
        ("---v", "not a flag"),
    ] {
        let mistake = mistake(&[arg]);
        assert!(mistake.to_string().contains(wanted), "{arg}: {mistake}");
        assert!(
            mistake.to_string().contains(arg.split('=').next().unwrap()),
            "{arg}: {mistake}"
        );
        assert_eq!(mistake.exit_code(), 2);
    }
}

#[test]
fn a_margin_out_of_range_ends_with_1_as_flanneld_does() {
    for margin in ["0", "1440", "-5"] {
        let mistake = mistake(&["-subnet-lease-renew-margin", margin]);
        assert_eq!(mistake.exit_code(), 1, "{mistake}");
    }
    let widest = run(&["-subnet-lease-renew-margin=1439"]).renew_margin;
    assert_eq!(widest, Duration::from_secs(1439 * 60));
}

#[test]
fn the_store_follows_from_what_is_given() {
    let store = |args: &[&str]| run(args).store.name();
    assert_eq!(store(&[]), "etcd");
    assert_eq!(store(&["-embedded-dir=/d"]), "embedded");
    assert_eq!(store(&["-kube-subnet-mgr", "-embedded-dir=/d"]), "kube");
    assert_eq!(store(&["-kube-subnet-mgr", "-store=etcd"]), "etcd");
}

#[test]
fn half_a_client_certificate_is_none_and_told() {
    let options = run(&["-etcd-keyfile=/k", "-etcd-cafile=/ca"]);
    assert_eq!(etcd(&options).key_file, None);
    assert_eq!(etcd(&options).ca_file, Some("/ca".into()));
    assert!(options.warnings[0].contains("-etcd-certfile"));
}

#[test]
fn resync_goes_by_flannelds_name_too() {
    assert_eq!(run(&["-iptables-resync=7"]).resync, Duration::from_secs(7));
    assert_eq!(
        run(&["-iptables-resync=7", "-resync=9"]).resync,
        Duration::from_secs(9)
    );
}

#[test]
fn the_password_is_in_no_debug_output() {
    let options = run(&["-etcd-username=root", "-etcd-password=hunter2"]);
    assert_eq!(etcd(&options).password.as_deref(), Some("hunter2"));
    assert!(!format!("{options:?}").contains("hunter2"));
}

#[test]
fn help_version_and_cleanup_are_commands_of_their_own() {
    assert!(matches!(parse(&["-h"], &[]), Ok(Command::Help(_))));
    assert!(matches!(
        parse(&["-v=1", "--help"], &[]),
        Ok(Command::Help(_))
    ));
    assert_eq!(parse(&["--version"], &[]), Ok(Command::Version));
    assert!(matches!(
        parse(&["--version=false"], &[]),
        Ok(Command::Run(_))
    ));
    assert!(matches!(
        parse(&["--cleanup"], &[]),
        Ok(Command::Cleanup(_))
    ));
}

#[test]
fn klogs_flags_are_taken() {
    let options = run(&[
        "-v=10",
        "-vmodule=subnet=4",
        "-logtostderr=false",
        "-log_backtrace_at=:0",
    ]);
    assert_eq!(options.log.verbosity, 10);
    assert_eq!(options.warnings.len(), 1);
}

#[test]
fn the_node_is_called_what_the_flag_says_else_what_the_environment_says() {
    let env = [("NODE_NAME", "node-7")];
    assert_eq!(run_in(&[], &env).node.name.as_deref(), Some("node-7"));
    assert_eq!(
        run_in(&["-node-name=other"], &env).node.name.as_deref(),
        Some("other")
    );
    assert_eq!(
        run(&["-machine-id=abc"]).node.machine_id,
        MachineId::Is("abc".into())
    );
}

proptest! {
    #[test]
    fn no_command_line_makes_it_panic(args: Vec<String>, value: String) {
        let _ = Options::parse(args, |_| None);
        let _ = Options::parse([], |_| Some(value.clone()));
    }

    #[test]
    fn no_value_of_any_flag_makes_it_panic(index in 0..FLAGS.len(), value: String) {
        let _ = Options::parse([format!("--{}={value}", FLAGS[index].name)], |_| None);
    }
}

#[test]
fn a_configuration_for_the_runtime_has_a_source_or_is_not_meant() {
    let told = run(&[
        "--cni-conf-source=/a/conf",
        "--cni-conf-dir=/b",
        "--cni-conf-put-aside",
    ]);
    let conflist = told.conflist.unwrap();
    assert_eq!(conflist.source.to_str(), Some("/a/conf"));
    assert_eq!(conflist.dir.to_str(), Some("/b"));
    assert!(conflist.puts_aside && told.warnings.is_empty());
    let found = run(&["--cni-conf-source=/a/conf"]).conflist.unwrap();
    assert_eq!(
        found.dir,
        crate::distribution::Distribution::here().conf_dir
    );
    assert!(!found.puts_aside);
    for lone in ["--cni-conf-dir=/b", "--cni-conf-put-aside"] {
        let told = run(&[lone]);
        assert_eq!(told.conflist, None);
        assert!(
            told.warnings[0].contains("-cni-conf-source"),
            "{:?}",
            told.warnings
        );
    }
}
