//! The run as a picture: a group of bars for every figure, each group on a scale of its own.
use super::Contestant::{self, HostGw, Naive, Ours, Vxlan, WireguardGo};
use crate::drawing::{count, text};
use crate::report::{Figure, Report, Unit, number, place_of};

const CONTESTANTS: [(Contestant, &str); 6] = [
    (Ours("fast"), "weft, fast"),
    (Ours("plain"), "weft, plain"),
    (Vxlan, "kernel VXLAN"),
    (HostGw, "host-gw"),
    (Naive, "naive loop"),
    (WireguardGo, "wireguard-go"),
];
const FIGURES: [&str; 10] = [
    "TCP 1 stream",
    "TCP 4 streams",
    "TCP 16 streams",
    "CPU of TCP 4 streams",
    "64 B loss-free",
    "64 B flooded",
    "1400 B loss-free",
    "round trip p50",
    "round trip p99",
    "round trip p99.9",
];

const WIDTH: f64 = 860.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 44.0;
const BAR: f64 = 11.0;
const GAP: f64 = 10.0;
const HEADING: f64 = 24.0;

pub(super) fn svg(report: &Report) -> String {
    let mut y = TOP;
    let mut body = String::new();
    for (row, title) in &report.rows {
        let groups: Vec<(&str, Vec<&Figure>)> = FIGURES
            .iter()
            .map(|what| (*what, figures(report, row, what)))
            .filter(|(_, figures)| !figures.is_empty())
            .collect();
        if groups.is_empty() {
            continue;
        }
        y += HEADING;
        body += &text(LEFT, y - 8.0, "start", "h", title);
        for (what, figures) in groups {
            body += &group(y, what, &figures);
            y += BAR * count(figures.len()) + GAP;
        }
    }
    frame(y, &legend(report), &body)
}

fn figures<'a>(report: &'a Report, row: &str, what: &str) -> Vec<&'a Figure> {
    let wanted = |figure: &&Figure| figure.row == row && figure.what == what;
    let mut figures: Vec<_> = report.figures.iter().filter(wanted).collect();
    figures.sort_by_key(|figure| place_of(&figure.who));
    figures
}

fn group(top: f64, what: &str, figures: &[&Figure]) -> String {
    let medians = figures.iter().map(|figure| figure.samples.median());
    let largest = medians.fold(f64::MIN_POSITIVE, f64::max);
    let unit = figures.first().map_or(Unit::Count, |figure| figure.unit);
    let wish = match unit {
        Unit::Microseconds | Unit::MillisecondsPerGbit => ", less is better",
        _ => "",
    };
    let middle = top + BAR * count(figures.len()) / 2.0 + 3.0;
    let mut drawn = text(LEFT - 10.0, middle, "end", "t", what);
    let note = format!("{}{wish}", unit.name());
    drawn += &text(LEFT - 10.0, middle + 12.0, "end", "v", &note);
    for (at, figure) in figures.iter().enumerate() {
        let y = top + BAR * count(at);
        let (who, median) = (&figure.who, figure.samples.median());
        let width = (median / largest).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
        let value = number(median);
        drawn += &format!(
            "<rect class=\"{who}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\">\
             <title>{who}: median {value} {}</title></rect>\n",
            BAR - 2.0,
            unit.name()
        );
        drawn += &text(LEFT + width + 5.0, y + 8.5, "start", "v", &value);
    }
    drawn
}

/// Of those that took part.
fn legend(report: &Report) -> String {
    let mut legend = String::new();
    let mut x = 40.0;
    for (contestant, name) in CONTESTANTS {
        let class = contestant.name();
        if !report.figures.iter().any(|figure| figure.who == class) {
            continue;
        }
        legend +=
            &format!("<rect class=\"{class}\" x=\"{x}\" y=\"18\" width=\"11\" height=\"11\"/>");
        legend += &text(x + 16.0, 28.0, "start", "t", name);
        x += 40.0 + 7.0 * count(name.len());
    }
    legend
}

fn frame(bottom: f64, legend: &str, body: &str) -> String {
    let height = bottom + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\" \
         aria-label=\"Packet paths between two nodes, medians\">\n\
         <style>{STYLE}</style>\n<rect class=\"b\" width=\"100%\" height=\"100%\"/>\n\
         {legend}{body}</svg>\n"
    )
}

const STYLE: &str = ".b{fill:#fff}.t{font-size:12px;fill:#24292f}.v{font-size:10px;fill:#57606a}\
.h{font-size:13px;font-weight:600;fill:#24292f}.fast{fill:#0a7f6f}.plain{fill:#9fd8cf}\
.vxlan{fill:#57606a}.host-gw{fill:#b8bfc6}.naive{fill:#d29922}.wireguard{fill:#a475c9}\
@media(prefers-color-scheme:dark){.b{fill:#0d1117}.t,.h{fill:#e6edf3}.v{fill:#9198a1}\
.fast{fill:#2dd4bf}.plain{fill:#1b6f66}.vxlan{fill:#9aa4ae}.host-gw{fill:#565d66}\
.naive{fill:#bb8009}.wireguard{fill:#8957e5}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_drawn_on_its_own_scale() {
        let mut report = Report::default();
        report.rows.push(("virtual", "virtual wire"));
        for (who, rate) in [("fast", 16.0), ("vxlan", 8.0)] {
            report.sample("virtual", "TCP 1 stream", who, Unit::GbitPerSecond, rate);
        }
        report.sample("virtual", "64 B loss-free", "fast", Unit::PerSecond, 1e5);
        let svg = svg(&report);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert_eq!(svg.matches("width=\"520.0\"").count(), 2);
        assert_eq!(svg.matches("width=\"260.0\"").count(), 1);
    }
}
