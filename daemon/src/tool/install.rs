//! `weft install` and `weft uninstall`: the plugins and the runtime's configuration on a node.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_plugins::estate::{self, Holder, Registers, Survey};

use super::arguments::Options;
use super::suite;
use super::{FINE, Terminal, WRONG};
use crate::conflist;
use crate::lock::Lock;
#[cfg(feature = "kube")]
use crate::{options, store};

pub(super) fn install(
    options: &Options,
    env: impl Fn(&str) -> Option<String>,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let from = options.from.clone().unwrap_or_else(beside_ourselves);
    let placed = match suite::is_ours(&from) {
        Ok(true) => suite::place(&from, &options.bin_dir).map_err(|error| error.to_string()),
        Ok(false) => Err(format!(
            "{} is not weft-cni: --from names the executable of the plugins",
            from.display()
        )),
        Err(why) => Err(format!(
            "read {}: {why}; --from names the executable of the plugins, weft-cni",
            from.display()
        )),
    };
    match placed {
        Ok(mut changes) => {
            if changes.is_empty() {
                changes.push(format!(
                    "the plugins in {} are those of this version",
                    options.bin_dir.display()
                ));
            }
            tell(options, terminal, &json!({"changed": &changes}), &changes)?;
            Ok(FINE)
        }
        Err(why) => {
            let wrong = format!("install the plugins: {why}");
            writeln!(terminal.err, "weft: {wrong}")?;
            if let Err(silence) = tell_kubernetes(env, wrong) {
                writeln!(terminal.err, "weft: no Event tells of it: {silence}")?;
            }
            Ok(WRONG)
        }
    }
}

/// In a pod, whose log is gone with it. Elsewhere there is nobody to tell.
#[cfg(feature = "kube")]
fn tell_kubernetes(env: impl Fn(&str) -> Option<String>, wrong: String) -> Result<(), String> {
    let weftds = options::Options::parse(["--kube-subnet-mgr".to_owned()], env);
    let Ok(options::Command::Run(weftds)) = weftds else {
        return Ok(());
    };
    match (&weftds.store, &weftds.node.name) {
        (options::Store::Kube(kube), Some(node)) => {
            store::kube::tell(kube, node, "PluginsNotInstalled", wrong)
        }
        _ => Ok(()),
    }
}

#[cfg(not(feature = "kube"))]
fn tell_kubernetes(_: impl Fn(&str) -> Option<String>, _: String) -> Result<(), String> {
    Ok(())
}

pub(super) fn uninstall(options: &Options, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    // It would put back what is taken away.
    let lock = match Lock::take(&options.run_dir) {
        Ok(lock) => lock,
        Err(refusal) => {
            writeln!(terminal.err, "weft: nothing is removed: {refusal}")?;
            return Ok(WRONG);
        }
    };
    let done = Uninstalled::of(options);
    if lock.remove().is_ok() {
        // Not ours alone, or not empty: it stays.
        let _ = fs::remove_dir(&options.run_dir);
    }
    tell(options, terminal, &done.to_json(), &done.lines())?;
    for problem in &done.problems {
        writeln!(terminal.err, "weft: {problem}")?;
    }
    Ok(if done.problems.is_empty() {
        FINE
    } else {
        WRONG
    })
}

#[derive(Default)]
struct Uninstalled {
    changes: Vec<String>,
    serving: Vec<Holder>,
    problems: Vec<String>,
}

impl Uninstalled {
    /// The configuration first, so that no pod comes that the rest would not know of.
    fn of(options: &Options) -> Self {
        let mut done = Self::default();
        done.take(conflist::withdraw(&options.conf_dir).map_err(|e| e.to_string()));
        match estate::survey(&Registers::default()) {
            Ok(survey) => done.release(survey),
            Err(error) => done.problems.push(error.to_string()),
        }
        let is_waited_for = !done.serving.is_empty() || !done.problems.is_empty();
        let plugins = suite::withdraw(&options.bin_dir, is_waited_for);
        done.take(plugins.map_err(|e| e.to_string()));
        done
    }

    fn take(&mut self, changes: Result<Vec<String>, String>) {
        match changes {
            Ok(changes) => self.changes.extend(changes),
            Err(problem) => self.problems.push(problem),
        }
    }

    fn release(&mut self, survey: Survey) {
        let Survey { living, dead } = survey;
        match estate::collect(&living) {
            Ok(()) => {
                let names = dead.iter().map(name);
                self.changes.extend(
                    names.map(|name| {
                        format!("what nftables had of {name}, which is gone, is removed")
                    }),
                );
            }
            Err(error) => self.problems.push(error.to_string()),
        }
        self.serving = living;
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = self.changes.clone();
        let serving = self.serving.iter().map(name);
        lines.extend(serving.map(|name| format!("nftables still serves {name}")));
        if !self.serving.is_empty() {
            lines.push(
                "that stays, and so do plugins that nobody else's has taken the place of: run this \
                 again once those pods are gone"
                    .to_owned(),
            );
        }
        if lines.is_empty() {
            lines.push("there is nothing of weft's here".to_owned());
        }
        lines
    }

    fn to_json(&self) -> Value {
        let serving = self.serving.iter().map(name);
        json!({
            "changed": self.changes,
            "serving": serving.collect::<Vec<_>>(),
            "problems": self.problems,
        })
    }
}

fn name(holder: &Holder) -> String {
    match &holder.owner {
        Some(owner) => format!(
            "container {} ({} on network {})",
            owner.container_id, owner.ifname, owner.network
        ),
        None => format!("the pod marked {}", holder.mark),
    }
}

fn tell(
    options: &Options,
    terminal: &mut Terminal<'_>,
    json: &Value,
    lines: &[String],
) -> io::Result<()> {
    if options.json {
        return writeln!(terminal.out, "{json:#}");
    }
    lines
        .iter()
        .try_for_each(|line| writeln!(terminal.out, "{line}"))
}

/// Where the image has it.
fn beside_ourselves() -> PathBuf {
    let ourselves = env::current_exe().unwrap_or_default();
    ourselves.with_file_name(suite::EXECUTABLE)
}
