//! The plugin as a process: variables and standard input in, one JSON document out.

use std::{
    env,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    panic,
    path::Path,
    process::{ExitCode, exit},
};

use serde_json::{Value, json};

use crate::{Call, Code, Conf, Environment, Error, Plugin, Result, Verb, Version};

/// Programs that parse this line want a version of the reference plugins; ours is its build.
pub const ABOUT_VERSION: &str = concat!("v1.9.1+weft.", env!("CARGO_PKG_VERSION"));

/// Serves the call that this process was started for, as the plugin of `suite` called `name`.
pub fn run(name: &str, suite: &'static [&'static dyn Plugin]) -> ExitCode {
    panic::set_hook(Box::new(answer_panic));
    let Some(plugin) = suite.iter().copied().find(|plugin| plugin.name() == name) else {
        return explain_names(name, suite);
    };
    match env::var("CNI_COMMAND").unwrap_or_default().as_str() {
        "" => about(plugin),
        "VERSION" => print(&format!("{}\n", versions(plugin))),
        command => match serve(plugin, suite, command) {
            Ok(None) => ExitCode::SUCCESS,
            Ok(Some(result)) => print(&format!("{result:#}\n")),
            Err(Failure { error, version }) => fail(&error, version),
        },
    }
}

struct Failure {
    error: Error,
    version: Version,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            version: Version::NEWEST,
        }
    }
}

/// Judges in the order in which the reference plugins do: a runtime's tests may look at the code.
fn serve(
    plugin: &'static dyn Plugin,
    suite: &'static [&'static dyn Plugin],
    command: &str,
) -> std::result::Result<Option<Value>, Failure> {
    let verb = Verb::parse(command);
    let env = verb
        .map(|verb| Environment::read(verb, variable))
        .transpose()?;
    let conf = Conf::parse(&standard_input()?)?;
    let Some(env) = env else {
        return Err(Error::environment(format!("unknown CNI_COMMAND: {command}")).into());
    };
    let version = conf.version();
    let outcome = answer(plugin, &Call { env, conf, suite });
    outcome.map_err(|error| Failure { error, version })
}

/// Bytes that are no text become a character that no name may contain, so that whoever judges the
/// variable refuses it.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn answer(plugin: &dyn Plugin, call: &Call) -> Result<Option<Value>> {
    call.env.judge()?;
    call.conf.require_version(plugin.versions())?;
    let verb = call.env.verb;
    if !verb.known_to(call.version()) {
        return Err(Error::new(
            Code::IncompatibleVersion,
            format!("config version does not allow {}", verb.name()),
        )
        .with_details(format!("\"cniVersion\" is {}", call.version())));
    }
    match verb {
        Verb::Add => {
            refuse_own_namespace(&call.env)?;
            let outcome = plugin.add(call)?;
            return outcome.to_json(call.version()).map(Some);
        }
        Verb::Del => {
            refuse_own_namespace(&call.env)?;
            plugin.del(call)?;
        }
        Verb::Check => plugin.check(call)?,
        Verb::Gc => plugin.gc(call)?,
        Verb::Status => plugin.status(call)?,
    }
    Ok(None)
}

/// A pod whose namespace is the host's would have the host's interfaces rearranged. A path that
/// leads nowhere is left to the verb: DEL must bear it.
fn refuse_own_namespace(env: &Environment) -> Result<()> {
    if env.netns.is_empty() || env.netns_override {
        return Ok(());
    }
    let identity = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    let pod = identity(Path::new(&env.netns));
    if pod.is_none() || pod != identity(Path::new("/proc/self/ns/net")) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidNamespace,
        "plugin's netns and netns from CNI_NETNS should not be the same",
    )
    .with_details(format!(
        "CNI_NETNS is {:?}; CNI_NETNS_OVERRIDE=1 allows it",
        env.netns
    )))
}

fn standard_input() -> Result<Vec<u8>> {
    // Room for an ordinary configuration with its prevResult: one read, and one that finds the end.
    let mut text = Vec::with_capacity(8192);
    io::stdin().lock().read_to_end(&mut text).map_err(|why| {
        Error::io(format!(
            "error reading the network configuration from standard input: {why}"
        ))
    })?;
    Ok(text)
}

fn versions(plugin: &dyn Plugin) -> Value {
    let supported: Vec<&str> = plugin
        .versions()
        .iter()
        .map(|version| version.text())
        .collect();
    json!({"cniVersion": Version::NEWEST.text(), "supportedVersions": supported})
}

/// Said to a person, or to a program that wants to know whom it has: on standard error.
fn about(plugin: &dyn Plugin) -> ExitCode {
    let supported: Vec<&str> = plugin
        .versions()
        .iter()
        .map(|version| version.text())
        .collect();
    eprintln!("CNI {} plugin {ABOUT_VERSION}", plugin.name());
    eprintln!("CNI protocol versions supported: {}", supported.join(", "));
    ExitCode::SUCCESS
}

fn explain_names(name: &str, suite: &[&dyn Plugin]) -> ExitCode {
    let names: Vec<&str> = suite.iter().map(|plugin| plugin.name()).collect();
    let names = names.join(", ");
    let why = format!("{name:?} is no plugin: this program is installed under the names {names}");
    if env::var_os("CNI_COMMAND").is_none() {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    fail(&Error::internal(why), Version::NEWEST)
}

fn fail(error: &Error, version: Version) -> ExitCode {
    print(&format!("{:#}\n", error.to_json(version.text())));
    ExitCode::FAILURE
}

/// A runtime reads standard output and nothing else, so nothing else may write there.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Nothing here panics; should it, the runtime still gets an error that it can read.
fn answer_panic(panic: &panic::PanicHookInfo<'_>) {
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let why = panic.payload_as_str().unwrap_or("no reason given");
    let error = Error::internal(format!("this is a defect of the plugin: {why} at {place}"))
        .with_details("please report it with the network configuration");
    fail(&error, Version::NEWEST);
    exit(1)
}
