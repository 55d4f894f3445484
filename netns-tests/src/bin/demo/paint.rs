//! How things look: colours on a terminal only, headings, durations.
use std::io::IsTerminal;
use std::time::Duration;

pub(crate) fn good(text: &str) -> String {
    paint("32", text)
}

pub(crate) fn bad(text: &str) -> String {
    paint("1;31", text)
}

pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

fn paint(code: &str, text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    format!("\x1b[{code}m{text}\x1b[0m")
}

pub(crate) fn heading(what: &str) {
    println!("\n  {}\n", bold(what));
}

/// A duration as a reader takes it in: 3.1 ms, 240 µs.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        micros @ 1000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        micros => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}
