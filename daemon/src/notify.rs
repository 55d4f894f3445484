//! What systemd wants to hear (sd_notify's protocol): ready, status, stopping, still alive, and who
//! is the daemon by now.

mod keeper;

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

pub use keeper::{Keeper, kept};

/// Says nothing where nobody listens.
#[derive(Debug, Default)]
pub struct Notifier {
    listener: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// `env` answers None for what is not set. The error says what of it makes no sense.
    pub fn open(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let Some(name) = env("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let told = |why: io::Error| format!("NOTIFY_SOCKET={name}: {why}; systemd is not notified");
        let address = address(&name).map_err(told)?;
        let socket = UnixDatagram::unbound().map_err(told)?;
        // A service manager that does not listen must not hold up a node.
        socket.set_nonblocking(true).map_err(told)?;
        Ok(Self {
            listener: Some((socket, address)),
            watchdog: watchdog(&env),
        })
    }

    pub fn ready(&self) -> io::Result<()> {
        self.say("READY=1")
    }

    pub fn status(&self, text: &str) -> io::Result<()> {
        self.say(&format!("STATUS={}", text.replace(['\n', '\r'], " ")))
    }

    /// Where another has taken our place: our end is not the service's. Only who is the service's
    /// main process may say who is it from then on.
    pub fn main_process(&self, pid: u32) -> io::Result<()> {
        self.say(&format!("MAINPID={pid}"))
    }

    /// Who keeps descriptors for the next run.
    pub fn keeper(&self) -> Keeper {
        let address = self.listener.as_ref().map(|(_, address)| address.clone());
        Keeper::at(address)
    }

    pub fn stopping(&self) -> io::Result<()> {
        self.say("STOPPING=1")
    }

    /// To be said every [`Self::watchdog`].
    pub fn alive(&self) -> io::Result<()> {
        self.say("WATCHDOG=1")
    }

    /// How often to tell that we are alive: twice as often as must be. None: nobody asks.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    fn say(&self, line: &str) -> io::Result<()> {
        match &self.listener {
            Some((socket, address)) => socket.send_to_addr(line.as_bytes(), address).map(drop),
            None => Ok(()),
        }
    }
}

/// A path, or `@` and a name that no file has.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "neither a path nor an abstract name",
        )),
    }
}

fn watchdog(env: &impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let micros: u64 = env("WATCHDOG_USEC")?.trim().parse().ok()?;
    let is_for_us = match env("WATCHDOG_PID").filter(|pid| !pid.is_empty()) {
        Some(pid) => pid.trim().parse() == Ok(std::process::id()),
        None => true,
    };
    let half = Duration::from_micros(micros / 2);
    (is_for_us && !half.is_zero()).then_some(half)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Notifier, String> {
        Notifier::open(|name| {
            let pair = pairs.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        })
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn where_nobody_listens_nothing_is_said() {
        let silent = from(&[]).unwrap();
        silent.ready().unwrap();
        assert_eq!(silent.watchdog(), None);
    }

    #[test]
    fn a_listener_with_a_path_hears_each_word() {
        let path = std::env::temp_dir().join(format!("weft-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixDatagram::bind(&path).unwrap();
        let notifier = from(&[("NOTIFY_SOCKET", path.to_str().unwrap())]).unwrap();
        notifier.ready().unwrap();
        assert_eq!(heard(&listener), "READY=1");
        notifier.status("5 peers\nREADY=0").unwrap();
        assert_eq!(heard(&listener), "STATUS=5 peers READY=0");
        notifier.alive().unwrap();
        assert_eq!(heard(&listener), "WATCHDOG=1");
        notifier.stopping().unwrap();
        assert_eq!(heard(&listener), "STOPPING=1");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_listener_with_an_abstract_name_hears_too() {
        let name = format!("weft-notify-{}", std::process::id());
        let listener =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = from(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap();
        notifier.ready().unwrap();
        assert_eq!(heard(&listener), "READY=1");
    }

    #[test]
    fn a_listener_that_reads_nothing_holds_nobody_up() {
        let name = format!("weft-notify-full-{}", std::process::id());
        let _listener =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = from(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap();
        let full = (0..100_000).find_map(|_| notifier.alive().err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_it_must_be() {
        let socket = ("NOTIFY_SOCKET", "/run/systemd/notify");
        let asked = |more: &[(&str, &str)]| from(&[&[socket], more].concat()).unwrap().watchdog();
        let usec = ("WATCHDOG_USEC", "30000000");
        assert_eq!(asked(&[usec]), Some(Duration::from_secs(15)));
        let ours = std::process::id().to_string();
        assert!(asked(&[usec, ("WATCHDOG_PID", &ours)]).is_some());
        assert_eq!(asked(&[usec, ("WATCHDOG_PID", "1")]), None);
        assert_eq!(asked(&[("WATCHDOG_USEC", "often")]), None);
        assert_eq!(asked(&[("WATCHDOG_USEC", "0")]), None);
    }

    #[test]
    fn a_socket_that_makes_no_sense_is_told() {
        let why = from(&[("NOTIFY_SOCKET", "vsock:2:1234")]).unwrap_err();
        assert!(why.contains("NOTIFY_SOCKET=vsock:2:1234"), "{why}");
    }

    proptest! {
        #[test]
        fn no_environment_makes_it_panic(socket: String, usec: String) {
            let _ = from(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", &usec)]);
        }
    }
}
