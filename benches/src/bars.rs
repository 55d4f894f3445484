//! A report as a picture: a group of bars for every figure, each group on a scale of its own.
use crate::drawing::{count, text};
use crate::report::{Figure, Report, number, place_of};

/// What one picture has of its own.
#[derive(Debug)]
pub struct Picture<'a> {
    /// For those who cannot see it.
    pub label: &'a str,
    /// The contestants, as reports know them, with what to call them and how to fill their bars:
    /// on a light ground and on a dark one.
    pub legend: &'a [(&'a str, &'a str, [&'a str; 2])],
    /// How wide the figures' names are.
    pub left: f64,
}

const WIDTH: f64 = 860.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 44.0;
const BAR: f64 = 11.0;
const GAP: f64 = 10.0;
const HEADING: f64 = 24.0;

impl Picture<'_> {
    /// Of each row the figures that are `shown`, in the order they were measured in.
    pub fn svg(&self, report: &Report, shown: impl Fn(&Figure) -> bool) -> String {
        let mut y = TOP;
        let mut body = String::new();
        for (row, title) in &report.rows {
            let figures = report.figures.iter();
            let figures: Vec<_> = figures.filter(|it| it.row == *row && shown(it)).collect();
            if figures.is_empty() {
                continue;
            }
            y += HEADING;
            body += &text(self.left, y - 8.0, "start", "h", title);
            for group in groups(&figures) {
                body += &self.group(y, &group);
                y += BAR * count(group.len().max(2)) + GAP;
            }
        }
        self.frame(y, &self.legend(report), &body)
    }

    fn group(&self, top: f64, figures: &[&Figure]) -> String {
        let Some(first) = figures.first() else {
            return String::new();
        };
        let unit = first.unit.name();
        let medians = figures.iter().map(|figure| figure.samples.median());
        let largest = medians.fold(f64::MIN_POSITIVE, f64::max);
        let middle = top + BAR * count(figures.len().max(2)) / 2.0;
        let mut drawn = text(self.left - 10.0, middle - 2.0, "end", "t", &first.what);
        let wish = if first.unit.is_cost() {
            "less is better"
        } else {
            ""
        };
        let note = [unit, wish].map(str::to_owned).join(" ");
        drawn += &text(self.left - 10.0, middle + 10.0, "end", "v", note.trim());
        for (at, figure) in figures.iter().enumerate() {
            let y = top + BAR * count(at);
            let (who, median) = (&figure.who, figure.samples.median());
            let width = (median / largest).clamp(0.0, 1.0) * (WIDTH - self.left - RIGHT);
            let value = number(median);
            drawn += &format!(
                "<rect class=\"{who}\" x=\"{}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\">\
                 <title>{who}: median {value} {unit}</title></rect>\n",
                self.left,
                BAR - 2.0
            );
            drawn += &text(self.left + width + 5.0, y + 8.5, "start", "v", &value);
        }
        drawn
    }

    /// Of those that took part.
    fn legend(&self, report: &Report) -> String {
        let mut legend = String::new();
        let mut x = 40.0;
        for (class, name, _) in self.legend {
            if !report.figures.iter().any(|figure| figure.who == *class) {
                continue;
            }
            legend +=
                &format!("<rect class=\"{class}\" x=\"{x}\" y=\"18\" width=\"11\" height=\"11\"/>");
            legend += &text(x + 16.0, 28.0, "start", "t", name);
            x += 36.0 + 6.7 * count(name.len());
        }
        legend
    }

    fn frame(&self, bottom: f64, legend: &str, body: &str) -> String {
        let height = bottom + 10.0;
        let fills = |ground: usize| -> String {
            let fill = |(class, _, fills): &(&str, &str, [&str; 2])| {
                format!(".{class}{{fill:{}}}", fills[ground])
            };
            self.legend.iter().map(fill).collect()
        };
        let (light, dark, label) = (fills(0), fills(1), self.label);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"{label}\">\n\
             <style>{LIGHT}{light}\
             @media(prefers-color-scheme:dark){{{DARK}{dark}}}</style>\n\
             <rect class=\"b\" width=\"100%\" height=\"100%\"/>\n{legend}{body}</svg>\n"
        )
    }
}

/// Those of one name together, in the order in which the contestants are shown.
fn groups<'a>(figures: &[&'a Figure]) -> Vec<Vec<&'a Figure>> {
    let mut groups: Vec<Vec<&Figure>> = Vec::new();
    for figure in figures {
        let known = groups.iter_mut().find(|group| group[0].what == figure.what);
        match known {
            Some(group) => group.push(figure),
            None => groups.push(vec![figure]),
        }
    }
    for group in &mut groups {
        group.sort_by_key(|figure| place_of(&figure.who));
    }
    groups
}

const LIGHT: &str = ".b{fill:#fff}.t{font-size:12px;fill:#24292f}.v{font-size:10px;fill:#57606a}\
.h{font-size:13px;font-weight:600;fill:#24292f}";
const DARK: &str = ".b{fill:#0d1117}.t,.h{fill:#e6edf3}.v{fill:#9198a1}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Unit;

    const PICTURE: Picture<'static> = Picture {
        label: "a test",
        legend: &[
            ("fast", "ours", ["#0a7f6f", "#2dd4bf"]),
            ("vxlan", "theirs", ["#57606a", "#9aa4ae"]),
            ("absent", "nobody's", ["#000", "#fff"]),
        ],
        left: 230.0,
    };

    #[test]
    fn every_group_is_drawn_on_its_own_scale() {
        let mut report = Report::default();
        report.rows.push(("virtual", "virtual wire"));
        for (who, rate) in [("fast", 16.0), ("vxlan", 8.0)] {
            report.sample("virtual", "TCP 1 stream", who, Unit::GbitPerSecond, rate);
            report.sample("virtual", "loss", who, Unit::Percent, rate);
        }
        report.sample("virtual", "64 B loss-free", "fast", Unit::PerSecond, 1e5);
        let svg = PICTURE.svg(&report, |figure| figure.unit != Unit::Percent);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert_eq!(svg.matches("width=\"520.0\"").count(), 2);
        assert_eq!(svg.matches("width=\"260.0\"").count(), 1);
    }

    #[test]
    fn only_who_took_part_is_in_the_legend() {
        let mut report = Report::default();
        report.rows.push(("virtual", "virtual wire"));
        report.sample("virtual", "trip", "fast", Unit::Microseconds, 40.0);
        let svg = PICTURE.svg(&report, |_| true);
        assert!(svg.contains("ours") && !svg.contains("nobody"), "{svg}");
        assert!(svg.contains("µs less is better"), "{svg}");
    }
}
