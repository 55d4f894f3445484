//! Calls that must fail, and how: the right code, words that name the object, one JSON document
//! and nothing else, soon, and a node on which nothing has changed.
pub(crate) mod tables;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use weft_netns::{Cmd, Cni, Done, Netns, Snapshot, Verb, Watch};

/// Within this an answer must be there.
const SOON: Duration = Duration::from_secs(1);

pub(crate) const PLUGINS: [&str; 5] = ["bridge", "host-local", "portmap", "loopback", "flannel"];
pub(crate) const VERBS: [Verb; 5] = [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status];

/// One wrong call of one plugin.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    plugin: &'static str,
    command: OsString,
    stdin: Vec<u8>,
    env: Vec<(&'static str, Option<OsString>)>,
    expected: Expected,
}

#[derive(Clone, Debug)]
enum Expected {
    /// With this code, and a message and details that contain these words.
    Failure(u64, Vec<String>),
    /// It is to be borne.
    Success,
    /// Either, as long as it is said properly.
    Anything,
}

impl Bad {
    pub(crate) fn call(plugin: &'static str, verb: Verb, conf: &Value) -> Self {
        Self::raw(plugin, verb, conf.to_string())
    }

    pub(crate) fn raw(plugin: &'static str, verb: Verb, stdin: impl Into<Vec<u8>>) -> Self {
        Self {
            plugin,
            command: verb.name().into(),
            stdin: stdin.into(),
            env: Vec::new(),
            expected: Expected::Anything,
        }
    }

    #[must_use]
    pub(crate) fn command(mut self, command: &str) -> Self {
        self.command = command.into();
        self
    }

    #[must_use]
    pub(crate) fn env(mut self, key: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key, Some(value.as_ref().to_owned())));
        self
    }

    #[must_use]
    pub(crate) fn without(mut self, key: &'static str) -> Self {
        self.env.push((key, None));
        self
    }

    #[must_use]
    pub(crate) fn fails(mut self, code: u64, says: &[&str]) -> Self {
        let says = says.iter().map(|word| (*word).to_owned());
        self.expected = Expected::Failure(code, says.collect());
        self
    }

    #[must_use]
    pub(crate) fn borne(mut self) -> Self {
        self.expected = Expected::Success;
        self
    }

    pub(crate) fn is(&self, verb: Verb) -> bool {
        self.command == verb.name()
    }

    fn run(&self, pod: &Netns) -> Done {
        let mut env: Vec<(&str, OsString)> = vec![
            ("CNI_COMMAND", self.command.clone()),
            ("CNI_CONTAINERID", "bad".into()),
            ("CNI_NETNS", pod.path().into()),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_ARGS", "".into()),
            ("CNI_PATH", Cni::weft_dir().into()),
        ];
        for (key, value) in &self.env {
            env.retain(|(name, _)| name != key);
            env.extend(value.clone().map(|value| (*key, value)));
        }
        let program = Cmd::new(Cni::weft_dir().join(self.plugin)).stdin(self.stdin.clone());
        env.into_iter()
            .fold(program, |cmd, (key, value)| cmd.env(key, value))
            .run()
    }

    /// What is wrong with the answer.
    fn complaints(&self, done: &Done) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut expect = |holds: bool, what: &str| {
            if !holds {
                complaints.push(what.to_owned());
            }
        };
        expect(
            !format!("{}{}", done.stdout, done.stderr).contains("panicked")
                && !done.stdout.contains("defect of the plugin"),
            "it panicked",
        );
        match (&self.expected, done.code()) {
            (Expected::Success, Some(0)) => {}
            (Expected::Success, _) => expect(false, "it should be borne"),
            (Expected::Anything, Some(0)) => {}
            (Expected::Failure(..) | Expected::Anything, Some(1)) => {
                let Ok(error) = serde_json::from_str::<Value>(&done.stdout) else {
                    expect(false, "stdout is not one JSON document");
                    return complaints;
                };
                let text = |key: &str| error[key].as_str().unwrap_or_default();
                let said = format!("{} {}", text("msg"), text("details"));
                expect(!text("msg").is_empty(), "there is no message");
                if let Expected::Failure(code, words) = &self.expected {
                    expect(error["code"] == *code, &format!("the code is not {code}"));
                    for word in words {
                        expect(
                            said.contains(word.as_str()),
                            &format!("{word:?} is not named"),
                        );
                    }
                }
            }
            _ => expect(false, "exit code"),
        }
        complaints
    }

    fn describe(&self) -> String {
        let stdin = String::from_utf8_lossy(&self.stdin);
        let stdin: String = stdin.chars().take(300).collect();
        let command = self.command.to_string_lossy();
        format!("{} {command} {:?} < {stdin}", self.plugin, self.env)
    }
}

/// A node on which wrong calls are made.
pub(crate) struct Judge<'a> {
    pod: &'a Netns,
    before: Snapshot,
    verdict: String,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(pod: &'a Netns) -> Self {
        let before = Watch::node().netns(pod).take();
        Self {
            pod,
            before,
            verdict: String::new(),
        }
    }

    /// Makes the calls, then looks at the node.
    pub(crate) fn judge(&mut self, calls: impl IntoIterator<Item = Bad>) {
        let mut made = String::new();
        for call in calls {
            self.run(&call);
            let _ = writeln!(made, "  {}", call.describe());
        }
        // Which address is next is remembered, and shall be.
        let kept = |fact: &str| fact.contains("last_reserved_ip") || fact.contains("/.weft");
        let left = self.before.difference(&self.look()).except(kept);
        if !left.is_empty() {
            let _ = writeln!(self.verdict, "\nthis is left:\n{left} by one of\n{made}");
            self.look_again();
        }
    }

    /// Makes a call that may change the node.
    pub(crate) fn run(&mut self, call: &Bad) {
        let mut done = call.run(self.pod);
        if done.wall > SOON {
            // The machine may have had other things to do: not twice.
            done = call.run(self.pod);
        }
        let mut complaints = call.complaints(&done);
        if done.wall > SOON {
            complaints.push(format!("it took {:?}", done.wall));
        }
        for complaint in complaints {
            let (call, Done { stdout, stderr, .. }) = (call.describe(), &done);
            let _ = writeln!(self.verdict, "\n{call}\n  {complaint}:\n{stdout}{stderr}");
        }
    }

    /// The node is as it should be now.
    pub(crate) fn look_again(&mut self) {
        self.before = self.look();
    }

    fn look(&self) -> Snapshot {
        Watch::node().netns(self.pod).take()
    }

    #[track_caller]
    pub(crate) fn done(self) {
        assert!(self.verdict.is_empty(), "{}", self.verdict);
    }
}

/// `conf` with some keys changed. The key `...` stands for the rest of what was there.
pub(crate) fn with(conf: &Value, change: &Value) -> Value {
    let mut conf = conf.clone();
    for (key, value) in change.as_object().expect("an object") {
        let mut value = value.clone();
        if value
            .as_object_mut()
            .is_some_and(|value| value.remove("...").is_some())
        {
            value = with(&conf[key], &value);
        }
        conf[key] = value;
    }
    conf
}

/// A configuration with which every verb of the plugin works.
pub(crate) fn good(plugin: &str) -> Value {
    let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin});
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]]});
    let prev = json!({"cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}],
        "ips": [{"interface": 0, "address": "10.22.0.5/24"}]});
    match plugin {
        "bridge" => with(
            &conf,
            &json!({"isGateway": true, "ipMasq": true, "ipam": ipam}),
        ),
        "host-local" => with(&conf, &json!({"ipam": ipam})),
        "portmap" => with(
            &conf,
            &json!({"prevResult": prev,
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
        ),
        _ => conf,
    }
}
