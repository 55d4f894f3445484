//! What runs without Kubernetes, and the two ways to the image: they agree with the rest.

use weft_daemon::options::{Command, Options};
use weft_netns::Cmd;

use crate::documents::{path, text};

/// The values of a key, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let pairs = unit.lines().filter_map(|line| line.split_once('='));
    pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .collect()
}

#[test]
fn the_unit_starts_weftd_as_weftd_can_be_started() {
    let unit = text("systemd/weftd.service");
    let start = values(&unit, "ExecStart")[0];
    let mut words = start.split_whitespace().map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("/usr/local/sbin/weftd"));
    let examples = unit
        .lines()
        .filter_map(|line| line.strip_prefix("#   ")?.split_once('='));
    let examples: Vec<(&str, &str)> = examples.collect();
    assert_eq!(examples.len(), 2);
    let env = |name: &str| {
        let found = examples.iter().find(|(key, _)| *key == name)?;
        Some(found.1.to_owned())
    };
    let Ok(Command::Run(options)) = Options::parse(words, env) else {
        panic!("{start}");
    };
    assert_eq!(options.warnings, [""; 0]);
    assert!(
        format!("{:?}", options.store).contains("192.0.2.1"),
        "{:?}",
        options.store
    );
    // systemd makes them, and keeps them over a restart.
    assert_eq!(options.run_dir.to_str(), Some("/run/weft"));
    assert_eq!(options.state_dir.to_str(), Some("/var/lib/weft"));
    for (key, value) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("FileDescriptorStoreMax", "256"),
    ] {
        assert_eq!(values(&unit, key), [value]);
    }
}

#[test]
fn systemd_knows_every_line_where_there_is_one() {
    if !Cmd::shell("command -v systemd-analyze").run().success() {
        return;
    }
    let verify = Cmd::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]);
    let done = verify.arg(path("systemd/weftd.service")).run();
    for complaint in [
        "Unknown key",
        "Unknown lvalue",
        "Failed to parse",
        "Invalid",
    ] {
        assert!(!done.stderr.contains(complaint), "{}", done.stderr);
    }
}

#[test]
fn docker_opts_are_written_where_docker_reads_them() {
    let unit = text("systemd/docker.service.d/weft.conf");
    let write = values(&unit, "ExecStartPre")[0];
    let read = values(&unit, "EnvironmentFile")[0].trim_start_matches('-');
    let key = write
        .split_whitespace()
        .skip_while(|word| *word != "-k")
        .nth(1)
        .unwrap();
    assert!(write.ends_with(read), "{write}");
    let starts = values(&unit, "ExecStart");
    assert!(starts[0].is_empty() && starts[1].ends_with(&format!("${key}")));
}

/// The Dockerfile is not built here, for that needs a registry: what it says of the image is what
/// the image of our own making says.
#[test]
fn the_dockerfile_makes_the_image_that_we_make() {
    let dockerfile = text("../Dockerfile");
    let (build, last) = dockerfile
        .split_once("FROM scratch\n")
        .expect("a stage from nothing");
    assert!(build.contains("make image-root"));
    let lines: Vec<&str> = last.lines().collect();
    assert_eq!(
        lines,
        [
            "COPY --from=build /src/dist/image/ /",
            "ENV PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin",
            "ENTRYPOINT [\"/opt/bin/weftd\"]",
        ]
    );
    let ours = text("src/image.rs");
    assert!(ours.contains("PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin"));
    assert!(ours.contains(r#""Entrypoint": ["/opt/bin/weftd"]"#));
}

#[test]
fn one_name_of_the_image_stands_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let image = format!("localhost/weft:{version}");
    assert_eq!(text("base/daemonset.yaml").matches(&image).count(), 2);
    assert_eq!(text("weft.yaml").matches(&image).count(), 2);
    let values = text("chart/weft/values.yaml");
    assert!(values.contains("repository: localhost/weft\n"));
    assert!(values.contains(&format!("tag: \"{version}\"\n")));
    let chart = text("chart/weft/Chart.yaml");
    assert!(chart.contains(&format!("version: {version}\nappVersion: \"{version}\"")));
}
