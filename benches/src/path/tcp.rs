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

/// From the first pod to the second, for so many seconds. What iperf3 fails to tell once (it does,
/// now and then, when its control connection has to get through a flood) is asked again.
#[track_caller]
pub fn stream(site: &Site, streams: u16, seconds: u16) -> Stream {
    let told = measure(site, streams, seconds).or_else(|why| {
        eprintln!("iperf3 is asked again: {why}");
        measure(site, streams, seconds)
    });
    told.unwrap_or_else(|why| panic!("{}: {why}", site.contestant.name()))
}

fn measure(site: &Site, streams: u16, seconds: u16) -> Result<Stream, String> {
    let before = cpu::busy();
    let answer = iperf(&site.one, &site.two, streams, seconds)?;
    let busy = cpu::busy() - before;
    let received = |name: &str| {
        let number = answer["end"]["sum_received"][name].as_f64();
        let number = number.filter(|number| *number > 0.0);
        number.ok_or_else(|| format!("it does not say {name} received: {}", answer["end"]))
    };
    Ok(Stream {
        gbit_per_second: received("bits_per_second")? / 1e9,
        cpu_ms_per_gbit: busy.as_secs_f64() * 1e3 / (received("bytes")? * 8.0 / 1e9),
    })
}

fn iperf(from: &Side, to: &Side, streams: u16, seconds: u16) -> Result<Value, String> {
    let command = from.pod.command("iperf3");
    let done = command
        .args(["-c", &to.pod_address().to_string(), "-J"])
        .args(["-p", &IPERF_PORT.to_string(), "-C", CONGESTION_CONTROL])
        .args(["-t", &seconds.to_string(), "-P", &streams.to_string()])
        .args(["--connect-timeout", "3000"])
        .run();
    let answer: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    if done.success() {
        return Ok(answer);
    }
    Err(format!(
        "{}; {}{}",
        done.how(),
        answer["error"],
        done.stderr
    ))
}
