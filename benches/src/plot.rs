//! The report as a picture: bars on a logarithmic axis, drawn by hand.
use weft_benches::drawing::{count, text};

use crate::report::{Figure, Report, Unit, number, place_of};

/// The figures worth a bar, and what to call them.
const GROUPS: &[(&str, &str, &str)] = &[
    ("chain", "ADD", "ADD: bridge + host-local + portmap"),
    ("chain", "DEL", "DEL: bridge + host-local + portmap"),
    ("chain", "ADD CPU", "CPU of ADD"),
    ("chain", "DEL CPU", "CPU of DEL"),
    ("cold", "ADD", "first ADD, page cache empty"),
    ("parallel", "ADD of all", "200 pods added, 32 at a time"),
    ("parallel", "DEL of all", "200 pods deleted, 32 at a time"),
    (
        "host-local",
        "ADD, 0 taken",
        "host-local ADD, no address taken",
    ),
    (
        "host-local",
        "ADD, 5000 taken",
        "host-local ADD, 5,000 addresses taken",
    ),
    (
        "host-local",
        "ADD, 60000 taken",
        "host-local ADD, 60,000 addresses taken",
    ),
    ("start", "VERSION", "process start"),
];

const WIDTH: f64 = 860.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 80.0;
const TOP: f64 = 56.0;
const BAR: f64 = 11.0;
const GAP: f64 = 12.0;

pub(crate) fn svg(report: &Report) -> String {
    let groups: Vec<(&str, Vec<&Figure>)> = GROUPS
        .iter()
        .map(|(row, what, title)| (*title, figures(report, row, what)))
        .filter(|(_, figures)| !figures.is_empty())
        .collect();
    let bars = groups.iter().flat_map(|(_, figures)| figures);
    let values: Vec<f64> = bars.map(|figure| figure.samples.median()).collect();
    let axis = Axis::around(&values);

    let mut y = TOP;
    let mut body = String::new();
    for (title, figures) in &groups {
        let height = BAR * count(figures.len());
        let middle = y + height / 2.0 + 4.0;
        body += &text(LEFT - 12.0, middle, "end", "t", title);
        for figure in figures {
            body += &bar(&axis, y, figure);
            y += BAR;
        }
        y += GAP;
    }
    frame(y, &axis.grid(y), &body)
}

fn figures<'a>(report: &'a Report, row: &str, what: &str) -> Vec<&'a Figure> {
    let wanted = |f: &&Figure| f.row == row && f.what == what && f.unit == Unit::Milliseconds;
    let mut figures: Vec<_> = report.figures.iter().filter(wanted).collect();
    figures.sort_by_key(|figure| place_of(&figure.who));
    figures
}

fn bar(axis: &Axis, y: f64, figure: &Figure) -> String {
    let (who, median) = (&figure.who, figure.samples.median());
    let width = axis.place(median) - LEFT;
    let height = BAR - 2.0;
    let label = text(LEFT + width + 5.0, y + 8.5, "start", "v", &time(median));
    format!(
        "<rect class=\"{who}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\">\
         <title>{who}: median {}, minimum {}</title></rect>\n{label}",
        time(median),
        time(figure.samples.min()),
    )
}

/// Powers of ten.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn around(values: &[f64]) -> Self {
        let positive = || values.iter().copied().filter(|v| *v > 0.0 && v.is_finite());
        let smallest = positive().fold(1.0, f64::min);
        let largest = positive().fold(10.0, f64::max);
        #[allow(clippy::cast_possible_truncation, reason = "exponents are small")]
        let (from, to) = (
            smallest.log10().floor() as i32,
            largest.log10().ceil() as i32,
        );
        Self { from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn grid(&self, bottom: f64) -> String {
        let mut lines = String::new();
        for power in self.from..=self.to {
            let value = 10_f64.powi(power);
            let x = self.place(value);
            lines += &format!(
                "<line class=\"g\" x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n",
                TOP - 6.0
            );
            lines += &text(x, bottom + 14.0, "middle", "v", &time(value));
        }
        lines
    }
}

/// As one would say it: 0.5 ms, 36.7 s.
fn time(milliseconds: f64) -> String {
    let (value, unit) = if milliseconds >= 1000.0 {
        (milliseconds / 1000.0, "s")
    } else {
        (milliseconds, "ms")
    };
    let text = number(value);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} {unit}")
}

fn frame(bottom: f64, grid: &str, body: &str) -> String {
    let height = bottom + 26.0;
    let mut legend = String::new();
    let mut x = LEFT;
    for (class, name) in [
        ("weft", "weft"),
        ("floor", "the floor"),
        ("go", "Go plugins 1.1.1"),
        ("netavark", "netavark 1.4.0"),
    ] {
        legend +=
            &format!("<rect class=\"{class}\" x=\"{x}\" y=\"22\" width=\"11\" height=\"11\"/>");
        legend += &text(x + 16.0, 32.0, "start", "t", name);
        x += 34.0 + 7.0 * count(name.len());
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\" \
         aria-label=\"Wall and CPU time of whole processes, medians, logarithmic\">\n\
         <style>{STYLE}</style>\n<rect class=\"b\" width=\"100%\" height=\"100%\"/>\n\
         {legend}{grid}{body}</svg>\n"
    )
}

const STYLE: &str = ".b{fill:#fff}.t{font-size:12px;fill:#24292f}.v{font-size:10px;fill:#57606a}\
.g{stroke:#d8dee4}.weft{fill:#0a7f6f}.floor{fill:#9fd8cf}.go{fill:#6e7781}.netavark{fill:#b8bfc6}\
@media(prefers-color-scheme:dark){.b{fill:#0d1117}.t{fill:#e6edf3}.v{fill:#9198a1}\
.g{stroke:#30363d}.weft{fill:#2dd4bf}.floor{fill:#1b6f66}.go{fill:#8b949e}.netavark{fill:#565d66}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_a_bar_for_each_contestant_of_a_figure() {
        let mut report = Report::default();
        for (who, value) in [("weft", 2.0), ("go", 60.0)] {
            report.sample("chain", "ADD", who, Unit::Milliseconds, value);
        }
        let svg = svg(&report);
        assert_eq!(svg.matches("<title>").count(), 2);
        assert!(svg.contains("60 ms"));
    }

    #[test]
    fn the_axis_spans_whole_powers_of_ten() {
        let axis = Axis::around(&[0.4, 170.0]);
        assert_eq!((axis.from, axis.to), (-1, 3));
    }
}
