//! Bytes by TCP, and what moving them costs the machine.
use serde_json::Value;

use super::{Side, Site, cpu};

pub(crate) const IPERF_PORT: u16 = 5201;
/// Fixed, because a machine's default may pace: BBR holds one stream to half of what it could do.
const CONGESTION_CONTROL: &str = "cubic";

#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub gbit_per_second: f64,
    /// Processor time of the whole machine.
    pub cpu_ms_per_gbit: f64,
}

/// From the first pod to the second, for so many seconds.
#[track_caller]
pub fn stream(site: &Site, streams: u16, seconds: u16) -> Stream {
    let (from, to) = (&site.one, &site.two);
    let before = cpu::busy();
    let answer = iperf(from, to, streams, seconds);
    let busy = cpu::busy() - before;
    let received = &answer["end"]["sum_received"];
    let number = |name: &str| {
        let number = received[name].as_f64();
        number.unwrap_or_else(|| panic!("iperf3 does not say {name} received: {answer}"))
    };
    Stream {
        gbit_per_second: number("bits_per_second") / 1e9,
        cpu_ms_per_gbit: busy.as_secs_f64() * 1e3 / (number("bytes") * 8.0 / 1e9),
    }
}

fn iperf(from: &Side, to: &Side, streams: u16, seconds: u16) -> Value {
    let command = from.pod.command("iperf3");
    let done = command
        .args(["-c", &to.pod_address().to_string(), "-J"])
        .args(["-p", &IPERF_PORT.to_string(), "-C", CONGESTION_CONTROL])
        .args(["-t", &seconds.to_string(), "-P", &streams.to_string()])
        .args(["--connect-timeout", "3000"])
        .run();
    let done = done.ok();
    serde_json::from_str(&done.stdout).expect("iperf3 -J answers in JSON")
}
