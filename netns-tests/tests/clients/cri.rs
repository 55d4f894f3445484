//! What a kubelet asks of a container runtime (CRI, runtime.v1), as far as pods
//! and their network need it.
use std::path::PathBuf;

use crate::grpc;
use crate::image::{IMAGE, PROGRAM};
use crate::protobuf::{Message, all, number, text};

/// A runtime's socket, and the cgroup for its pods.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    pub(crate) socket: PathBuf,
    pub(crate) cgroup: String,
}

/// A pod to run: its mappings are (container port, host port).
#[derive(Clone, Debug, Default)]
pub(crate) struct PodSpec {
    pub(crate) name: String,
    pub(crate) tcp: Vec<(u16, u16)>,
    pub(crate) udp: Vec<(u16, u16)>,
}

const UDP: u64 = 1;

impl Cri {
    /// The conditions of the runtime that do not hold, each with its reason.
    pub(crate) fn unready(&self) -> Result<Vec<String>, String> {
        let answer = self.call("Status", &Message::new())?;
        let status = all(&answer, 1).next().unwrap_or_default();
        let unmet = all(status, 1).filter(|condition| number(condition, 2) == 0);
        Ok(unmet
            .map(|condition| [1, 3, 4].map(|field| text(condition, field)).join(", "))
            .collect())
    }

    pub(crate) fn run_pod_sandbox(&self, pod: &PodSpec) -> Result<String, String> {
        let request = Message::new().message(1, &self.sandbox_config(pod));
        self.call("RunPodSandbox", &request)
            .map(|answer| text(&answer, 1))
    }

    /// The pod's first address.
    pub(crate) fn pod_address(&self, sandbox: &str) -> Result<String, String> {
        let answer = self.call("PodSandboxStatus", &Message::new().text(1, sandbox))?;
        let status = all(&answer, 1).next().unwrap_or_default();
        Ok(text(all(status, 5).next().unwrap_or_default(), 1))
    }

    pub(crate) fn stop_pod_sandbox(&self, sandbox: &str) -> Result<(), String> {
        self.call("StopPodSandbox", &Message::new().text(1, sandbox))
            .map(drop)
    }

    pub(crate) fn remove_pod_sandbox(&self, sandbox: &str) -> Result<(), String> {
        self.call("RemovePodSandbox", &Message::new().text(1, sandbox))
            .map(drop)
    }

    /// Creates and starts a container; its identifier.
    pub(crate) fn run_container(
        &self,
        sandbox: &str,
        pod: &PodSpec,
        args: &[&str],
    ) -> Result<String, String> {
        let metadata = Message::new().text(1, "server");
        let config = Message::new()
            .message(1, &metadata)
            .message(2, &Message::new().text(1, IMAGE))
            .texts(4, args);
        let request = Message::new()
            .text(1, sandbox)
            .message(2, &config)
            .message(3, &self.sandbox_config(pod));
        let container = text(&self.call("CreateContainer", &request)?, 1);
        self.call("StartContainer", &Message::new().text(1, &container))?;
        Ok(container)
    }

    /// Runs the container's program once more, inside; what it printed.
    pub(crate) fn exec(&self, container: &str, args: &[&str]) -> Result<String, String> {
        let request = Message::new()
            .text(1, container)
            .text(2, PROGRAM)
            .texts(2, args)
            .number(3, 10);
        let answer = self.call("ExecSync", &request)?;
        match number(&answer, 3) {
            0 => Ok(text(&answer, 1)),
            code => Err(format!(
                "{args:?} inside: exit code {code}: {}",
                text(&answer, 2)
            )),
        }
    }

    fn sandbox_config(&self, pod: &PodSpec) -> Message {
        let metadata = Message::new()
            .text(1, &pod.name)
            .text(2, &format!("uid-of-{}", pod.name))
            .text(3, "weft");
        let linux = Message::new().text(1, &self.cgroup);
        let tcp = pod.tcp.iter().map(|ports| (0, ports));
        let udp = pod.udp.iter().map(|ports| (UDP, ports));
        let config = Message::new().message(1, &metadata).text(2, &pod.name);
        let config = tcp
            .chain(udp)
            .fold(config, |config, (protocol, (inside, outside))| {
                let mapping = Message::new()
                    .number(1, protocol)
                    .number(2, (*inside).into())
                    .number(3, (*outside).into());
                config.message(5, &mapping)
            });
        config.message(8, &linux)
    }

    fn call(&self, method: &str, request: &Message) -> Result<Vec<u8>, String> {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        match grpc::call(&self.socket, &path, request) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(format!("{method} was refused")),
            Err(e) => Err(format!("{method}: {e}")),
        }
    }
}
