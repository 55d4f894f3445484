//! The log: lines on stderr, for people or as JSON. No regular expressions and no colours, which
//! would be most of its weight.

use std::fmt;
use std::io;
use std::time::SystemTime;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt;

use crate::options::{Log, LogFormat};
use crate::rfc3339::Utc;

/// For the whole process. A second call changes nothing.
pub fn init(log: Log) {
    tracing::subscriber::set_global_default(subscriber(log, io::stderr)).ok();
}

fn subscriber<W>(log: Log, to: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry().with(filter(log.verbosity));
    let lines = layer().with_writer(to).with_timer(Clock);
    match log.format {
        LogFormat::Text => Box::new(registry.with(lines)),
        LogFormat::Json => {
            let json = lines.json().flatten_event(true);
            Box::new(registry.with(json.with_current_span(false).with_span_list(false)))
        }
    }
}

/// Others' libraries have their say only where something is wrong, however much is asked of us.
fn filter(verbosity: i64) -> Targets {
    let level = match verbosity {
        ..=0 => LevelFilter::INFO,
        1..=3 => LevelFilter::DEBUG,
        4.. => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(LevelFilter::WARN)
        // It calls each attempt of an outage an error, and we tell of the outage once.
        .with_target("kube_client", LevelFilter::OFF)
        .with_target(OUR_CRATES, level)
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        write!(to, "{}", Utc::of(SystemTime::now()))
    }
}

/// What the names of all our crates and programs begin with.
const OUR_CRATES: &str = "weft";

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of events of ours and of a library's, at each level.
    fn logged(format: LogFormat, verbosity: i64) -> Vec<String> {
        let lines = Lines::default();
        let to = lines.clone();
        let log = Log { format, verbosity };
        tracing::subscriber::with_default(subscriber(log, move || to.clone()), || {
            tracing::trace!("our trace");
            tracing::debug!("our debug");
            tracing::info!(subnet = "10.5.3.0/24", "our info");
            tracing::error!("ours \x1b[31m red");
            tracing::trace!(target: "h2::codec", "their trace");
            tracing::info!(target: "h2::codec", "their info");
            tracing::warn!(target: "tonic", "their warning");
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_logged(verbosity: i64, expected: &[&str]) {
        let lines = logged(LogFormat::Text, verbosity);
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn verbosity_is_for_our_own_code() {
        let always = ["our info", "ours", "their warning"];
        assert_logged(-1, &always);
        assert_logged(0, &always);
        let debug = [&["our debug"], &always[..]].concat();
        assert_logged(1, &debug);
        assert_logged(3, &debug);
        let trace = [&["our trace"], &debug[..]].concat();
        assert_logged(4, &trace);
        assert_logged(10, &trace);
    }

    #[test]
    fn a_line_begins_with_the_moment_and_commands_no_terminal() {
        let lines = logged(LogFormat::Text, 0);
        let (moment, rest) = lines[0].split_at("2026-01-31T08:15:30.123456Z".len());
        assert!(
            moment.starts_with("20") && moment.ends_with('Z'),
            "{moment}"
        );
        assert!(rest.contains(" INFO weft_daemon::logging") && rest.contains("10.5.3.0/24"));
        assert!(!lines.iter().any(|line| line.contains('\x1b')), "{lines:?}");
    }

    #[test]
    fn as_json_each_line_is_an_object() {
        let lines = logged(LogFormat::Json, 0);
        let first: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(first["message"], "our info");
        assert_eq!(first["subnet"], "10.5.3.0/24");
        assert_eq!(first["level"], "INFO");
        assert!(first["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(lines.len(), 3);
    }
}
