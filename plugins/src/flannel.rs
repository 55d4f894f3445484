//! `flannel`: makes a bridge's configuration out of the node's lease, and lets the bridge do it.
//!
//! ADD: settings → lease → the delegate's configuration, saved → the delegate. The other verbs find
//! that configuration saved, or make it anew: neither its loss nor that of the lease leaks a pod.

pub mod scratch;
pub mod settings;
pub mod subnet_env;

use serde_json::{Map, Value};
use weft_cni::{Call, Code, Conf, Delegate, Error, Outcome, Plugin, Result, Verb};

use scratch::{Found, Scratch};
use settings::Settings;
use subnet_env::SubnetEnv;

#[derive(Clone, Copy, Debug)]
pub struct Flannel;

impl Plugin for Flannel {
    fn name(&self) -> &'static str {
        NAME
    }

    fn add(&self, call: &Call) -> Result<Outcome> {
        let settings = Settings::of(&call.conf)?;
        let lease = SubnetEnv::read(&settings.subnet_file)?;
        let handed = Handed::to(call, Conf::new(settings.delegate_conf(&lease))?)?;
        handed.refuse_missing_ipam()?;
        let scratch = Scratch::of(call, &settings.data_dir);
        let file = scratch.save(handed.call.conf.fields())?;
        let added = handed.plugin.add(&handed.call);
        if added.is_err() && handed.undo().is_ok() {
            // What ADD said is what the operator needs.
            let _ = scratch.forget(Some(&file));
        }
        added.map_err(|error| error.within("failed to delegate add"))
    }

    fn del(&self, call: &Call) -> Result<()> {
        let settings = Settings::for_clean_up(&call.conf)?;
        let scratch = Scratch::of(call, &settings.data_dir);
        let (conf, file) = match scratch.find() {
            Found::Conf(conf, file) => (conf.fields().clone(), Some(file)),
            Found::Spoilt(file) => (made_anew(call, &settings), Some(file)),
            Found::Nothing => (made_anew(call, &settings), None),
        };
        let handed = match Handed::to(call, with_prev_result(call, conf)?) {
            // ADD saves a file after it has found its delegate: without the one there was no other.
            Err(_) if file.is_none() => return scratch.forget(None),
            handed => handed?,
        };
        let deleted = handed.plugin.del(&handed.call);
        deleted.map_err(|error| error.within("failed to delegate del"))?;
        scratch.forget(file.as_deref())
    }

    fn check(&self, call: &Call) -> Result<()> {
        let settings = Settings::of(&call.conf)?;
        let conf = match Scratch::of(call, &settings.data_dir).find() {
            Found::Conf(conf, _) => conf.fields().clone(),
            Found::Spoilt(_) | Found::Nothing => {
                settings.delegate_conf(&SubnetEnv::read(&settings.subnet_file)?)
            }
        };
        let handed = Handed::to(call, with(call, conf, &["cniVersion", "prevResult"])?)?;
        handed.plugin.check(&handed.call)
    }

    fn gc(&self, call: &Call) -> Result<()> {
        let Some(living) = call.conf.attachments()? else {
            return Ok(());
        };
        let settings = Settings::for_clean_up(&call.conf)?;
        let handed = Handed::to(call, with(call, made_anew(call, &settings), &LIVING)?)?;
        handed.plugin.gc(&handed.call)?;
        scratch::prune(&settings.data_dir, call.network(), &living)
    }

    fn status(&self, call: &Call) -> Result<()> {
        let unready = |error: Error| Error {
            code: Code::NotAvailable,
            ..error
        };
        let settings = Settings::of(&call.conf)?;
        let lease = SubnetEnv::read(&settings.subnet_file).map_err(unready)?;
        let conf = Conf::new(settings.delegate_conf(&lease))?;
        let handed = Handed::to(call, conf).map_err(unready)?;
        handed.plugin.status(&handed.call)
    }
}

/// A call as the delegate gets it.
struct Handed {
    plugin: Delegate,
    call: Call,
}

impl Handed {
    fn to(call: &Call, conf: Conf) -> Result<Self> {
        Ok(Self {
            plugin: Delegate::find(call, delegate_type(&conf)?)?,
            call: call.with_conf(conf),
        })
    }

    /// Our bridge cannot undo nor delete what it did without the plugin that manages its addresses,
    /// so a pod is not begun without it. What other delegates need is theirs to know.
    fn refuse_missing_ipam(&self) -> Result<()> {
        let ipam = self
            .call
            .conf
            .ipam_type()?
            .filter(|_| self.plugin.is_ours());
        let found = ipam
            .map(|ipam| Delegate::find(&self.call, ipam))
            .transpose();
        found
            .map(drop)
            .map_err(|error| error.within("failed to delegate add"))
    }

    fn undo(&self) -> Result<()> {
        let mut call = self.call.clone();
        call.env.verb = Verb::Del;
        self.plugin.del(&call)
    }
}

/// The plugin that a delegate's configuration names. Were it this one, it would call itself for ever.
fn delegate_type(conf: &Conf) -> Result<&str> {
    match conf.object().text("type")? {
        Some(NAME) => Err(Error::config("flannel cannot be its own delegate")),
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Error::config("the delegate has no 'type'")),
    }
    .map_err(|error| error.with_details("\"delegate\" → \"type\" names a plugin such as bridge"))
}

/// The delegate's configuration where the saved one is lost, from as much as is still known.
fn made_anew(call: &Call, settings: &Settings) -> Map<String, Value> {
    let lease = SubnetEnv::read(&settings.subnet_file).unwrap_or_else(|_| {
        let prev = call.conf.prev_result().ok().flatten();
        SubnetEnv::assumed(prev.as_ref())
    });
    settings.delegate_conf(&lease)
}

/// `conf` with the result of ADD, unless that has another shape than its version's: a saved
/// configuration keeps the version in which its delegate was called then.
fn with_prev_result(call: &Call, conf: Map<String, Value>) -> Result<Conf> {
    let told = with(call, conf.clone(), &["prevResult"])?;
    match told.prev_result() {
        Ok(_) => Ok(told),
        Err(_) => Conf::new(conf),
    }
}

/// `conf` with what the runtime says under `keys`.
fn with(call: &Call, mut conf: Map<String, Value>, keys: &[&str]) -> Result<Conf> {
    for key in keys {
        if let Some(value) = call.conf.object().get_with_null(key) {
            conf.insert((*key).to_owned(), value.clone());
        }
    }
    Conf::new(conf)
}

const NAME: &str = "flannel";
/// The attachments that live, under the name that the specification gave them, and its older one.
const LIVING: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

#[cfg(test)]
mod tests {
    use std::{env, fs, os::unix::fs::symlink, path::PathBuf};

    use proptest::prelude::*;
    use serde_json::json;
    use weft_cni::{Address, Environment};

    use super::*;

    /// A delegate in this process, which has what it is told in its answer.
    #[derive(Debug)]
    struct Bridge;

    impl Plugin for Bridge {
        fn name(&self) -> &'static str {
            "bridge"
        }

        fn add(&self, call: &Call) -> Result<Outcome> {
            let ranges = call.conf.object().get("ipam").map(|ipam| &ipam["ranges"]);
            let subnet = ranges.and_then(|ranges| ranges[0][0]["subnet"].as_str());
            Ok(Outcome {
                ips: vec![Address {
                    interface: None,
                    address: subnet.unwrap_or_default().parse().unwrap(),
                    gateway: None,
                }],
                ..Outcome::default()
            })
        }

        fn del(&self, call: &Call) -> Result<()> {
            call.conf.prev_result().map(drop)
        }

        fn check(&self, _: &Call) -> Result<()> {
            Ok(())
        }

        fn gc(&self, _: &Call) -> Result<()> {
            Ok(())
        }

        fn status(&self, _: &Call) -> Result<()> {
            Ok(())
        }
    }

    static SUITE: &[&dyn Plugin] = &[&Flannel, &Bridge];

    /// A node of its own for each test: a lease, and plugins that are links to this executable.
    fn node(test: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("weft-flannel-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("data")).unwrap();
        for name in ["bridge", "flannel", "host-local"] {
            symlink(env::current_exe().unwrap(), dir.join(name)).unwrap();
        }
        let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
            FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        fs::write(dir.join("subnet.env"), lease).unwrap();
        dir
    }

    fn call(dir: &std::path::Path, verb: Verb, mut conf: Value) -> Option<Call> {
        conf["subnetFile"] = dir.join("subnet.env").to_str().into();
        conf["dataDir"] = dir.join("data").to_str().into();
        let vars = |name: &str| match name {
            "CNI_CONTAINERID" => Some("c1".to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => Some("/nowhere".to_owned()),
            "CNI_PATH" => dir.to_str().map(str::to_owned),
            _ => None,
        };
        Some(Call {
            env: Environment::read(verb, vars).unwrap(),
            conf: Conf::parse(conf.to_string().as_bytes()).ok()?,
            suite: SUITE,
        })
    }

    #[test]
    fn a_delegate_in_this_executable_is_called_in_this_process() {
        let dir = node("in-process");
        let conf = json!({"name": "n", "cniVersion": "1.1.0"});
        let outcome = Flannel.add(&call(&dir, Verb::Add, conf.clone()).unwrap());
        assert_eq!(outcome.unwrap().ips[0].address.to_string(), "10.1.17.0/24");
        assert!(dir.join("data/c1").exists());
        Flannel.del(&call(&dir, Verb::Del, conf).unwrap()).unwrap();
        assert_eq!(fs::read_dir(dir.join("data")).unwrap().count(), 0);
        fs::remove_dir_all(dir).unwrap();
    }

    /// It would call itself until the stack ends.
    #[test]
    fn a_file_that_names_flannel_as_its_delegate_does_not_recurse() {
        let dir = node("recursion");
        let conf = json!({"name": "n", "delegate": {"type": "flannel"}});
        let add = Flannel.add(&call(&dir, Verb::Add, conf.clone()).unwrap());
        assert_eq!(add.unwrap_err().code, Code::InvalidConfig);
        fs::write(dir.join("data/c1"), r#"{"name":"n","type":"flannel"}"#).unwrap();
        let del = Flannel.del(&call(&dir, Verb::Del, json!({"name": "n"})).unwrap());
        assert!(del.is_ok() && !dir.join("data/c1").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "(bridge|flannel|n|1\\.0\\.0|0\\.3\\.1|10\\.1\\.17\\.5/24|\\PC{0,4})"
                .prop_map(Value::from),
        ];
        let key = "(type|name|ipam|routes|dst|ranges|delegate|cniVersion|prevResult|ips|address)";
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..3);
            let fields = proptest::collection::vec((key, inner), 0..5);
            prop_oneof![
                list.prop_map(Value::from),
                fields.prop_map(|fields| fields.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_configuration_and_no_file_makes_a_verb_panic(
            delegate in json(), ipam in json(), prev in json(), saved in json(), lost in any::<bool>(),
        ) {
            let dir = node("anything");
            fs::write(dir.join("data/c1"), saved.to_string()).unwrap();
            if lost {
                fs::remove_file(dir.join("subnet.env")).unwrap();
            }
            let conf = json!({"name": "n", "cniVersion": "1.1.0", "delegate": delegate,
                "ipam": ipam, "prevResult": prev, "cni.dev/valid-attachments": []});
            for verb in Verb::ALL {
                let Some(call) = call(&dir, verb, conf.clone()) else { continue };
                let _ = match verb {
                    Verb::Add => Flannel.add(&call).map(drop),
                    Verb::Check => Flannel.check(&call),
                    Verb::Del => Flannel.del(&call),
                    Verb::Gc => Flannel.gc(&call),
                    Verb::Status => Flannel.status(&call),
                };
            }
            fs::remove_dir_all(dir).unwrap();
        }
    }
}
