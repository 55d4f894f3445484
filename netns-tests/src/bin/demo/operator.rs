//! Somebody at a node's shell, who changes things by hand.
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::node::Node;

/// `ip`, for several lines: who is still there when a repair is told can be named for certain.
pub(crate) struct Operator {
    ip: Child,
    keyboard: Option<ChildStdin>,
}

impl Operator {
    pub(crate) fn at(node: &Node) -> Self {
        let start = || {
            let mut ip = Command::new("ip");
            ip.args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            ip.spawn()
                .unwrap_or_else(|e| panic!("cannot start ip ({e}): install iproute2"))
        };
        let mut ip = node.enter(start);
        let keyboard = ip.stdin.take();
        Self { ip, keyboard }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.ip.id()
    }

    /// Without the word `ip` itself.
    pub(crate) fn types(&mut self, line: &str) {
        let keyboard = self
            .keyboard
            .as_mut()
            .expect("an operator who has not left");
        writeln!(keyboard, "{line}").unwrap_or_else(|e| panic!("cannot type ip {line}: {e}"));
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.keyboard = None;
        let done = self.ip.wait();
        if !std::thread::panicking() {
            let well = done.as_ref().is_ok_and(std::process::ExitStatus::success);
            assert!(well, "ip has failed: {done:?}");
        }
    }
}
