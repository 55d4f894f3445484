//! A network's whole chain of plugins, called the way libcni calls it.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cni::{Attachment, Call, Cni, Verb};
use crate::command::Cmd;
use crate::faults::{Outcome, Trace, kill_at_syscall, trace};

/// A conflist, the plugins that carry it out, and the results a runtime caches.
/// Clones share the cache, and may be used from several threads.
#[derive(Clone, Debug)]
pub struct Chain {
    cni: Cni,
    way: Way,
    conflist: Value,
    cache: Arc<Mutex<BTreeMap<Key, Cached>>>,
}

/// How plugins are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Straight,
    Traced,
    KilledAt(u64),
}

/// Container and interface.
type Key = (String, String);

#[derive(Clone, Debug)]
struct Cached {
    who: Attachment,
    result: Value,
}

impl Chain {
    /// A conflist, or a configuration of a single plugin.
    pub fn new(cni: &Cni, config: Value) -> Self {
        let conflist = if config.get("plugins").is_some() {
            config
        } else {
            let mut list = json!({ "name": config["name"], "plugins": [config] });
            if let Some(version) = config.get("cniVersion") {
                list["cniVersion"] = version.clone();
            }
            list
        };
        Self {
            cni: cni.clone(),
            way: Way::Straight,
            conflist,
            cache: Arc::default(),
        }
    }

    /// The same network in the hands of other plugins, as after an upgrade.
    #[must_use]
    pub fn by(&self, cni: &Cni) -> Self {
        Self {
            cni: cni.clone(),
            ..self.clone()
        }
    }

    /// The same network, with system calls, executions and memory counted.
    #[must_use]
    pub fn traced(&self) -> Self {
        Self {
            way: Way::Traced,
            ..self.clone()
        }
    }

    /// The same network in the hands of a runtime whose plugins are killed when
    /// a verb is about to make its `n`-th system call, over all its plugins:
    ///
    /// ```no_run
    /// # use weft_netns::{Attachment, Chain};
    /// # fn matrix(chain: &Chain, who: &Attachment) {
    /// for n in 1.. {
    ///     if chain.killed_at(n).add(who).killed_in.is_none() {
    ///         break;
    ///     }
    ///     chain.del(who).ok();
    ///     // ... and nothing is left
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn killed_at(&self, n: u64) -> Self {
        Self {
            way: Way::KilledAt(n),
            ..self.clone()
        }
    }

    /// The plugins in order, each with its predecessor's result.
    #[track_caller]
    pub fn add(&self, who: &Attachment) -> Run {
        let mut run = Run::default();
        let mut previous = None;
        for plugin in self.plugins() {
            let config = self.config(plugin, Some(who), previous.as_ref());
            if !self.call(&mut run, kind(plugin), Verb::Add, who, &config) {
                return run;
            }
            previous = Some(self.versioned(run.calls.last().map_or(Value::Null, Call::json)));
        }
        let result = previous.unwrap_or(Value::Null);
        run.result = Some(result.clone());
        self.cached().insert(
            key(who),
            Cached {
                who: who.clone(),
                result,
            },
        );
        run
    }

    /// The plugins in order, each with the final result of ADD.
    #[track_caller]
    pub fn check(&self, who: &Attachment) -> Run {
        let mut run = Run::default();
        if self.flag("disableCheck") {
            return run;
        }
        let result = self.result_of(who);
        for plugin in self.plugins() {
            let config = self.config(plugin, Some(who), result.as_ref());
            if !self.call(&mut run, kind(plugin), Verb::Check, who, &config) {
                break;
            }
        }
        run
    }

    /// The plugins in reverse. They get the final result of ADD if the network's
    /// version is 0.4.0 or later, and if there was one. The first failure ends it.
    #[track_caller]
    pub fn del(&self, who: &Attachment) -> Run {
        let mut run = Run::default();
        self.del_into(&mut run, who);
        run
    }

    fn del_into(&self, run: &mut Run, who: &Attachment) {
        let result = self.result_of(who).filter(|_| self.at_least((0, 4)));
        for plugin in self.plugins().rev() {
            let config = self.config(plugin, Some(who), result.as_ref());
            if !self.call(run, kind(plugin), Verb::Del, who, &config) {
                return;
            }
        }
        self.cached().remove(&key(who));
    }

    /// DEL of what is cached and no longer valid, then GC of every plugin with
    /// both forms of the list of what is. A failure does not end it.
    #[track_caller]
    pub fn gc(&self, valid: &[Attachment]) -> Run {
        let mut run = Run::default();
        if self.flag("disableGC") {
            return run;
        }
        let stale: Vec<_> = self
            .cached()
            .values()
            .map(|cached| cached.who.clone())
            .collect();
        for who in stale
            .iter()
            .filter(|who| !valid.iter().any(|other| key(other) == key(who)))
        {
            self.del_into(&mut run, who);
        }
        if self.at_least((1, 1)) {
            for plugin in self.plugins() {
                let config = self.gc_config(plugin, valid);
                self.call(&mut run, kind(plugin), Verb::Gc, &nobody(), &config);
            }
        }
        run
    }

    #[track_caller]
    pub fn status(&self) -> Run {
        let mut run = Run::default();
        for plugin in self.plugins() {
            let config = self.config(plugin, None, None);
            if !self.call(&mut run, kind(plugin), Verb::Status, &nobody(), &config) {
                break;
            }
        }
        run
    }

    /// The chain's single calls of one verb as commands, for those who run them
    /// in their own way (killed half way, traced). `previous` is the result they get.
    #[track_caller]
    pub fn commands(&self, verb: Verb, who: &Attachment, previous: Option<&Value>) -> Vec<Cmd> {
        let command = |plugin: &Value| {
            let config = self.config(plugin, Some(who), previous);
            self.cni.command(kind(plugin), verb, who, &config)
        };
        match verb {
            Verb::Del => self.plugins().rev().map(command).collect(),
            _ => self.plugins().map(command).collect(),
        }
    }

    /// What one plugin of the chain reads on stdin.
    pub fn config(
        &self,
        plugin: &Value,
        who: Option<&Attachment>,
        previous: Option<&Value>,
    ) -> Value {
        let mut config = self.inherit(plugin);
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let offered = who
            .map(|who| runtime_config(plugin, who))
            .unwrap_or_default();
        if !offered.is_empty() {
            config.insert("runtimeConfig".to_owned(), offered.into());
        }
        config.into()
    }

    /// What one plugin of the chain reads on stdin for GC.
    pub fn gc_config(&self, plugin: &Value, valid: &[Attachment]) -> Value {
        let mut config = self.inherit(plugin);
        let entry =
            |who: &Attachment| json!({"containerID": who.container_id, "ifname": who.ifname});
        let valid: Value = valid.iter().map(entry).collect();
        config.insert("cni.dev/valid-attachments".to_owned(), valid.clone());
        config.insert("cni.dev/attachments".to_owned(), valid);
        config.into()
    }

    pub fn plugins(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.conflist["plugins"].as_array().into_iter().flatten()
    }

    pub fn result_of(&self, who: &Attachment) -> Option<Value> {
        self.cached()
            .get(&key(who))
            .map(|cached| cached.result.clone())
    }

    /// One call of one plugin; whether the next one may follow.
    fn call(
        &self,
        run: &mut Run,
        plugin: &str,
        verb: Verb,
        who: &Attachment,
        config: &Value,
    ) -> bool {
        let cmd = || self.cni.command(plugin, verb, who, config);
        let outcome = match self.way {
            _ if run.killed_in.is_some() => return false,
            Way::Straight => return run.push(self.cni.call(plugin, verb, who, config)),
            Way::Traced => Outcome::Finished(trace(&cmd())),
            Way::KilledAt(n) => kill_at_syscall(&cmd(), n - run.syscalls),
        };
        match outcome {
            Outcome::Killed { in_vain, .. } => {
                run.killed_in = Some(plugin.to_owned());
                run.killed_in_vain = in_vain;
                false
            }
            Outcome::Finished(trace) => {
                run.count(&trace);
                run.push(Call {
                    plugin: plugin.to_owned(),
                    verb,
                    done: trace.done,
                })
            }
        }
    }

    fn inherit(&self, plugin: &Value) -> Map<String, Value> {
        let mut config = plugin.as_object().cloned().unwrap_or_default();
        config.insert("name".to_owned(), self.conflist["name"].clone());
        config.insert("cniVersion".to_owned(), self.version().into());
        config
    }

    fn version(&self) -> &str {
        self.conflist["cniVersion"].as_str().unwrap_or_default()
    }

    /// A plugin that answers without a version speaks the network's.
    fn versioned(&self, mut result: Value) -> Value {
        if result.is_object() && result.get("cniVersion").is_none() {
            result["cniVersion"] = self.version().into();
        }
        result
    }

    fn at_least(&self, wanted: (u32, u32)) -> bool {
        let mut parts = self
            .version()
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= wanted
    }

    fn flag(&self, name: &str) -> bool {
        self.conflist[name].as_bool().unwrap_or(false)
    }

    fn cached(&self) -> MutexGuard<'_, BTreeMap<Key, Cached>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calls a verb has led to, in order.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub calls: Vec<Call>,
    pub result: Option<Value>,
    /// The plugin that was killed, if that was asked for and came to pass.
    pub killed_in: Option<String>,
    /// It left just what it would have left one system call earlier.
    pub killed_in_vain: bool,
    /// Counted when the chain is traced: over all plugins and their descendants.
    pub syscalls: u64,
    pub execs: u64,
    pub peak_memory_kib: u64,
}

impl Run {
    /// Itself, or a failed test that shows what the failed plugin said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.killed_in, None, "a plugin was killed");
        if let Some(failed) = self.failed() {
            panic!("{}", failed.describe());
        }
        self
    }

    /// The first call that failed.
    pub fn failed(&self) -> Option<&Call> {
        self.calls.iter().find(|call| !call.done.success())
    }

    /// The final result of ADD.
    #[track_caller]
    pub fn result(self) -> Value {
        self.ok().result.expect("only ADD has a result")
    }

    pub fn wall(&self) -> Duration {
        self.calls.iter().map(|call| call.done.wall).sum()
    }

    pub fn cpu(&self) -> Duration {
        self.calls.iter().map(|call| call.done.cpu).sum()
    }

    fn push(&mut self, call: Call) -> bool {
        let success = call.done.success();
        self.calls.push(call);
        success
    }

    fn count(&mut self, trace: &Trace) {
        self.syscalls += trace.syscalls;
        self.execs += trace.execs;
        self.peak_memory_kib = self.peak_memory_kib.max(trace.peak_memory_kib);
    }
}

fn key(who: &Attachment) -> Key {
    (who.container_id.clone(), who.ifname.clone())
}

fn kind(plugin: &Value) -> &str {
    plugin["type"]
        .as_str()
        .unwrap_or_else(|| panic!("a plugin without a type: {plugin}"))
}

/// Whom GC and STATUS are about.
fn nobody() -> Attachment {
    Attachment {
        container_id: String::new(),
        netns: String::new(),
        ifname: String::new(),
        args: String::new(),
        capabilities: Map::new(),
    }
}

/// What the runtime offers and the plugin has declared.
fn runtime_config(plugin: &Value, who: &Attachment) -> Map<String, Value> {
    let declared = |name: &String| plugin["capabilities"][name].as_bool().unwrap_or(false);
    let offered = who.capabilities.iter().filter(|(name, _)| declared(name));
    offered
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        let plugins = json!([
            {"type": "bridge"},
            {"type": "portmap", "capabilities": {"portMappings": true, "dns": false}},
        ]);
        let list = json!({"name": "n1", "cniVersion": "1.0.0", "plugins": plugins});
        Chain::new(&Cni::debian(), list)
    }

    fn pod() -> Attachment {
        let mut who = nobody();
        who.container_id = "pod".to_owned();
        who.capability("portMappings", json!([{"hostPort": 80}]))
            .capability("dns", json!({}))
    }

    #[test]
    fn a_plugin_inherits_the_networks_name_and_version() {
        let chain = chain();
        let bridge = chain.plugins().next().unwrap();
        let expected = json!({"type": "bridge", "name": "n1", "cniVersion": "1.0.0"});
        assert_eq!(chain.config(bridge, Some(&pod()), None), expected);
    }

    #[test]
    fn only_capabilities_declared_true_are_passed_on() {
        let chain = chain();
        let portmap = chain.plugins().nth(1).unwrap();
        let config = chain.config(portmap, Some(&pod()), None);
        assert_eq!(
            config["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 80}]})
        );
    }

    #[test]
    fn gc_gets_both_spellings_of_the_valid_attachments() {
        let chain = chain();
        let config = chain.gc_config(chain.plugins().next().unwrap(), &[pod()]);
        let valid = json!([{"containerID": "pod", "ifname": ""}]);
        assert_eq!(config["cni.dev/valid-attachments"], valid);
        assert_eq!(config["cni.dev/attachments"], valid);
    }

    #[test]
    fn a_single_configuration_is_a_list_of_one() {
        let chain = Chain::new(&Cni::debian(), json!({"name": "n", "type": "loopback"}));
        let config = chain.config(chain.plugins().next().unwrap(), None, None);
        assert_eq!(
            config,
            json!({"name": "n", "type": "loopback", "cniVersion": ""})
        );
    }
}
