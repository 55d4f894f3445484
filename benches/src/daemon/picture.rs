//! The run as a picture: a group of bars for every figure, each group on a scale of its own.
use weft_benches::drawing::{count, text};
use weft_benches::report::{Figure, Report, number, place_of};

const NAMES: [(&str, &str); 6] = [
    ("weft", "weftd"),
    ("floor", "ip and bridge -batch"),
    ("batch", "one netlink batch"),
    ("serial", "flanneld's serial work"),
    ("idle", "peers at rest"),
    ("churn", "50 changes a second"),
];

const WIDTH: f64 = 860.0;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 44.0;
const BAR: f64 = 11.0;
const GAP: f64 = 10.0;
const HEADING: f64 = 24.0;

pub(crate) fn svg(report: &Report) -> String {
    let mut y = TOP;
    let mut body = String::new();
    for (row, title) in &report.rows {
        let mut whats: Vec<&str> = Vec::new();
        for figure in report.figures.iter().filter(|figure| figure.row == *row) {
            if !whats.contains(&&*figure.what) {
                whats.push(&figure.what);
            }
        }
        if whats.is_empty() {
            continue;
        }
        y += HEADING;
        body += &text(LEFT, y - 8.0, "start", "h", title);
        for what in whats {
            let figures = figures(report, row, what);
            body += &group(y, what, &figures);
            y += BAR * count(figures.len().max(2)) + GAP;
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
    let unit = figures.first().map_or("", |figure| figure.unit.name());
    let mut drawn = text(LEFT - 10.0, top + 9.0, "end", "t", what);
    drawn += &text(LEFT - 10.0, top + 20.0, "end", "v", unit);
    for (at, figure) in figures.iter().enumerate() {
        let y = top + BAR * count(at);
        let (who, median) = (&figure.who, figure.samples.median());
        let width = (median / largest).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
        let value = number(median);
        drawn += &format!(
            "<rect class=\"{who}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\">\
             <title>{who}: median {value} {unit}</title></rect>\n",
            BAR - 2.0
        );
        drawn += &text(LEFT + width + 5.0, y + 8.5, "start", "v", &value);
    }
    drawn
}

/// Of those that took part.
fn legend(report: &Report) -> String {
    let mut legend = String::new();
    let mut x = 40.0;
    for (class, name) in NAMES {
        if !report.figures.iter().any(|figure| figure.who == class) {
            continue;
        }
        legend +=
            &format!("<rect class=\"{class}\" x=\"{x}\" y=\"18\" width=\"11\" height=\"11\"/>");
        legend += &text(x + 16.0, 28.0, "start", "t", name);
        x += 34.0 + 6.5 * count(name.len());
    }
    legend
}

fn frame(bottom: f64, legend: &str, body: &str) -> String {
    let height = bottom + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\" \
         aria-label=\"What a daemon of an overlay network takes, medians; less is better\">\n\
         <style>{STYLE}</style>\n<rect class=\"b\" width=\"100%\" height=\"100%\"/>\n\
         {legend}{body}</svg>\n"
    )
}

const STYLE: &str = ".b{fill:#fff}.t{font-size:12px;fill:#24292f}.v{font-size:10px;fill:#57606a}\
.h{font-size:13px;font-weight:600;fill:#24292f}.weft,.churn{fill:#0a7f6f}.floor{fill:#9fd8cf}\
.batch,.idle{fill:#b8bfc6}.serial{fill:#d29922}\
@media(prefers-color-scheme:dark){.b{fill:#0d1117}.t,.h{fill:#e6edf3}.v{fill:#9198a1}\
.weft,.churn{fill:#2dd4bf}.floor{fill:#1b6f66}.batch,.idle{fill:#565d66}.serial{fill:#bb8009}}";

#[cfg(test)]
mod tests {
    use super::*;
    use weft_benches::report::Unit;

    #[test]
    fn every_figure_has_a_bar_and_only_who_took_part_is_in_the_legend() {
        let mut report = Report::default();
        report.rows.push(("converge", "a start"));
        for (who, took) in [("weft", 1.0), ("serial", 4.0)] {
            report.sample("converge", "1,000 peers", who, Unit::Milliseconds, took);
        }
        let svg = svg(&report);
        assert_eq!(svg.matches("<title>").count(), 2);
        assert!(svg.contains("serial work") && !svg.contains("-batch"));
    }
}
