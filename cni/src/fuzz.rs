//! What fuzzing feeds: the readers of what runtimes and delegates say.

use serde_json::Value;

use crate::{Args, Conf, Environment, Outcome, Verb, Version};

/// A configuration, and everything that every plugin reads of one.
pub fn conf(text: &[u8]) {
    let Ok(conf) = Conf::parse(text) else { return };
    let again = Value::from(conf.fields().clone()).to_string();
    let again = Conf::parse(again.as_bytes()).expect("what was read is written readably");
    assert_eq!(
        (conf.name(), conf.version()),
        (again.name(), again.version())
    );
    let _ = (conf.prev_result(), conf.runtime_config(), conf.cni_args());
    let _ = (conf.ipam_type(), conf.attachments());
}

/// A result, in each version's form: what is written is read again, and is written the same.
pub fn result(text: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(text) else {
        return;
    };
    for version in Version::ALL {
        let _ = Outcome::from_json(&value, version);
        let Ok(outcome) = Outcome::from_json_of_any_version(&value, version) else {
            continue;
        };
        for version in Version::ALL {
            let Ok(written) = outcome.to_json(version) else {
                continue;
            };
            let read = Outcome::from_json(&written, version).expect("what is written is read");
            let again = read.to_json(version).expect("what is read is written");
            assert_eq!(written, again, "{version}");
        }
    }
}

/// `CNI_ARGS`.
pub fn args(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for known in [&["IP", "MAC"][..], &[]] {
        if let Ok(args) = Args::parse(&text, known) {
            assert!(args.get("IP").is_none_or(|value| text.contains(value)));
        }
    }
}

/// The variables, each a line `NAME=VALUE`: none that is accepted can leave its directory.
pub fn environment(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let variable = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(str::to_owned)
    };
    for verb in Verb::ALL {
        let Ok(env) = Environment::read(verb, variable) else {
            continue;
        };
        let for_one = !env.container_id.is_empty() || !env.ifname.is_empty();
        if env.judge().is_ok() && for_one && !matches!(verb, Verb::Gc | Verb::Status) {
            assert!(!env.container_id.contains(['/', '\0']) && !env.container_id.starts_with('.'));
            assert!(!env.ifname.contains(['/', '\0']) && !matches!(&*env.ifname, "." | ".."));
        }
    }
}
