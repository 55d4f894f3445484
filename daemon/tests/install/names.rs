//! Flannel's manifests call programs of flannel's images: ours answer to their names.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use weft_netns::{Cmd, World, in_world};

use crate::names;

/// The program under another name.
fn called(world: &World, name: &str) -> PathBuf {
    let path = world.scratch("image").join(name);
    symlink(env!("CARGO_BIN_EXE_weft"), &path).unwrap();
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn cp_copies_a_file_over_one_that_runs_and_into_a_directory() {
    in_world(|world| {
        let (image, bin) = (world.scratch("root"), world.scratch("bin"));
        let cp = called(world, "cp");
        let (flannel, target) = (image.join("flannel"), bin.join("flannel"));
        fs::write(&flannel, "ours").unwrap();
        fs::set_permissions(&flannel, fs::Permissions::from_mode(0o755)).unwrap();
        let sleep = world.exec("command -v sleep");
        fs::copy(sleep.trim(), &target).unwrap();
        let running = Cmd::new(&target).arg("60").spawn();
        Cmd::new(&cp)
            .arg("-f")
            .arg(&flannel)
            .arg(&target)
            .run()
            .ok();
        assert!(!running.ends_within(std::time::Duration::ZERO));
        assert_eq!(fs::read_to_string(&target).unwrap(), "ours");
        assert_eq!(mode(&target), 0o755);
        fs::remove_file(&target).unwrap();
        Cmd::new(&cp).arg(&flannel).arg(&bin).run().ok();
        assert_eq!(names(&bin), ["flannel"]);

        let done = Cmd::new(&cp).args(["-f", "/flannel"]).run();
        assert_eq!(done.code(), Some(2));
        assert!(
            done.stderr.contains("cp [-f] SOURCE TARGET"),
            "{}",
            done.stderr
        );
        let done = Cmd::new(&cp).args(["-f", "/nowhere"]).arg(&target).run();
        assert_eq!(done.code(), Some(1));
        assert!(
            done.stderr.starts_with("cp: read /nowhere: No such file"),
            "{}",
            done.stderr
        );
    });
}

#[test]
fn install_conf_puts_a_file_for_all_to_read() {
    in_world(|world| {
        let dir = world.scratch("net.d");
        let source = world.scratch("cfg").join("cni-conf.json");
        fs::write(&source, "{}").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o600)).unwrap();
        let target = dir.join("10-flannel.conflist");
        let install_conf = called(world, "install-conf");
        Cmd::new(install_conf).arg(&source).arg(&target).run().ok();
        assert_eq!(fs::read_to_string(&target).unwrap(), "{}");
        assert_eq!(mode(&target), 0o644);
        assert_eq!(names(&dir), ["10-flannel.conflist"]);
    });
}

#[test]
fn docker_opts_are_written_by_either_name_and_never_from_nothing() {
    in_world(|world| {
        let dir = world.scratch("docker");
        let (env, out) = (dir.join("subnet.env"), dir.join("docker"));
        let write = |program: &Path, args: &[&str]| {
            let cmd = Cmd::new(program)
                .args(args)
                .arg("-f")
                .arg(&env)
                .arg("-d")
                .arg(&out);
            cmd.env("DOCKER_NETWORK_OPTIONS", "--debug").run()
        };
        let script = called(world, "mk-docker-opts.sh");
        fs::write(&out, "as before").unwrap();
        let done = write(&script, &[]);
        assert_eq!(done.code(), Some(1));
        assert!(
            done.stderr.contains("weftd writes it once it has a subnet"),
            "{}",
            done.stderr
        );
        fs::write(&env, "FLANNEL_IPV6_SUBNET=fd05::1/64\n").unwrap();
        assert!(write(&script, &[]).stderr.contains("no IPv4 subnet"));
        assert_eq!(fs::read_to_string(&out).unwrap(), "as before");

        fs::write(
            &env,
            "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\n\
             FLANNEL_IPMASQ=true\n",
        )
        .unwrap();
        write(&script, &["-k", "DOCKER_NETWORK_OPTIONS", "-c"]).ok();
        assert_eq!(
            fs::read_to_string(&out).unwrap(),
            "DOCKER_NETWORK_OPTIONS=\"--debug --bip=10.1.74.1/24 --ip-masq=false --mtu=1472 \"\n"
        );
        write(
            Path::new(env!("CARGO_BIN_EXE_weft")),
            &["docker-opts", "-im"],
        )
        .ok();
        assert_eq!(
            fs::read_to_string(&out).unwrap(),
            "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n"
        );
    });
}
